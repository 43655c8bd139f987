"""What a network of a task sees: the preprocessed picture, or the mask an earlier network made of it."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import Progress

from fovea import pixels
from fovea.errors import TrainingError, UnreadableImage
from fovea.spec import Network, Task
from training.datasets import content
from training.run import Run
from training.splits import Entry

CHUNK = 64
"""Pictures preprocessed at once."""


def pictures(task: Task, entries: Sequence[Entry]) -> npt.NDArray[np.uint8]:
    """The preprocessed pictures, uint8 `[len(entries), side, side, 3]`."""
    stack = np.empty((len(entries), task.image.side, task.image.side, 3), np.uint8)
    for row, entry in enumerate(entries):
        try:
            stack[row] = pixels.preprocess(content(entry.sample.path), task.image)[0]
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
    program = load_program(_upstream(task, network, weights))
    with torch.no_grad():
        masks = [program(torch.from_numpy(picture)[None]).numpy()[0] for picture in stack]
    # np.rint rounds halves to even, as the exported graph does.
    levels: npt.NDArray[np.uint8] = np.rint(np.stack(masks) * np.float32(255)).astype(np.uint8)
    return levels


def stored_inputs(
    task: Task, network: Network, entries: Sequence[Entry], run: Run, bar: Progress
) -> npt.NDArray[np.uint8]:
    """As `network_inputs`, from a file in the run's folder: a published data set may be larger than the memory.

    The file is named by what is in it, made once and read again by a resumed training.

    Raises:
        TrainingError: as `network_inputs`, or no room for the file.
    """
    seen = [repr(task.image), *(entry.sha256 for entry in entries)]
    if network.reads != "image":
        seen.append(hashlib.sha256(_upstream(task, network, run.weights).read_bytes()).hexdigest())
    digest = hashlib.sha256("\n".join(seen).encode()).hexdigest()
    path = run.folder / "inputs" / f"{network.name}-{digest[:16]}.npy"

    def fill(part: Path) -> None:
        shape = len(entries), *task.input_shape(network)
        array = np.lib.format.open_memmap(part, "w+", np.uint8, shape)  # type: ignore[no-untyped-call]
        row = bar.add_task("reading pictures", total=len(entries), note="")
        for first in range(0, len(entries), CHUNK):
            chunk = entries[first : first + CHUNK]
            array[first : first + len(chunk)] = network_inputs(task, network, chunk, run.weights)
            bar.advance(row, len(chunk))
        array.flush()
        bar.remove_task(row)

    if not path.exists():
        run.replace(path, fill)
    stored: npt.NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return stored


def _upstream(task: Task, network: Network, weights: Path) -> Path:
    earlier = next(n for n in task.networks if any(mask.name == network.reads for mask in n.masks))
    path = weights / f"{earlier.name}.pt2"
    if not path.exists():
        raise TrainingError(f"{path} does not exist: train that network first.")
    return path


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
