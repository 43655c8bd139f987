"""Readers of published layouts: each finds its data set below a folder and yields `Sample`s.

A reader recognises its set by structure, never by guessing labels: what a layout does not say stays None.
"""

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fovea.errors import TrainingError
from fovea.spec import Modality

PICTURES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".gif", ".bmp", ".ppm"}
MASK_FOLDERS = frozenset({"vessels", "field_of_view"})
"""Folders beside the classes of a labelled folder that hold masks: no labels."""


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
    modality: Modality | None = None  # None where a set does not say: its labels decide
    vessels: Path | None = None
    second_observer: Path | None = None
    field_of_view: Path | None = None


LICENCES = {
    "HRF": "CC BY 4.0",
    "CHASE_DB1": "CC BY 4.0",
    "DRIVE": "see the publisher's terms",
    "IDRiD": "CC BY 4.0",
    "PALM": "research use only",
    "ACRIMA": "CC BY 4.0",
    "Kermany": "CC BY 4.0",
    "glomeruli": "not stated: research use only",
    "coronary_patches": "not stated: research use only",
    "phantoms": "Apache-2.0, made by training/phantoms.py",
}


WITHOUT_PATIENTS = {"ACRIMA", "coronary_patches"}
"""Sets that do not say whose a picture is: every one counts as a patient."""


