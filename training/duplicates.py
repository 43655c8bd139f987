"""Pictures that look the same: copies, neighbours of one film, the same frame saved twice."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from fovea import pixels
from fovea.errors import TrainingError, UnreadableImage
from training.datasets import content

SIDE = 16
ALIKE = 0.95
"""Correlation of two thumbnails, from which on they are taken for one scene."""


def pairs(paths: Sequence[Path]) -> list[tuple[int, int]]:
    """Places (lower, higher) of every two pictures whose grey thumbnails of `SIDE`² pixels correlate ≥ `ALIKE`.

    Raises:
        TrainingError: a picture is unreadable.
    """
    stack = np.stack([_thumbnail(path) for path in paths])  # [n, SIDE²], mean 0, length 1
    found = []
    for place, row in enumerate(stack[:-1]):
        found += [(place, place + 1 + int(later)) for later in np.flatnonzero(stack[place + 1 :] @ row >= ALIKE)]
    return found


def _thumbnail(path: Path) -> npt.NDArray[np.float64]:
    try:
        picture = pixels.decode(content(path)).picture
    except UnreadableImage as error:
        raise TrainingError(f"{path}: {error}") from None
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float64).ravel()
    small -= small.mean()
    return np.asarray(small / max(float(np.linalg.norm(small)), 1e-9), np.float64)
