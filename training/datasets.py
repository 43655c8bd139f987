"""Readers of published layouts: each finds its data set below a folder and yields `Sample`s.

A reader recognises its set by structure, never by guessing labels: what a layout does not say stays None.
"""

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from fovea.errors import TrainingError
from fovea.tasks import TASKS

PICTURES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".gif", ".bmp", ".ppm"}


@dataclass(frozen=True)
class Sample:
    """One photograph and what its data set says of it.

    `patient` is unique over all sets; both eyes of a child share it, so that splits can keep them together.
    `vessels`, `second_observer` and `field_of_view` are mask files in the photograph's own pixels.
    """

    path: Path
    dataset: str
    patient: str
    label: str | None = None
    vessels: Path | None = None
    second_observer: Path | None = None
    field_of_view: Path | None = None


LICENCES = {
    "HRF": "CC BY 4.0",
    "CHASE_DB1": "CC BY 4.0",
    "DRIVE": "see the publisher's terms",
    "IDRiD": "CC BY 4.0",
    "PALM": "research use only",
    "phantoms": "Apache-2.0, made by training/phantoms.py",
}


def _folders(root: Path, *needed: str) -> Iterator[Path]:
    """`root` and the folders below it (three levels) that hold everything `needed`, in a fixed order."""
    candidates = [root, *sorted(p for depth in ("*", "*/*", "*/*/*") for p in root.glob(depth) if p.is_dir())]
    yield from (folder for folder in candidates if all(any(folder.glob(name)) for name in needed))


def _beside(folder: Path, stem: str) -> Path | None:
    """The picture in `folder` with that stem, whatever its format."""
    return next((p for p in sorted(folder.glob(f"{stem}.*")) if p.suffix.lower() in PICTURES), None)


def hrf(root: Path) -> Iterator[Sample]:
    """HRF: `images/NN_{h,dr,g}.*`, `manual1/NN_*.tif`, `mask/NN_*_mask.tif`; every photograph is another person.

    doi:10.1155/2013/154860
    """
    labels = {"h": "Normal", "dr": "DiabeticRetinopathy", "g": "Glaucoma"}
    for folder in _folders(root, "images/[0-9]*_*", "manual1"):
        for path in sorted((folder / "images").iterdir()):
            match = re.fullmatch(r"(\d+)_(h|dr|g)", path.stem)
            if match and path.suffix.lower() in PICTURES:
                yield Sample(
                    path,
                    "HRF",
                    f"HRF/{path.stem}",
                    labels[match[2]],
                    _beside(folder / "manual1", path.stem),
                    field_of_view=_beside(folder / "mask", f"{path.stem}_mask"),
                )


def chase_db1(root: Path) -> Iterator[Sample]:
    """CHASE_DB1: `Image_NN{L,R}.jpg` with `_1stHO.png` and `_2ndHO.png`; two eyes a child.

    doi:10.1109/TBME.2012.2205687
    """
    for folder in _folders(root, "Image_[0-9]*_1stHO.png"):
        for path in sorted(folder.glob("Image_*.jpg")):
            child = path.stem.removeprefix("Image_")[:-1]
            yield Sample(
                path,
                "CHASE_DB1",
                f"CHASE_DB1/{child}",
                vessels=_beside(folder, f"{path.stem}_1stHO"),
                second_observer=_beside(folder, f"{path.stem}_2ndHO"),
                field_of_view=_beside(folder / "fov_masks_lwnet", path.stem),
            )


def drive(root: Path) -> Iterator[Sample]:
    """DRIVE: `{training,test}/images/NN_*.tif`, `1st_manual/*.gif`, `2nd_manual/*.gif`, `mask/*.gif`.

    doi:10.1109/TMI.2004.825627
    """
    for folder in _folders(root, "images/[0-9]*_t*", "mask"):
        for path in sorted((folder / "images").iterdir()):
            number = path.stem.split("_")[0]
            if path.suffix.lower() in PICTURES:
                yield Sample(
                    path,
                    "DRIVE",
                    f"DRIVE/{number}",
                    vessels=_beside(folder / "1st_manual", f"{number}_manual1"),
                    second_observer=_beside(folder / "2nd_manual", f"{number}_manual2"),
                    field_of_view=_beside(folder / "mask", f"{path.stem}_mask"),
                )