def content(path: Path) -> bytes:
    """The bytes of a picture's file, or `TrainingError` saying why they cannot be had."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise TrainingError(f"{path} cannot be read ({error.strerror}): copy it again, or delete it.") from None


def folders(root: Path, *needed: str) -> Iterator[Path]:
    """`root` and the folders below it (three levels) that hold everything `needed`, in a fixed order."""
    candidates = [root, *sorted(p for depth in ("*", "*/*", "*/*/*") for p in root.glob(depth) if p.is_dir())]
    yield from (folder for folder in candidates if all(any(folder.glob(name)) for name in needed))


def beside(folder: Path, stem: str) -> Path | None:
    """The picture in `folder` with that stem, whatever its format."""
    return next((p for p in sorted(folder.glob(f"{stem}.*")) if p.suffix.lower() in PICTURES), None)


def hrf(root: Path) -> Iterator[Sample]:
    """HRF: `images/NN_{h,dr,g}.*`, `manual1/NN_*.tif`, `mask/NN_*_mask.tif`; every photograph is another person.

    doi:10.1155/2013/154860
    """
    labels = {"h": "Normal", "dr": "DiabeticRetinopathy", "g": "Glaucoma"}
    for folder in folders(root, "images/[0-9]*_*", "manual1"):
        for path in sorted((folder / "images").iterdir()):
            match = re.fullmatch(r"(\d+)_(h|dr|g)", path.stem)
            if match and path.suffix.lower() in PICTURES:
                yield Sample(
                    path,
                    "HRF",
                    f"HRF/{path.stem}",
                    labels[match[2]],
                    "fundus",
                    beside(folder / "manual1", path.stem),
                    field_of_view=beside(folder / "mask", f"{path.stem}_mask"),
                )


def chase_db1(root: Path) -> Iterator[Sample]:
    """CHASE_DB1: `Image_NN{L,R}.jpg` with `_1stHO.png` and `_2ndHO.png`; two eyes a child.

    doi:10.1109/TBME.2012.2205687
    """
    for folder in folders(root, "Image_[0-9]*_1stHO.png"):
        for path in sorted(folder.glob("Image_*.jpg")):
            child = path.stem.removeprefix("Image_")[:-1]
            yield Sample(
                path,
                "CHASE_DB1",
                f"CHASE_DB1/{child}",
                modality="fundus",
                vessels=beside(folder, f"{path.stem}_1stHO"),
                second_observer=beside(folder, f"{path.stem}_2ndHO"),
                field_of_view=beside(folder / "fov_masks_lwnet", path.stem),
            )


def drive(root: Path) -> Iterator[Sample]:
    """DRIVE: `{training,test}/images/NN_*.tif`, `1st_manual/*.gif`, `2nd_manual/*.gif`, `mask/*.gif`.

    doi:10.1109/TMI.2004.825627
    """
    for folder in folders(root, "images/[0-9]*_t*", "mask"):
        for path in sorted((folder / "images").iterdir()):
            number = path.stem.split("_")[0]
            if path.suffix.lower() in PICTURES:
                yield Sample(
                    path,
                    "DRIVE",
                    f"DRIVE/{number}",
                    modality="fundus",
                    vessels=beside(folder / "1st_manual", f"{number}_manual1"),
                    second_observer=beside(folder / "2nd_manual", f"{number}_manual2"),
                    field_of_view=beside(folder / "mask", f"{path.stem}_mask"),
                )


def idrid(root: Path) -> Iterator[Sample]:
    """IDRiD disease grading: `IDRiD_NNN.jpg` below, grades in two CSV files; 0 is normal, ≥ 2 retinopathy.

    As published (`1. Original Images/a. Training Set/`, `2. Groundtruths/`) or with other folders around the pictures.
    Grade 1 (mild) has no label here. Training and testing numbers overlap: a photograph belongs to the testing
    set only if its path says so. doi:10.3390/data3030025
    """
    tables = "*[gG]roundtruths/*IDRiD*Labels.csv"
    for folder in folders(root, tables):
        grades = {key: grade for table in sorted(folder.glob(tables)) for key, grade in _grades(table)}
        seen: set[tuple[bool, str]] = set()
        for path in sorted(folder.rglob("IDRiD_*.jpg")):
            testing = "testing" in str(path.relative_to(folder)).lower()
            key = testing, path.stem
            if key in grades and key not in seen:
                seen.add(key)
                label = {0: "Normal", 1: None}.get(grades[key], "DiabeticRetinopathy")
                half = "testing" if testing else "training"
                yield Sample(path, "IDRiD", f"IDRiD/{half}/{path.stem}", label, "fundus")


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
    for folder in folders(root, "P[0-9][0-9][0-9][0-9].jpg", "N[0-9][0-9][0-9][0-9].jpg"):
        for path in sorted(folder.glob("[PNH][0-9][0-9][0-9][0-9].jpg")):
            yield Sample(path, "PALM", f"PALM/{path.stem}", labels.get(path.stem[0]), "fundus")


def acrima(root: Path) -> Iterator[Sample]:
    """ACRIMA: `ImNNN_ACRIMA.jpg` and, with glaucoma, `ImNNN_g_ACRIMA.jpg`, cut around the disc; no patients are named.

    doi:10.1186/s12938-019-0649-y
    """
    for folder in folders(root, "Im[0-9]*_ACRIMA.jpg"):
        for path in sorted(folder.glob("Im[0-9]*_ACRIMA.jpg")):
            label = "Glaucoma" if "_g_" in path.stem else "Normal"
            yield Sample(path, "ACRIMA", f"ACRIMA/{path.stem}", label, "disc")


def kermany(root: Path) -> Iterator[Sample]:
    """Kermany OCT: `{train,test,val}/<CLASS>/<CLASS>-<patient>-<n>.jpeg`; a patient may occur in several of them.

    The published division shares patients: it is not obeyed. doi:10.17632/rscbjbr9sj.3
    """
    for folder in folders(root, "*/*-*-*.jp*g"):
        for path in sorted(folder.glob("*/*-*-*.jp*g")):
            match = re.fullmatch(r"(CNV|DME|DRUSEN|NORMAL)-(\d+)-(\d+)", path.stem)
            if match and path.parent.name == match[1]:
                yield Sample(path, "Kermany", f"Kermany/{match[2]}", match[1], "oct")


def glomeruli(root: Path) -> Iterator[Sample]:
    """Cut-out glomeruli: two folders of `<slide>_PAS_<part>_<id>.png`; the slide stands for the patient."""
    labels = "globally_sclerotic_glomeruli", "non_globally_sclerotic_glomeruli"
    for folder in folders(root, f"{labels[0]}/*_PAS_*", labels[1]):
        for label in labels:
            for path in sorted((folder / label).glob("*_PAS_*")):
                slide = path.stem.split("_PAS_")[0]
                yield Sample(path, "glomeruli", f"glomeruli/{slide}", label, "glomerulus")


def coronary_patches(root: Path) -> Iterator[Sample]:
    """Coronary patches: `{train,validation,test}/{positive,negative}/NNN.png`, positive is stenosis.

    The folders share byte-identical pictures: they are not obeyed, and no patients are named.
    """
    labels = {"positive": "unhealthy", "negative": "healthy"}
    for folder in folders(root, "train/positive", "train/negative"):
        for path in sorted(folder.glob("*/*/*")):
            if path.parent.name in labels and path.suffix.lower() in PICTURES:
                place = path.relative_to(folder).with_suffix("").as_posix()
                yield Sample(path, "coronary_patches", f"coronary_patches/{place}", labels[path.parent.name], "artery")


READERS: tuple[Callable[[Path], Iterator[Sample]], ...] = (
    hrf,
    chase_db1,
    drive,
    idrid,
    palm,
    acrima,
    kermany,
    glomeruli,
    coronary_patches,
)


def published(root: Path) -> Iterator[Sample]:
    """Every sample that any of the readers above finds below `root`."""
    for reader in READERS:
        yield from reader(root)
