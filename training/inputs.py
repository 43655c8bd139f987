"""What a network of a task sees: the preprocessed picture, or the mask an earlier network made of it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from fovea import pixels
from fovea.errors import TrainingError, UnreadableImage
from fovea.spec import Network, Task
from training.splits import Entry


def pictures(task: Task, entries: Sequence[Entry]) -> npt.NDArray[np.uint8]:
    """The preprocessed pictures, uint8 `[len(entries), side, side, 3]`."""
    stack = np.empty((len(entries), task.image.side, task.image.side, 3), np.uint8)
    for row, entry in enumerate(entries):
        try:
            stack[row] = pixels.preprocess(entry.sample.path.read_bytes(), task.image)[0]
        except UnreadableImage as error:
            raise TrainingError(f"{entry.sample.path}: {error}") from None
    return stack


def network_inputs(task: Task, network: Network, entries: Sequence[Entry], weights: Path) -> npt.NDArray[np.uint8]:
    """What `network` sees of every entry, uint8 `[len(entries), height, width, channels]`.

    Raises:
        TrainingError: a photograph is unreadable, or the earlier network has not been trained yet.
    """
    stack = pictures(task, entries)
    if network.reads == "image":
        return stack
    earlier = next(n for n in task.networks if any(mask.name == network.reads for mask in n.masks))
    program = load_program(weights / f"{earlier.name}.pt2")
    with torch.no_grad():
        masks = [program(torch.from_numpy(picture)[None]).numpy()[0] for picture in stack]
    # np.rint rounds halves to even, as the exported graph does.
    levels: npt.NDArray[np.uint8] = np.rint(np.stack(masks) * np.float32(255)).astype(np.uint8)
    return levels


def load_program(path: Path) -> torch.nn.Module:
    """A trained `.pt2` network: uint8 `[batch, side, side, 3]` in, probability float32 `[batch, side, side, 1]` out."""
    if not path.exists():
        raise TrainingError(f"{path} does not exist: train that network first.")
    try:
        module: torch.nn.Module = torch.export.load(path).module()
    except Exception as error:  # a damaged archive raises whatever its reader meets first
        raise TrainingError(
            f"{path} is no torch.export program ({type(error).__name__}): train that network again."
        ) from None
    return module
