"""`reports/<task>/evidence.npz`: the pictures on which export judges precision, as the task's networks see them.

Export may read no data set and import nothing of training: what both need to agree on is this file. It holds some
training pictures, which calibrate int8, and held-out ones (validation and test) with what is true of them.
"""

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fovea.spec import Task
from training import inputs, vessels
from training.run import Run
from training.splits import Entry

CALIBRATION = 64
"""Training pictures, over all data sets and classes in turn."""
HELD_OUT = 160
"""Held-out pictures of a kind, likewise; more would make an export wait."""


def write(task: Task, run: Run, path: Path) -> None:
    """The pictures as uint8 arrays, whole or not at all.

    `calibration` `[n, side, side, 3]`; `labelled` likewise with `labels` int64 `[n]` (places in `task.labels`); for a
    task with a mask `marked`, with `truth` uint8 `[n, side, side]` (255 × the share of a pixel that is inside) and
    `inside`, 1 in the field of view; `manifest_sha256`.

    Raises:
        TrainingError: a picture is unreadable, or there is no room.
    """
    known = [entry for entry in run.entries if entry.sample.label in task.labels or entry.sample.vessels]
    trained = [entry for entry in known if entry.split == "train"]
    held = [entry for entry in known if entry.split != "train"]
    labelled = spread([entry for entry in held if entry.sample.label in task.labels], HELD_OUT)
    arrays: dict[str, npt.NDArray[Any]] = {
        "manifest_sha256": np.array(run.manifest_sha256),
        "calibration": inputs.pictures(task, spread(trained, CALIBRATION)),
        "labelled": inputs.pictures(task, labelled),
        "labels": np.array([task.labels.index(str(entry.sample.label)) for entry in labelled], np.int64),
    }
    if task.masks:
        cases = vessels.load(spread([entry for entry in held if entry.sample.vessels], HELD_OUT), task.image)
        for name, planes in {
            "marked": [case.picture for case in cases],
            "truth": [case.vessels for case in cases],
            "inside": [case.inside for case in cases],
        }.items():
            if planes:
                arrays[name] = np.stack(planes)
    run.replace(path, lambda part: np.savez_compressed(part, **arrays))


def spread(entries: Sequence[Entry], most: int) -> list[Entry]:
    """At most `most` of them, data sets and classes in turn, evenly within each; the same ones every time."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: entry.sha256):  # a hash is as good as a draw
        groups.setdefault((entry.sample.dataset, entry.sample.label or ""), []).append(entry)
    turns = zip_longest(*(group for _, group in sorted(groups.items())))
    return [entry for turn in turns for entry in turn if entry is not None][:most]
