"""`python -m training.phantoms DIR [--task TASK]`: write synthetic pictures of a task's classes.

`DIR/phantoms/<label>/<seed>.jpg`, `DIR/phantoms/vessels/<seed>.png`, `DIR/phantoms/field_of_view/<seed>.png` for
fundus photographs, whose vessels are known exactly; `DIR/phantoms/<label>/<seed>__1.jpg` (or `.png`) for the others.
`python -m training --data DIR` reads both. A label decides only which signs are drawn: anatomy, camera, light and noise
come from the phantom's seed alone, and seeds are dealt to the classes in turn, so class and camera are independent.
"""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fovea.errors import FoveaError, TrainingError
from fovea.phantoms import Shown, Signs, artery, disc, drawn, fundus, glomerulus, oct, suffix
from fovea.spec import Modality
from fovea.tasks import TASKS, task_named

CONSOLE = Console(stderr=True)
SEEDS_PER_RUN = 1_000_000
"""Runs with different `--seed` share no phantom as long as each writes fewer than this."""


def signs(modality: Modality, label: str, generator: np.random.Generator) -> Shown:
    """Draw the signs of one picture of that class; what the class does not change is drawn as in health.

    Raises:
        TrainingError: the label has no drawing rule.
    """
    cup, large_cup, tessellation = generator.uniform(0.2, 0.45), (0.65, 0.9), generator.uniform(0.0, 0.15)
    match modality, label:
        case "fundus", "Normal":
            return Signs(cup=cup, tessellation=tessellation)
        case "fundus", "DiabeticRetinopathy":
            dots, blots, exudates = (int(generator.integers(low, high)) for low, high in ((8, 41), (3, 16), (0, 49)))
            return Signs(dots=dots, blots=blots, exudates=exudates, cup=cup, tessellation=tessellation)
        case "fundus", "Glaucoma":
            return Signs(cup=generator.uniform(*large_cup), tessellation=tessellation)
        case "fundus", "Myopia":
            crescent, shown = generator.uniform(0.2, 0.8), generator.uniform(0.4, 1.0)
            return Signs(cup=cup, crescent=crescent, tessellation=shown)
        case "disc", "Normal":
            return disc.Signs(cup=cup)
        case "disc", "Glaucoma":
            return disc.Signs(cup=generator.uniform(*large_cup))
        case "oct", "NORMAL":
            return oct.Signs()
        case "oct", "CNV":
            return oct.Signs(membrane=generator.uniform(0.6, 1.0), fluid=generator.uniform(0.3, 1.0))
        case "oct", "DME":
            return oct.Signs(cysts=int(generator.integers(7, 19)))
        case "oct", "DRUSEN":
            return oct.Signs(bumps=int(generator.integers(5, 13)))
        case "glomerulus", "globally_sclerotic_glomeruli":
            return glomerulus.Signs(sclerosis=generator.uniform(0.75, 1.0))
        case "glomerulus", "non_globally_sclerotic_glomeruli":
            return glomerulus.Signs(sclerosis=generator.uniform(0.0, 0.35))
        case "artery", "healthy":
            return artery.Signs(stenosis=generator.uniform(0.0, 0.1))
        case "artery", "unhealthy":
            return artery.Signs(stenosis=generator.uniform(0.65, 0.9), lesions=int(generator.integers(3, 6)))
    raise TrainingError(f"There are no signs to draw for {label!r} ({modality}): add them to training/phantoms.py.")


def files(modality: Modality, label: str, seed: int) -> dict[str, bytes]:
    """The phantom of that seed with signs of that class: what to write, by its path below `phantoms/`."""
    # fovea.phantoms seeds its own streams with [seed, 0…3]; this one is another.
    shown = signs(modality, label, np.random.default_rng([seed, 4]))
    if isinstance(shown, Signs):
        made = fundus(seed, shown)
        return {
            f"{label}/{seed}.jpg": made.encoded("jpg"),
            f"vessels/{seed}.png": cv2.imencode(".png", made.vessels)[1].tobytes(),
            f"field_of_view/{seed}.png": cv2.imencode(".png", made.field_of_view * 255)[1].tobytes(),
        }
    return {f"{label}/{seed}__1.{suffix(modality)}": drawn(seed, shown)}


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.phantoms", description="Write synthetic pictures of a task's classes."
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="where the folder phantoms/ is written")
    parser.add_argument("--task", choices=TASKS, default="fundus", help="whose classes and pictures (fundus)")
    parser.add_argument("--count", type=int, default=40, metavar="N", help="pictures of each class (40)")
    parser.add_argument("--seed", type=int, default=7, help="not negative; other seeds give other phantoms (7)")
    return parser


def main() -> int:
    parser = arguments()
    options = parser.parse_args()
    task = task_named(options.task)
    total = options.count * len(task.labels)
    if not 0 < total <= SEEDS_PER_RUN or options.seed < 0:
        limit = SEEDS_PER_RUN // len(task.labels)
        parser.error(f"--count must lie between 1 and {limit} and --seed must not be negative.")
    folder = options.folder / "phantoms"
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    try:
        with Progress(*columns, console=CONSOLE) as bar:
            for number in bar.track(range(total), description="phantoms"):
                label, seed = task.labels[number % len(task.labels)], options.seed * SEEDS_PER_RUN + number
                for name, content in files(task.modalities[0], label, seed).items():
                    path = folder / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
    except (FoveaError, OSError) as error:
        CONSOLE.print(str(error), highlight=False)
        return 1
    except KeyboardInterrupt:
        CONSOLE.print("Stopped; the phantoms written so far are complete. The same command writes them all again.")
        return 130
    print(f"{total} phantoms, seed {options.seed}, in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
