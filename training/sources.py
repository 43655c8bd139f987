"""Where pictures come from: published sets, your own folders, a table beside pictures, a MongoDB collection."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from fovea.errors import TrainingError
from fovea.spec import Task
from fovea.tasks import TASKS
from training import datasets, store
from training.datasets import MASK_FOLDERS, PICTURES, Sample
from training.store_access import is_store

IMAGE_COLUMNS = ("image", "image_id", "image id", "id", "file", "filename", "name")
LABEL_COLUMNS = ("label", "diagnosis", "class")
PATIENT_COLUMNS = ("patient", "patient_id", "patient id")


def read(root: Path, task: Task) -> list[Sample]:
    """Every sample below `root` that says something to `task`, each picture once, in a fixed order.

    Raises:
        TrainingError: the folder does not exist, holds none of the known layouts, or a layout that does not fit.
    """
    if not root.is_dir():
        raise TrainingError(f"{root} is no folder: give the folder that holds the data sets with --data.")
    own = [*labelled_folders(root, task), *labelled_tables(root, task)]
    fitting = [sample for sample in datasets.published(root) if sample.modality in task.modalities]
    samples: dict[Path, Sample] = {}
    for sample in (*fitting, *own):
        other = samples.setdefault(sample.path, sample)
        if sample.label not in (None, other.label):
            raise TrainingError(
                f"{sample.path} is said to be {other.label} and {sample.label}, by its folder and a table or by two "
                "rows: keep the right one."
            )
    if not samples:
        sets = ", ".join(dict.fromkeys(name for name in datasets.LICENCES if name != "phantoms"))
        classes = f"one folder per class ({', '.join(task.labels)})" if task.labels else "pictures with masks"
        raise TrainingError(
            f"{root} holds nothing for the task {task.name}: known are {sets}, or {classes}, or a CSV of image and "
            "label; see the README, 'Train on your own data'."
        )
    return [samples[path] for path in sorted(samples)]


def folder_of(data: str, images: Path) -> Path:
    """The folder to read: `data` itself, or `images`, where the pictures of a store are written first.

    A store is `mongodb://…` or the folder of an embedded one, see `training.store`.

    Raises:
        TrainingError, UsageError: the store cannot be reached or holds no usable picture.
    """
    return store.materialise(data, images) if is_store(data) else Path(data)


def labelled_folders(root: Path, task: Task) -> Iterator[Sample]:
    """Your own pictures, one folder per class: `<label>/<picture>`; `<patient>__<anything>` keeps patients together.

    Masks of the same stem may lie beside the classes, in `vessels/` and `field_of_view/`: `training.phantoms` does so.

    Raises:
        TrainingError: a class's folder is empty, or one beside it holds pictures and is no class of any task.
    """
    published = {sample.path.parent for sample in datasets.published(root)}
    for folder in datasets.folders(root):
        if not any((folder / label).is_dir() for label in task.labels):
            continue
        _check(folder, task)
        dataset = folder.resolve().name
        for label in task.labels:
            # A stray file in a published set is not somebody's own picture of another patient.
            for path in _pictures(folder / label) if folder / label not in published else ():
                yield Sample(
                    path,
                    dataset,
                    _patient(dataset, path),
                    label,
                    vessels=datasets.beside(folder / "vessels", path.stem),
                    field_of_view=datasets.beside(folder / "field_of_view", path.stem),
                )


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in PICTURES and path.is_file())


def _patient(dataset: str, path: Path, named: str = "") -> str:
    """A patient who is named is the same one in every folder; a picture without a name is a patient of its own set."""
    who = named or (path.stem.split("__")[0] if "__" in path.stem else "")
    return f"own/{who}" if who else f"{dataset}/{path.stem}"


def _check(folder: Path, task: Task) -> None:
    every = {label for each in TASKS.values() for label in each.labels}
    for inside in sorted(path for path in folder.iterdir() if path.is_dir()):
        if inside.name in task.labels and not _pictures(inside):
            raise TrainingError(f"{inside} holds no picture: put the pictures of that class there, or delete it.")
        # A class whose name is misspelt would silently not be learnt.
        if inside.name not in {*every, *MASK_FOLDERS} and _pictures(inside) and not any(datasets.published(inside)):
            raise TrainingError(
                f"{inside} is no class of {task.name} ({', '.join(task.labels)}): rename it, or move it elsewhere."
            )


def labelled_tables(root: Path, task: Task) -> Iterator[Sample]:
    """A CSV with a column for the image (a file's name, with or without ending) and one for the label.

    Pictures lie beside the table or in a folder below it. A column `patient` keeps patients together; others (age, …)
    are left alone. Tables without both columns belong to somebody else.

    Raises:
        TrainingError: files are missing, a label is none of the task's, or the table cannot be read.
    """
    for table in sorted(path for depth in ("*", "*/*", "*/*/*") for path in root.glob(f"{depth}.csv")):
        try:
            with table.open(newline="", encoding="utf-8-sig") as lines:
                rows = list(csv.DictReader(lines))
        except (OSError, ValueError, csv.Error) as error:
            raise TrainingError(f"{table} cannot be read ({error}): copy it again.") from None
        names = {str(name).strip().lower(): name for name in (rows[0] if rows else ()) if name}
        image, label, patient = (
            next((names[wanted] for wanted in columns if wanted in names), None)
            for columns in (IMAGE_COLUMNS, LABEL_COLUMNS, PATIENT_COLUMNS)
        )
        # Training's manifest and the client's answers are no labels that somebody gave.
        ours = {"sha256", "split"} <= names.keys() or {"status", "milliseconds"} <= names.keys()
        if image is not None and label is not None and task.labels and not ours:
            yield from _rows(table, rows, (image, label, patient), task)


def _rows(
    table: Path, rows: Sequence[dict[str, str]], columns: tuple[str, str, str | None], task: Task
) -> Iterator[Sample]:
    image, label, patient = columns
    labels = {(row[label] or "").strip() for row in rows}
    if not labels & set(task.labels):
        if labels & {each for other in TASKS.values() for each in other.labels}:
            return  # another task's table
        raise TrainingError(f"{table} has the labels {_some(sorted(labels))}; {task.name} knows {_some(task.labels)}.")
    if strange := sorted(labels - set(task.labels)):
        raise TrainingError(
            f"{table} has labels that {task.name} does not know ({_some(strange)}): its classes are "
            f"{_some(task.labels)}; rename them, or delete those rows."
        )
    files: dict[str, list[Path]] = {}
    for path in sorted(table.parent.rglob("*")):
        if path.suffix.lower() in PICTURES and path.is_file():
            place = path.relative_to(table.parent)
            for key in {place.as_posix(), place.with_suffix("").as_posix(), path.name, path.stem}:
                files.setdefault(key, []).append(path)
    dataset = table.resolve().parent.name
    given = [(row[image] or "").strip() for row in rows]
    missing = [name for name in given if name not in files]
    if missing:
        raise TrainingError(
            f"{table} names {len(missing)} of {len(rows)} files that do not exist, such as {missing[0]!r}: put the "
            f"pictures below {table.parent}, or delete those rows."
        )
    for name, row in zip(given, rows, strict=True):
        if len(files[name]) > 1:
            raise TrainingError(
                f"{table} says {name!r}, which {files[name][0]} and {files[name][1]} both are: write the path below "
                f"{table.parent}."
            )
        (path,) = files[name]
        named = (row[patient] or "").strip() if patient else ""
        yield Sample(path, dataset, _patient(dataset, path, named), row[label].strip())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
