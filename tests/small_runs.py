"""Small training runs that several test files share: phantoms in folders, and the tasks at a few pixels."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2

from fovea import phantoms
from fovea.spec import Heatmap, Image, Mask, Network, Task
from fovea.tasks import FUNDUS_LABELS, TASKS
from training import sources, splits
from training.run import Run

SIDE = 64
SIGNS = {
    "DiabeticRetinopathy": phantoms.Signs(dots=30, exudates=30),
    "Glaucoma": phantoms.Signs(cup=0.8),
    "Myopia": phantoms.Signs(crescent=0.7, tessellation=0.9),
    "Normal": phantoms.Signs(),
}


def small(task: Task) -> Task:
    """The task at `SIDE` pixels, its masks and heat map as much smaller."""

    def smaller(network: Network) -> Network:
        answers = tuple(
            replace(answer, side=answer.side * SIDE // task.image.side)
            if isinstance(answer, (Mask, Heatmap))
            else answer
            for answer in network.answers
        )
        return replace(network, answers=answers)

    networks = tuple(smaller(network) for network in task.networks)
    return replace(task, image=Image(SIDE, crop=task.image.crop), networks=networks)


RETINA, FUNDUS = small(TASKS["retina"]), small(TASKS["fundus"])


def write_phantoms(root: Path, count: int = 24, labels: Sequence[str] = FUNDUS_LABELS, first: int = 0) -> Path:
    """`count` phantoms of the classes in turn, seeds from `first` on, as `training.phantoms` lays them out."""
    for seed in range(first, first + count):
        label = labels[seed % len(labels)]
        made = phantoms.fundus(seed, SIGNS[label], 96, 108)
        for folder, content in ((label, made.picture[..., ::-1]), ("vessels", made.vessels)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            (root / folder / f"{seed}.png").write_bytes(cv2.imencode(".png", content)[1].tobytes())
    return root


def new_run(data: Path, out: Path) -> Run:
    """A run on the phantoms in `data` that leaves everything below `out`."""
    return Run(out, out / "weights", 7, tuple(splits.assign(sources.read(data, RETINA), seed=7)), "0" * 64)


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
