"""`--show`: contact sheets of what a network will see, so that a wrong label is seen before an hour is spent."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from rich.table import Table

from fovea import pixels
from fovea.errors import TrainingError, UnreadableImage
from fovea.spec import Task
from training import augmentation, tables
from training.datasets import content
from training.recipes import recipe_for
from training.run import Run
from training.splits import Entry

PER_CLASS = 4
"""Pictures shown of every class, and as many augmentations of the first."""
SHOWN = 224
"""Pixels of a picture on the sheet."""


def draw(task: Task, run: Run) -> list[Path]:
    """Write `<folder>/sheets/<class>.png`: raw, preprocessed and augmented pictures of the training split.

    Returns:
        The sheets, one per class of the task, or one of all pictures where it has no classes.

    Raises:
        TrainingError: a picture is unreadable, or a sheet cannot be written.
    """
    trained = [entry for entry in run.entries if entry.split == "train"]
    sheets = []
    for label in task.labels or ("all",):
        chosen = [entry for entry in trained if label in (entry.sample.label, "all")]
        if chosen:
            path = run.folder / "sheets" / f"{label}.png"
            _sheet(task, run, label, chosen, path)
            sheets.append(path)
    return sheets


def counts(task: Task, run: Run) -> Table:
    """A table of pictures and patients per data set, class and split."""
    table = tables.console("pictures (patients)", ("data", "class"), ("train", "validation", "test"))
    rows = sorted({(entry.sample.dataset, entry.sample.label or "–") for entry in run.entries})
    for dataset, label in rows:
        those = [e for e in run.entries if (e.sample.dataset, e.sample.label or "–") == (dataset, label)]
        pictures = Counter(entry.split for entry in those)
        patients = {split: len({e.sample.patient for e in those if e.split == split}) for split in pictures}
        figures = (f"{pictures[s]} ({patients.get(s, 0)})" for s in ("train", "validation", "test"))
        table.add_row(dataset, label if label in task.labels else f"{label} (not used)", *figures)
    return table


def _sheet(task: Task, run: Run, label: str, entries: Sequence[Entry], path: Path) -> None:
    places = np.random.default_rng(run.seed).permutation(len(entries))[:PER_CLASS]
    shown = [entries[place] for place in places]
    read = [_read(entry, task) for entry in shown]
    augment = augmentation.layers(recipe_for(task.networks[-1]).augmentation, run.seed)
    figure = Figure(figsize=(2.3 * PER_CLASS, 7.6), layout="constrained")
    rows = figure.subplots(3, PER_CLASS, squeeze=False)
    for column, axes in enumerate(rows.T):
        for part in axes:
            part.set_axis_off()
        if column >= len(shown):
            continue
        raw, seen = read[column]
        axes[0].imshow(raw)
        axes[0].set_title(_name(shown[column]), fontsize=7)
        axes[1].imshow(seen)
        # The whole row is one picture: what differs is the augmentation alone.
        changed = np.asarray(augment(read[0][1][None].astype(np.float32), training=True))[0]
        axes[2].imshow(np.clip(np.rint(changed), 0, 255).astype(np.uint8))
    for row, title in zip(rows, ("as it is", "as the network sees it", "the first one, augmented"), strict=True):
        row[0].text(-0.06, 0.5, title, rotation=90, va="center", ha="right", transform=row[0].transAxes, fontsize=9)
    figure.suptitle(f"{task.name}: {label}, {len(entries)} pictures to train on", fontsize=11)
    run.replace(path, lambda part: figure.savefig(part, dpi=110))


def _name(entry: Entry) -> str:
    name = f"{entry.sample.dataset}/{entry.sample.path.name}"
    return name if len(name) <= 34 else f"{name[:15]}…{name[-18:]}"


def _read(entry: Entry, task: Task) -> tuple[npt.NDArray[np.uint8], pixels.Picture]:
    """The picture as it is, reduced to `SHOWN` pixels, and as the network sees it."""
    encoded = content(entry.sample.path)
    try:
        raw = pixels.decode(encoded, at_least=SHOWN).picture
        seen, _ = pixels.preprocess(encoded, task.image)
    except UnreadableImage as error:
        raise TrainingError(f"{entry.sample.path}: {error}") from None
    scale = SHOWN / max(raw.shape[:2])
    size = max(1, round(raw.shape[1] * scale)), max(1, round(raw.shape[0] * scale))
    return cv2.resize(raw, size, interpolation=cv2.INTER_AREA).astype(np.uint8), seen
