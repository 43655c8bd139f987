"""The probes see what they claim to see, and nothing else."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from fovea import pixels
from fovea.errors import TrainingError
from fovea.spec import Image
from training import confounds, metrics
from training.datasets import Sample
from training.splits import Entry, Split

LABELS = ("Disease", "Normal")
SIDE = 96
IMAGE = Image(side=SIDE, crop="field_of_view")
SEED = 7


def fundus(border: float, centre: float, generator: np.random.Generator, aperture: float = 1.0) -> pixels.Picture:
    """A noisy lit disc: `border` and `centre` are the red of rim and middle, `aperture` cuts it at top and bottom."""
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5 - SIDE / 2
    radius = np.hypot(rows, columns) / (SIDE / 2)
    red = np.where(radius > 0.85, border, centre)
    picture = np.stack([red, np.full_like(red, 90), np.full_like(red, 60)], axis=-1)
    picture = picture + generator.normal(0, 6, picture.shape)
    picture[(radius > 1) | (np.abs(rows) > aperture * SIDE / 2)] = 0
    return np.asarray(np.clip(picture, 0, 255), np.uint8)


def entry(picture: pixels.Picture, path: Path, label: str, split: Split, dataset: str = "one") -> Entry:
    path.write_bytes(cv2.imencode(".png", picture[..., ::-1])[1].tobytes())
    return Entry(Sample(path, dataset, path.stem, label), path.stem, split)


def aucs(trained: list[Entry], judged: list[Entry]) -> dict[str, float]:
    """Macro AUC of each probe."""
    truth = [str(each.sample.label) for each in judged]
    patients = [each.sample.patient for each in judged]
    found = {}
    for seen, answers in confounds.measure(LABELS, IMAGE, trained, judged, SEED).items():
        auc = metrics.classes(LABELS, truth, answers, patients, SEED).macro.auc
        assert auc is not None
        found[seen] = auc.value
    return found


def test_a_class_written_on_the_border_is_told_by_the_ring(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    made = [
        entry(fundus(170 if label == "Disease" else 130, 150, generator), tmp_path / f"{n}{label}.png", label, "train")
        for n in range(20)
        for label in LABELS
    ]
    assert aucs(made[:20], made[20:])["border ring"] == 1


def test_a_class_written_in_the_middle_is_hidden_from_the_ring(tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    made = [
        entry(fundus(150, 170 if label == "Disease" else 130, generator), tmp_path / f"{n}{label}.png", label, "train")
        for n in range(40)
        for label in LABELS
    ]
    found = aucs(made[:40], made[40:])
    assert found["thumbnail"] == 1
    assert 0.25 < found["border ring"] < 0.75


def test_the_ring_knows_the_outline_of_the_field_of_view() -> None:
    whole, clipped = (
        confounds.ring(fundus(150, 150, np.random.default_rng(3), aperture))[-(confounds.THUMBNAIL**2) :]
        for aperture in (1, 0.8)
    )
    half = confounds.THUMBNAIL // 2
    for shape, top in ((whole, 255), (clipped, 0)):
        tiles = shape.reshape(confounds.THUMBNAIL, confounds.THUMBNAIL)
        assert (tiles[0, 0], tiles[half, half]) == (0, 255)
        assert tiles[0, half] == pytest.approx(top, abs=40)


def test_the_ring_ignores_what_lies_inside_it() -> None:
    generator = np.random.default_rng(4)
    picture = fundus(150, 150, generator)
    changed = picture.copy()
    cv2.circle(changed, (SIDE // 2, SIDE // 2), round(0.9 * SIDE / 2), (255, 0, 255), -1)
    np.testing.assert_array_equal(confounds.ring(picture), confounds.ring(changed))
    assert not np.array_equal(confounds.thumbnail(picture), confounds.thumbnail(changed))


def test_the_thumbnail_is_the_mean_colour_of_each_tile() -> None:
    picture = np.random.default_rng(5).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    tile = SIDE // confounds.THUMBNAIL
    means = picture.reshape(confounds.THUMBNAIL, tile, confounds.THUMBNAIL, tile, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(confounds.thumbnail(picture), means.ravel(), atol=0.51, rtol=0)


def test_the_name_tells_the_class_where_each_set_has_one_class_and_nothing_in_a_set_unknown(tmp_path: Path) -> None:
    generator = np.random.default_rng(6)
    names = {"Disease": "one", "Normal": "two"}
    made = [
        entry(fundus(150, 150, generator), tmp_path / f"{n}{label}.png", label, "train", names[label])
        for n in range(8)
        for label in LABELS
    ]
    assert aucs(made[:8], made[8:])["data set's name"] == 1
    elsewhere = [
        entry(fundus(150, 150, generator), tmp_path / f"new{label}.png", label, "test", "three") for label in LABELS
    ]
    assert aucs(made, elsewhere)["data set's name"] == 0.5


def test_random_features_tell_nothing() -> None:
    generator = np.random.default_rng(7)
    features = generator.normal(size=(400, 10))
    truth = [LABELS[index] for index in generator.integers(2, size=400)]
    answers = confounds.probe(LABELS, features[:200], truth[:200], features[200:], SEED)
    scores = metrics.classes(LABELS, truth[200:], answers, [str(index) for index in range(200)], SEED)
    assert scores.macro.auc is not None
    assert scores.macro.auc.value == pytest.approx(0.5, abs=0.1)


def test_probabilities_follow_the_order_of_the_labels_and_a_label_never_trained_gets_zero() -> None:
    features = np.array([[0.0], [0.1], [1.0], [1.1]])
    targets = ["Normal", "Normal", "Disease", "Disease"]
    answers = confounds.probe(("Other", "Normal", "Disease"), features, targets, np.array([[0.0], [1.1]]), SEED)
    assert answers.argmax(axis=1).tolist() == [1, 2]
    assert answers[:, 0].tolist() == [0, 0]
    assert answers.sum(axis=1) == pytest.approx(1)


def test_one_class_alone_is_refused(tmp_path: Path) -> None:
    picture = fundus(150, 150, np.random.default_rng(8))
    made = [entry(picture, tmp_path / f"{n}.png", "Normal", "train") for n in range(2)]
    with pytest.raises(TrainingError, match="at least two classes"):
        confounds.measure(LABELS, IMAGE, made, made, SEED)


def test_an_unreadable_photograph_is_named(tmp_path: Path) -> None:
    picture = fundus(150, 150, np.random.default_rng(9))
    made = [entry(picture, tmp_path / f"{label}.png", label, "train") for label in LABELS]
    made[0].sample.path.write_bytes(b"")
    with pytest.raises(TrainingError, match=r"Disease\.png"):
        confounds.measure(LABELS, IMAGE, made, made, SEED)
