"""The published layouts, in small synthetic copies and (where it is) in the real folder."""

import csv
from collections import Counter
from collections.abc import Iterable
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from fovea.errors import TrainingError
from fovea.tasks import FUNDUS_LABELS, TASKS
from training.datasets import Sample
from training.sources import read as read_for

COLOURS = count(1)


def read(root: Path) -> list[Sample]:
    """What a task about fundus photographs finds."""
    return read_for(root, TASKS["retina"])


def picture(path: Path, colour: int | None = None) -> Path:
    """A file of few pixels, in the format of its suffix, unlike every other unless `colour` says otherwise."""
    number = next(COLOURS) if colour is None else colour
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[::2], pixels[1::2] = (number % 256, number // 256, 40), (number % 7 * 30, 200, number % 256)
    Pillow.fromarray(pixels).save(path, {".tif": "TIFF", ".gif": "GIF", ".png": "PNG"}.get(path.suffix, "JPEG"))
    return path


def grades(path: Path, rows: dict[str, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8-sig") as lines:
        table = csv.writer(lines)
        table.writerow(("Image name", "Retinopathy grade", "Risk of macular edema ", "", ""))
        table.writerows((f"{name} ", grade, 0, "", "") for name, grade in rows.items())


def labels(samples: Iterable[Sample]) -> dict[str, str | None]:
    return {sample.path.name: sample.label for sample in samples}


def below(root: Path, path: Path | None) -> str | None:
    return path.relative_to(root).as_posix() if path else None


@pytest.fixture
def hrf(tmp_path: Path) -> Path:
    for name, kind in (("01_h", ".jpg"), ("01_dr", ".JPG"), ("01_g", ".jpg"), ("02_h", ".png")):
        picture(tmp_path / "HRF" / "images" / f"{name}{kind}")
        picture(tmp_path / "HRF" / "manual1" / f"{name}.tif")
    picture(tmp_path / "HRF" / "mask" / "01_h_mask.tif")
    (tmp_path / "HRF" / "images" / "Thumbs.db").write_bytes(b"no picture")
    return tmp_path


@pytest.fixture
def chase(tmp_path: Path) -> Path:
    for name in ("01L", "01R", "14L"):
        picture(tmp_path / "CHASE" / f"Image_{name}.jpg")
        picture(tmp_path / "CHASE" / f"Image_{name}_1stHO.png")
        picture(tmp_path / "CHASE" / f"Image_{name}_2ndHO.png")
    picture(tmp_path / "CHASE" / "fov_masks_lwnet" / "Image_01L.gif")
    return tmp_path


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    for half, number in (("training", "21"), ("training", "22"), ("test", "01"), ("test", "02")):
        folder = tmp_path / "DRIVE" / half
        picture(folder / "images" / f"{number}_{half}.tif")
        picture(folder / "1st_manual" / f"{number}_manual1.gif")
        picture(folder / "mask" / f"{number}_{half}_mask.gif")
    picture(tmp_path / "DRIVE" / "test" / "2nd_manual" / "01_manual2.gif")
    return tmp_path


TRAINING, TESTING = {"IDRiD_001": 3, "IDRiD_002": 0, "IDRiD_003": 1}, {"IDRiD_001": 0, "IDRiD_002": 2}
PUBLISHED = {
    "zip": ("B. Disease Grading/1. Original Images", "B. Disease Grading/2. Groundtruths"),
    "zip in its own folder": (
        "IDRiD/B. Disease Grading/1. Original Images",
        "IDRiD/B. Disease Grading/2. Groundtruths",
    ),
    "halves beside groundtruths": ("IDRiD/1. Original Images", "IDRiD/Groundtruths"),
}


@pytest.fixture(params=list(PUBLISHED.values()), ids=list(PUBLISHED))
def idrid(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    images, tables = request.param
    for half, numbers in (("a. Training Set", TRAINING), ("b. Testing Set", TESTING)):
        for name in numbers:
            picture(tmp_path / images / half / f"{name}.jpg")
    grades(tmp_path / tables / "a. IDRiD_Disease Grading_Training Labels.csv", TRAINING)
    grades(tmp_path / tables / "b. IDRiD_Disease Grading_Testing Labels.csv", TESTING)
    return tmp_path


@pytest.fixture
def palm(tmp_path: Path) -> Path:
    for name in ("P0001", "P0002", "N0001", "H0001"):
        picture(tmp_path / "PALM" / "PALM-Training400" / f"{name}.jpg")
    return tmp_path


def test_hrf_gives_label_vessels_and_field_of_view(hrf: Path) -> None:
    samples = read(hrf)
    assert labels(samples) == {
        "01_h.jpg": "Normal",
        "01_dr.JPG": "DiabeticRetinopathy",
        "01_g.jpg": "Glaucoma",
        "02_h.png": "Normal",
    }
    assert {below(hrf, s.vessels) for s in samples} == {f"HRF/manual1/{s.path.stem}.tif" for s in samples}
    assert [below(hrf, s.field_of_view) for s in samples if s.field_of_view] == ["HRF/mask/01_h_mask.tif"]
    assert len({s.patient for s in samples}) == 4  # 01_h and 02_h are two people, and so are 01_h and 01_g
    assert {s.dataset for s in samples} == {"HRF"}


def test_chase_joins_the_two_eyes_of_a_child_and_has_two_observers(chase: Path) -> None:
    samples = {s.path.stem: s for s in read(chase)}
    assert list(samples) == ["Image_01L", "Image_01R", "Image_14L"]
    assert samples["Image_01L"].patient == samples["Image_01R"].patient != samples["Image_14L"].patient
    for stem, sample in samples.items():
        assert below(chase, sample.vessels) == f"CHASE/{stem}_1stHO.png"
        assert below(chase, sample.second_observer) == f"CHASE/{stem}_2ndHO.png"
        assert sample.label is None
    assert below(chase, samples["Image_01L"].field_of_view) == "CHASE/fov_masks_lwnet/Image_01L.gif"
    assert samples["Image_14L"].field_of_view is None


def test_drive_gives_both_halves_and_the_second_observer_of_the_test_half(drive: Path) -> None:
    samples = {s.path.name: s for s in read(drive)}
    assert sorted(samples) == ["01_test.tif", "02_test.tif", "21_training.tif", "22_training.tif"]
    trained = samples["21_training.tif"]
    assert below(drive, trained.vessels) == "DRIVE/training/1st_manual/21_manual1.gif"
    assert below(drive, trained.field_of_view) == "DRIVE/training/mask/21_training_mask.gif"
    assert trained.second_observer is None
    assert below(drive, samples["01_test.tif"].second_observer) == "DRIVE/test/2nd_manual/01_manual2.gif"
    assert len({s.patient for s in samples.values()}) == 4
    assert {s.label for s in samples.values()} == {None}


def test_idrid_keeps_the_same_number_of_its_two_halves_apart(idrid: Path) -> None:
    found = {(s.path.parent.name, s.path.stem): s for s in read(idrid)}
    assert {key: sample.label for key, sample in found.items()} == {
        ("a. Training Set", "IDRiD_001"): "DiabeticRetinopathy",
        ("a. Training Set", "IDRiD_002"): "Normal",
        ("a. Training Set", "IDRiD_003"): None,  # grade 1, mild
        ("b. Testing Set", "IDRiD_001"): "Normal",
        ("b. Testing Set", "IDRiD_002"): "DiabeticRetinopathy",
    }
    assert len({s.patient for s in found.values()}) == 5


def test_idrid_in_a_flat_folder_is_the_training_half_and_each_photograph_is_read_once(tmp_path: Path) -> None:
    grades(tmp_path / "groundtruths" / "a. IDRiD_Disease Grading_Training Labels.csv", TRAINING)
    grades(tmp_path / "groundtruths" / "b. IDRiD_Disease Grading_Testing Labels.csv", TESTING)
    for name in (*TRAINING, "IDRiD_999"):
        picture(tmp_path / "quarter" / f"{name}.jpg")
    picture(tmp_path / "full" / "IDRiD_001.jpg")
    samples = read(tmp_path)
    assert labels(samples) == {"IDRiD_001.jpg": "DiabeticRetinopathy", "IDRiD_002.jpg": "Normal", "IDRiD_003.jpg": None}
    assert next(s for s in samples if s.path.stem == "IDRiD_001").path.parent.name == "full"
    assert all(s.patient.startswith("IDRiD/training/") for s in samples)


def test_a_word_in_the_path_above_the_set_makes_no_photograph_a_testing_one(tmp_path: Path) -> None:
    root = tmp_path / "testing the reader"
    grades(root / "groundtruths" / "a. IDRiD_Disease Grading_Training Labels.csv", TRAINING)
    picture(root / "quarter" / "IDRiD_001.jpg")
    (sample,) = read(root)
    assert (sample.label, sample.patient) == ("DiabeticRetinopathy", "IDRiD/training/IDRiD_001")


def test_the_other_parts_of_idrid_are_not_read_twice(tmp_path: Path) -> None:
    """The localisation part holds the same photographs again, under the same names."""
    for part in ("B. Disease Grading", "C. Localization"):
        picture(tmp_path / part / "1. Original Images" / "a. Training Set" / "IDRiD_001.jpg")
    tables = tmp_path / "B. Disease Grading" / "2. Groundtruths"
    grades(tables / "a. IDRiD_Disease Grading_Training Labels.csv", TRAINING)
    (sample,) = read(tmp_path)
    assert sample.path.relative_to(tmp_path).parts[0] == "B. Disease Grading"


def test_palm_says_nothing_of_high_myopia(palm: Path) -> None:
    samples = read(palm)
    assert labels(samples) == {"H0001.jpg": None, "N0001.jpg": "Normal", "P0001.jpg": "Myopia", "P0002.jpg": "Myopia"}
    assert len({s.patient for s in samples}) == 4


@pytest.mark.parametrize("folder", [".", "mine", "given/by/clinic"])
def test_one_folder_per_class_is_read_wherever_it_lies_with_its_masks(tmp_path: Path, folder: str) -> None:
    home = tmp_path / folder
    for label in FUNDUS_LABELS:
        picture(home / label / f"{label}1__left.jpg")
        picture(home / label / f"{label}1__right.jpg")
        picture(home / label / f"{label}2.png")
    picture(home / "vessels" / "Normal2.png")
    picture(home / "field_of_view" / "Normal2.png")
    samples = {s.path.name: s for s in read(tmp_path)}
    assert Counter(s.label for s in samples.values()) == dict.fromkeys(FUNDUS_LABELS, 3)
    assert (
        samples["Normal1__left.jpg"].patient == samples["Normal1__right.jpg"].patient != samples["Normal2.png"].patient
    )
    assert below(home, samples["Normal2.png"].vessels) == "vessels/Normal2.png"
    assert below(home, samples["Normal2.png"].field_of_view) == "field_of_view/Normal2.png"
    assert samples["Normal1__left.jpg"].vessels is None
    assert {s.dataset for s in samples.values()} == {home.resolve().name}


def test_several_sets_below_one_folder_are_read_together_each_photograph_once(
    hrf: Path, chase: Path, drive: Path, palm: Path
) -> None:
    assert hrf == chase == drive == palm
    samples = read(hrf)
    assert Counter(s.dataset for s in samples) == {"HRF": 4, "CHASE_DB1": 3, "DRIVE": 4, "PALM": 4}
    assert len({s.path for s in samples}) == len(samples)
    assert [s.path for s in samples] == sorted(s.path for s in samples)


@pytest.mark.parametrize("content", [(), ("holiday/beach.jpg",), ("images/cat.jpg", "manual1/cat.tif")])
def test_an_unknown_folder_is_refused_with_the_layouts_that_are_known(tmp_path: Path, content: tuple[str, ...]) -> None:
    for name in content:
        picture(tmp_path / name)
    with pytest.raises(
        TrainingError, match=r"HRF, CHASE_DB1, DRIVE, IDRiD, PALM, .*, or one folder per class"
    ) as caught:
        read(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_missing_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="absent is no folder"):
        read(tmp_path / "absent")


def test_a_damaged_table_of_grades_is_refused_by_name(tmp_path: Path) -> None:
    picture(tmp_path / "quarter" / "IDRiD_001.jpg")
    table = tmp_path / "groundtruths" / "a. IDRiD_Disease Grading_Training Labels.csv"
    table.parent.mkdir()
    table.write_bytes(b"Image name,Retinopathy grade\nIDRiD_001\xff\xfe,2\n")
    with pytest.raises(TrainingError, match="Training Labels"):
        read(tmp_path)


@pytest.mark.data
def test_the_real_folder_holds_what_its_readme_says(data: Path) -> None:
    samples = read(data)
    assert Counter(s.dataset for s in samples) == {"HRF": 36, "CHASE_DB1": 28, "IDRiD": 72, "PALM": 400}
    assert sum(s.dataset == "HRF" and s.vessels is not None for s in samples) == 34
    chase = [s for s in samples if s.dataset == "CHASE_DB1"]
    assert len({s.patient for s in chase}) == 14
    assert all(s.vessels and s.second_observer for s in chase)
    assert Counter(s.label for s in samples if s.dataset == "HRF") == {
        "Normal": 12,
        "DiabeticRetinopathy": 12,
        "Glaucoma": 12,
    }
