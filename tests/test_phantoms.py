"""Phantoms: reproducible, well-formed, and showing what their signs say."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from fovea import pixels
from fovea.errors import TrainingError
from fovea.phantoms import Phantom, Signs, fundus
from fovea.spec import Task
from fovea.tasks import FUNDUS, TASKS
from training.phantoms import signs

SEEDS = (0, 1, 2, 3)
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def healthy() -> dict[int, Phantom]:
    return {seed: fundus(seed) for seed in SEEDS}


def changed(one: Phantom, other: Phantom) -> tuple[int, float]:
    """How many pixels differ visibly between two pictures, and the mean change of green over them."""
    difference = other.picture.astype(np.int16) - one.picture
    seen = np.abs(difference).max(axis=2) > 12
    return int(seen.sum()), float(difference[..., 1][seen].mean())


def test_same_seed_gives_the_same_phantom(healthy: dict[int, Phantom]) -> None:
    again = fundus(1)
    assert np.array_equal(again.picture, healthy[1].picture)
    assert np.array_equal(again.vessels, healthy[1].vessels)
    assert np.array_equal(again.field_of_view, healthy[1].field_of_view)
    assert again.encoded() == healthy[1].encoded()


def test_different_seeds_give_different_eyes_and_cameras(healthy: dict[int, Phantom]) -> None:
    for one, other in pairwise(SEEDS):
        assert np.mean(healthy[one].vessels != healthy[other].vessels) > 0.05
    colours = [made.picture[made.field_of_view == 1].mean(axis=0) for made in healthy.values()]
    assert np.ptp(colours, axis=0).min() > 3


def test_disc_lies_left_in_some_eyes_and_right_in_others() -> None:
    small = [fundus(seed, height=146, width=164) for seed in range(8)]
    brightest = [cv2.GaussianBlur(made.picture[..., 1], (0, 0), 4).argmax() % 164 for made in small]
    assert min(brightest) < 60
    assert max(brightest) > 104


@pytest.mark.parametrize(("height", "width"), [(584, 656), (146, 164), (300, 200)])
def test_arrays_have_the_size_asked_for_and_the_declared_values(height: int, width: int) -> None:
    made = fundus(5, height=height, width=width)
    assert made.picture.shape == (height, width, 3)
    assert made.vessels.shape == made.field_of_view.shape == (height, width)
    assert made.picture.dtype == made.vessels.dtype == made.field_of_view.dtype == np.uint8
    assert set(np.unique(made.vessels)) == {0, 255}
    assert set(np.unique(made.field_of_view)) == {0, 1}


def test_png_keeps_every_pixel_and_jpeg_nearly(healthy: dict[int, Phantom]) -> None:
    picture = healthy[0].picture
    assert np.array_equal(pixels.decode(healthy[0].encoded("png")).picture, picture)
    decoded = pixels.decode(healthy[0].encoded("jpg")).picture
    assert decoded.shape == picture.shape
    assert np.abs(decoded.astype(np.int16) - picture).mean() < 3


@pytest.mark.parametrize("task", [task for task in TASKS.values() if "fundus" in task.modalities], ids=lambda t: t.name)
def test_preprocessing_frames_the_field_of_view(task: Task, healthy: dict[int, Phantom]) -> None:
    for made in healthy.values():
        picture, frame = pixels.preprocess(made.encoded(), task.image)
        assert picture.shape == (task.image.side, task.image.side, 3)
        rows, columns = np.nonzero(made.field_of_view)
        slack = 4  # the rim is feathered, so the outermost pixels are dark
        assert abs(frame.left - columns.min()) <= slack
        assert abs(frame.top - rows.min()) <= slack
        assert abs(frame.left + frame.width - 1 - columns.max()) <= slack
        assert abs(frame.top + frame.height - 1 - rows.max()) <= slack


def test_picture_is_black_outside_the_field_of_view_and_lit_inside(healthy: dict[int, Phantom]) -> None:
    for made in healthy.values():
        assert made.picture[made.field_of_view == 0].max() == 0
        well_inside = cv2.erode(made.field_of_view, np.ones((9, 9), np.uint8)) == 1
        assert made.picture[well_inside].max(axis=1).min() > 25


def test_vessels_lie_in_the_field_of_view_and_fill_a_tenth_of_it(healthy: dict[int, Phantom]) -> None:
    for made in healthy.values():
        assert not made.vessels[made.field_of_view == 0].any()
        assert 0.09 < np.mean(made.vessels[made.field_of_view == 1] == 255) < 0.15


def test_vessels_reach_all_quadrants_but_not_the_fovea(healthy: dict[int, Phantom]) -> None:
    for made in healthy.values():
        height, width = made.vessels.shape
        for rows in (slice(0, height // 2), slice(height // 2, height)):
            for columns in (slice(0, width // 2), slice(width // 2, width)):
                inside = made.field_of_view[rows, columns] == 1
                assert np.mean(made.vessels[rows, columns][inside] == 255) > 0.04
        clearance = cv2.distanceTransform(255 - made.vessels, cv2.DIST_L2, 3)
        assert clearance[height // 2 - 60 : height // 2 + 60, width // 2 - 60 : width // 2 + 60].max() > 20


def test_vessels_are_darker_than_their_surround_in_green(healthy: dict[int, Phantom]) -> None:
    for made in healthy.values():
        green = made.picture[..., 1].astype(np.float32)
        vessel = made.vessels == 255
        near = cv2.dilate(made.vessels, np.ones((13, 13), np.uint8)) == 255
        touched = cv2.dilate(made.vessels, np.ones((5, 5), np.uint8)) == 255
        inside = cv2.erode(made.field_of_view, np.ones((9, 9), np.uint8)) == 1
        surround = float(np.median(green[near & ~touched & inside]))
        wide = cv2.erode(made.vessels, np.ones((3, 3), np.uint8)) == 255
        assert 0.10 < 1 - np.median(green[vessel & inside]) / surround < 0.35
        assert 0.18 < 1 - np.median(green[wide & inside]) / surround < 0.50


@pytest.mark.parametrize("seed", SEEDS[:2])
@pytest.mark.parametrize(
    ("shown", "at_least", "brighter"),
    [
        (Signs(dots=20), 150, False),
        (Signs(blots=6), 300, False),
        (Signs(exudates=20), 400, True),
        (Signs(cup=0.8), 500, True),
        (Signs(crescent=0.5), 700, True),
        (Signs(tessellation=0.7), 20_000, True),
    ],
    ids=["dots", "blots", "exudates", "cup", "crescent", "tessellation"],
)
def test_each_sign_changes_the_picture_and_never_the_vessels(
    seed: int, shown: Signs, at_least: int, brighter: bool, healthy: dict[int, Phantom]
) -> None:
    made = fundus(seed, shown)
    count, green = changed(healthy[seed], made)
    assert count > at_least
    assert (green > 0) == brighter
    assert np.array_equal(made.vessels, healthy[seed].vessels)


def test_more_of_a_sign_changes_more_of_the_picture(healthy: dict[int, Phantom]) -> None:
    few, many = (changed(healthy[0], fundus(0, Signs(blots=count)))[0] for count in (3, 12))
    assert many > 2 * few


def test_every_label_has_its_own_signs() -> None:
    drawn = {label: signs("fundus", label, np.random.default_rng(3)) for label in FUNDUS.labels}
    assert len(set(drawn.values())) == len(FUNDUS.labels)
    normal = drawn["Normal"]
    assert isinstance(normal, Signs)
    assert (normal.dots, normal.blots, normal.exudates, normal.crescent) == (0, 0, 0, 0)
    with pytest.raises(TrainingError, match="Unheard"):
        signs("fundus", "Unheard", np.random.default_rng(3))


def test_program_writes_photographs_and_masks_that_match(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "training.phantoms", str(tmp_path), "--count", "1", "--seed", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    folder = tmp_path / "phantoms"
    assert done.stdout == f"4 phantoms, seed 3, in {folder}\n"
    photographs = [path for label in FUNDUS.labels for path in (folder / label).iterdir()]
    assert len(photographs) == len({path.stem for path in photographs}) == 4
    for path in photographs:
        made = fundus(int(path.stem))
        vessels, inside = (
            pixels.decode((folder / mask / f"{path.stem}.png").read_bytes()).picture[..., 0]
            for mask in ("vessels", "field_of_view")
        )
        assert np.array_equal(vessels, made.vessels)
        assert np.array_equal(inside, made.field_of_view * 255)
        assert pixels.decode(path.read_bytes()).picture.shape == made.picture.shape


def test_program_refuses_a_count_of_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "training.phantoms", str(tmp_path), "--count", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "--count" in done.stderr
    assert not list(tmp_path.iterdir())