def idrid(root: Path) -> Iterator[Sample]:
    """IDRiD disease grading: `IDRiD_NNN.jpg` below, grades in two CSV files; 0 is normal, ≥ 2 retinopathy.

    As published (`1. Original Images/a. Training Set/`, `2. Groundtruths/`) or with other folders around the pictures.
    Grade 1 (mild) has no label here. Training and testing numbers overlap: a photograph belongs to the testing
    set only if its path says so. doi:10.3390/data3030025
    """
    tables = "*[gG]roundtruths/*IDRiD*Labels.csv"
    for folder in _folders(root, tables):
        grades = {key: grade for table in sorted(folder.glob(tables)) for key, grade in _grades(table)}
        seen: set[tuple[bool, str]] = set()
        for path in sorted(folder.rglob("IDRiD_*.jpg")):
            testing = "testing" in str(path.relative_to(folder)).lower()
            key = testing, path.stem
            if key in grades and key not in seen:
                seen.add(key)
                label = {0: "Normal", 1: None}.get(grades[key], "DiabeticRetinopathy")
                half = "testing" if testing else "training"
                yield Sample(path, "IDRiD", f"IDRiD/{half}/{path.stem}", label)


def _grades(table: Path) -> Iterator[tuple[tuple[bool, str], int]]:
    """((whether of the testing set, photograph), grade) of every row that has a grade."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as lines:
            for row in csv.reader(lines):
                if row[1:2] and row[1].strip().isdigit():
                    yield ("Testing" in table.name, row[0].strip()), int(row[1])
    except (OSError, ValueError, csv.Error) as error:
        raise TrainingError(f"{table} cannot be read ({error}): copy it again.") from None


def palm(root: Path) -> Iterator[Sample]:
    """PALM: `PALM-Training400/{P,N,H}NNNN.jpg`; P pathological myopia, N normal, H high myopia (no label here).

    doi:10.1038/s41597-024-02911-2
    """
    labels = {"P": "Myopia", "N": "Normal"}
    for folder in _folders(root, "P[0-9][0-9][0-9][0-9].jpg", "N[0-9][0-9][0-9][0-9].jpg"):
        for path in sorted(folder.glob("[PNH][0-9][0-9][0-9][0-9].jpg")):
            yield Sample(path, "PALM", f"PALM/{path.stem}", labels.get(path.stem[0]))


def labelled_folders(root: Path) -> Iterator[Sample]:
    """Your own pictures, one folder per class: `<label>/<picture>`; `<patient>__<anything>` keeps patients together.

    Masks of the same stem may lie beside the classes, in `vessels/` and `field_of_view/`: `training.phantoms` does so.
    """
    labels = sorted({label for task in TASKS.values() for label in task.labels})
    candidates = [folder for folder in _folders(root) if any((folder / label).is_dir() for label in labels)]
    for folder, label in product(candidates, labels):
        dataset = folder.resolve().name
        for path in sorted((folder / label).glob("*")):
            if path.suffix.lower() in PICTURES:
                yield Sample(
                    path,
                    dataset,
                    f"{dataset}/{path.stem.split('__')[0]}",
                    label,
                    _beside(folder / "vessels", path.stem),
                    field_of_view=_beside(folder / "field_of_view", path.stem),
                )


READERS: tuple[Callable[[Path], Iterator[Sample]], ...] = (
    hrf,
    chase_db1,
    drive,
    idrid,
    palm,
    labelled_folders,
)


def read(root: Path) -> list[Sample]:
    """Every sample that any reader finds below `root`, each photograph once.

    Raises:
        TrainingError: the folder does not exist or holds none of the known layouts.
    """
    if not root.is_dir():
        raise TrainingError(f"{root} is no folder: give the folder that holds the data sets with --data.")
    samples = {sample.path: sample for reader in READERS for sample in reader(root)}
    if not samples:
        raise TrainingError(
            f"{root} holds none of the known layouts (HRF, CHASE_DB1, DRIVE, IDRiD, PALM, or one folder per class): "
            "see the README, 'Train on your own data'."
        )
    return [samples[path] for path in sorted(samples)]
