"""`--prepare`: what is done to the pictures of a picture classifier before it learns, and is off by default.

Each is tried because studies of fundus photographs use it; `training.ablation` measures whether it helps.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from fovea.errors import UsageError
from fovea.spec import Task

Preparation = Literal["none", "clahe", "histogram", "superresolution", "dcgan"]
PREPARATIONS: tuple[Preparation, ...] = get_args(Preparation)
MEANING: dict[Preparation, str] = {
    "none": "the pictures as tasks.py declares them",
    "clahe": "lightness equalised in tiles (CLAHE)",
    "histogram": "lightness equalised over the picture",
    "superresolution": "sharpened by an autoencoder that is the network's first part",
    "dcgan": "generated pictures added to rare classes",
}


def prepared(task: Task, preparation: str) -> Task:
    """The task with the pictures this preparation shows; of those that equalise, `Image.equalisation` is replaced.

    Export compares that with tasks.py: pictures cannot be prepared otherwise in service than in training.

    Raises:
        UsageError: there is no such preparation, or the task has no classifier that reads pictures.
    """
    if preparation not in PREPARATIONS:
        raise UsageError(f"There is no preparation {preparation!r}: choose one of {', '.join(PREPARATIONS)}.")
    if preparation == "none":
        return task
    if any(network.reads != "image" for network in task.networks):
        raise UsageError(
            f"--prepare {preparation} is for classifiers that read pictures, and {task.networks[-1].name} reads a "
            "mask: choose another task, or leave --prepare out."
        )
    if preparation in ("clahe", "histogram"):
        return replace(task, image=replace(task.image, equalisation=preparation))
    return task


def as_trained(task: Task, weights: Path) -> Task:
    """The task with the pictures that the networks in `weights` were trained on, as their record says.

    A record that is missing or unreadable changes nothing here: whoever needs it says so.
    """
    try:
        record = json.loads((weights / f"{task.networks[-1].name}.json").read_text(encoding="utf-8"))
        preparation = record.get("preparation", "none")
    except (OSError, ValueError, AttributeError):
        return task
    return prepared(task, preparation) if preparation in PREPARATIONS else task
