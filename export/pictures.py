"""What parity is measured on: phantoms always, and real pictures where they are given."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fovea import phantoms, pixels
from fovea.errors import UnreadableImage, UsageError
from fovea.spec import Task

PHANTOMS = 8
REAL = 32
SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff"}


def stacks(task: Task, folders: Sequence[Path]) -> dict[str, npt.NDArray[np.uint8]]:
    """Source → preprocessed pictures uint8 `[n, side, side, 3]`: `PHANTOMS` phantoms, `REAL` files spread evenly.

    Raises:
        UsageError: a folder holds no picture, or one of the chosen pictures cannot be read.
    """
    made = [phantoms.encoded(task.modalities[0], seed) for seed in range(PHANTOMS)]
    found = {"phantoms": np.stack([pixels.preprocess(encoded, task.image)[0] for encoded in made])}
    files = [file for folder in folders for file in sorted(folder.glob("*")) if file.suffix.lower() in SUFFIXES]
    if folders and not files:
        raise UsageError(f"{', '.join(map(str, folders))}: no JPEG, PNG or TIFF picture there to measure parity on.")
    if files:
        chosen = [
            files[i] for i in np.unique(np.linspace(0, len(files) - 1, min(REAL, len(files))).round().astype(int))
        ]
        real = []
        for file in chosen:
            try:
                real.append(pixels.preprocess(file.read_bytes(), task.image)[0])
            except UnreadableImage as error:
                raise UsageError(f"{file}: {error}") from None
        found["real"] = np.stack(real)
    return found
