"""Contact sheets and counts: what a person looks at before an hour is spent on training."""

import io
from pathlib import Path

import cv2
import pytest
from small_runs import FUNDUS, new_run, write_phantoms

from fovea import quiet
from fovea.errors import TrainingError
from fovea.tasks import FUNDUS_LABELS

with quiet.native_stderr():
    from rich.console import Console

    from training import sheets


def test_every_class_gets_a_sheet_of_its_training_pictures(tmp_path: Path) -> None:
    run = new_run(write_phantoms(tmp_path / "phantoms", 16), tmp_path / "out")
    drawn = sheets.draw(FUNDUS, run)
    assert [path.stem for path in drawn] == list(FUNDUS_LABELS)
    for path in drawn:
        picture = cv2.imread(str(path))
        assert picture.shape[0] > 500
        assert picture.std() > 20  # not a blank page


def test_the_counts_tell_pictures_and_patients_of_every_split_and_labels_that_are_not_used(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "phantoms", 16)
    run = new_run(tmp_path / "phantoms", tmp_path / "out")
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(sheets.counts(FUNDUS, run))
    text = console.export_text()
    total = 0
    for label in FUNDUS_LABELS:
        (line,) = [line for line in text.splitlines() if f" {label} " in line]
        total += sum(int(part) for part in line.replace("(", " ").replace(")", " ").split() if part.isdigit()) // 2
    assert total == 16


def test_an_unreadable_picture_is_named(tmp_path: Path) -> None:
    folder = write_phantoms(tmp_path / "phantoms", 16)
    for path in (folder / "Glaucoma").iterdir():
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(TrainingError, match="phantoms/Glaucoma/"):
        sheets.draw(FUNDUS, new_run(folder, tmp_path / "out"))
