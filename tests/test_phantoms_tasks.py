"""Phantoms of every modality and task: reproducible files, a rule for every label, no class readable from trifles."""

import subprocess
import sys
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fovea import phantoms, pixels
from fovea.errors import TrainingError
from fovea.spec import Modality, Task
from fovea.tasks import TASKS
from training.phantoms import files, signs
from training.sources import labelled_folders

ROOT = Path(__file__).parents[1]
MODALITIES: tuple[Modality, ...] = get_args(Modality)
CHANNELS = {"fundus": 3, "disc": 3, "oct": 1, "glomerulus": 4, "artery": 1}

of_modality = pytest.mark.parametrize("modality", MODALITIES)
of_task = pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))


@of_modality
def test_same_seed_gives_the_same_file_and_another_seed_another_picture(modality: Modality) -> None:
    made = [phantoms.encoded(modality, seed) for seed in (0, 2)]
    assert made[0] == phantoms.encoded(modality, 0)
    thumbnails = [cv2.resize(pixels.decode(file).picture, (32, 32)).astype(np.int16) for file in made]
    assert np.abs(thumbnails[0] - thumbnails[1]).mean() > 4


@of_modality
def test_file_has_the_format_and_channels_that_its_data_set_has(modality: Modality) -> None:
    file = phantoms.encoded(modality, 1)
    assert file.startswith(b"\x89PNG" if modality == "glomerulus" else b"\xff\xd8")
    picture = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)
    assert (picture.shape[2] if picture.ndim == 3 else 1) == CHANNELS[modality]
    assert 200 <= min(picture.shape[:2]) <= max(picture.shape[:2]) <= 800


@of_modality
def test_odd_seeds_show_something_that_even_seeds_do_not(modality: Modality) -> None:
    healthy = phantoms.encoded(modality, 0)
    defaults: dict[Modality, phantoms.Shown] = {
        "fundus": phantoms.Signs(),
        "disc": phantoms.disc.Signs(),
        "oct": phantoms.oct.Signs(),
        "glomerulus": phantoms.glomerulus.Signs(),
        "artery": phantoms.artery.Signs(),
    }
    default = defaults[modality]
    assert healthy == phantoms.drawn(0, default)
    assert (phantoms.encoded(modality, 1) == phantoms.drawn(1, default)) == (modality == "fundus")


@of_task
def test_networks_see_phantoms_of_every_modality_of_their_task(task: Task) -> None:
    for modality in task.modalities:
        picture, _ = pixels.preprocess(phantoms.encoded(modality, 3), task.image)
        assert picture.shape == (task.image.side, task.image.side, 3)
        assert picture.std() > 10


@of_task
def test_every_label_has_a_rule_of_its_own(task: Task) -> None:
    for modality in task.modalities:
        drawn = {label: signs(modality, label, np.random.default_rng(5)) for label in task.labels}
        assert len(set(drawn.values())) == len(task.labels)
        with pytest.raises(TrainingError, match="Unheard"):
            signs(modality, "Unheard", np.random.default_rng(5))


def test_cups_of_the_two_classes_never_overlap() -> None:
    for modality in ("fundus", "disc"):
        cups: dict[str, list[float]] = {"Normal": [], "Glaucoma": []}
        for label, seen in cups.items():
            for seed in range(200):
                shown = signs(modality, label, np.random.default_rng(seed))
                assert isinstance(shown, (phantoms.Signs, phantoms.disc.Signs))
                seen.append(shown.cup)
        assert 0.2 <= min(cups["Normal"]) < max(cups["Normal"]) <= 0.45
        assert 0.65 <= min(cups["Glaucoma"]) < max(cups["Glaucoma"]) <= 0.9


@of_task
def test_program_writes_what_the_labelled_folders_reader_reads(task: Task, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "training.phantoms", str(tmp_path), "--task", task.name, "--count", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    total = len(task.labels)
    assert done.stdout == f"{total} phantoms, seed 7, in {tmp_path / 'phantoms'}\n"
    samples = list(labelled_folders(tmp_path, task))
    assert sorted({sample.label for sample in samples if sample.label}) == sorted(task.labels)
    assert len(samples) == len({sample.patient for sample in samples}) == total
    for sample in samples:
        pixels.preprocess(sample.path.read_bytes(), task.image)


def test_program_refuses_an_unknown_task(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "training.phantoms", str(tmp_path), "--task", "spleen"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "spleen" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["oct", "artery"])
def test_class_cannot_be_read_off_an_eight_pixel_thumbnail(name: str) -> None:
    task = TASKS[name]
    assert task.classes is not None
    thumbnails, ill = [], []
    for seed in range(160):
        label = task.labels[seed % len(task.labels)]
        (file,) = files(task.modalities[0], label, seed).values()
        picture, _ = pixels.preprocess(file, task.image)
        thumbnails.append(cv2.resize(picture, (8, 8), interpolation=cv2.INTER_AREA).ravel() / 255)
        ill.append(label != task.classes.healthy)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000)).fit(thumbnails[:80], ill[:80])
    assert roc_auc_score(ill[80:], model.decision_function(thumbnails[80:])) < 0.9
