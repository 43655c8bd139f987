"""`python -m training.phantoms DIR`: write synthetic fundus photographs of the four classes, with their exact vessels.

`DIR/phantoms/<label>/<seed>.jpg`, `DIR/phantoms/vessels/<seed>.png`, `DIR/phantoms/field_of_view/<seed>.png`, which
`python -m training --data DIR` reads. A label decides only which signs are drawn: eye, camera, light and noise come
from the phantom's seed alone, and seeds are dealt to the classes in turn, so class and camera are independent.
"""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fovea.errors import FoveaError, TrainingError
from fovea.phantoms import Phantom, Signs, fundus
from fovea.tasks import FUNDUS_LABELS

CONSOLE = Console(stderr=True)
SEEDS_PER_RUN = 1_000_000
"""Runs with different `--seed` share no phantom as long as each writes fewer than this."""


def signs(label: str, generator: np.random.Generator) -> Signs:
    """Draw the signs of one photograph of that class; what the class does not change is drawn as in a healthy eye.

    Raises:
        TrainingError: the label has no drawing rule.
    """
    cup, tessellation = generator.uniform(0.2, 0.45), generator.uniform(0.0, 0.15)
    match label:
        case "Normal":
            return Signs(cup=cup, tessellation=tessellation)
        case "DiabeticRetinopathy":
            dots, blots, exudates = (int(generator.integers(low, high)) for low, high in ((8, 41), (3, 16), (0, 49)))
            return Signs(dots=dots, blots=blots, exudates=exudates, cup=cup, tessellation=tessellation)
        case "Glaucoma":
            return Signs(cup=generator.uniform(0.65, 0.9), tessellation=tessellation)
        case "Myopia":
            crescent, shown = generator.uniform(0.2, 0.8), generator.uniform(0.4, 1.0)
            return Signs(cup=cup, crescent=crescent, tessellation=shown)
    raise TrainingError(f"There are no signs to draw for {label!r}: add them to training/phantoms.py.")


def phantom(label: str, seed: int) -> Phantom:
    """The phantom of that seed, with signs of that class."""
    # fovea.phantoms seeds its own streams with [seed, 0…3]; this one is another.
    return fundus(seed, signs(label, np.random.default_rng([seed, 4])))


def write(made: Phantom, label: str, seed: int, folder: Path) -> None:
    """Write the photograph and its two masks below `folder`."""
    files = {
        folder / label / f"{seed}.jpg": made.encoded("jpg"),
        folder / "vessels" / f"{seed}.png": cv2.imencode(".png", made.vessels)[1].tobytes(),
        folder / "field_of_view" / f"{seed}.png": cv2.imencode(".png", made.field_of_view * 255)[1].tobytes(),
    }
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.phantoms", description="Write synthetic fundus photographs with their exact vessels."
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="where the folder phantoms/ is written")
    parser.add_argument("--count", type=int, default=40, metavar="N", help="photographs of each class (40)")
    parser.add_argument("--seed", type=int, default=7, help="not negative; other seeds give other phantoms (7)")
    return parser


def main() -> int:
    parser = arguments()
    options = parser.parse_args()
    total = options.count * len(FUNDUS_LABELS)
    if not 0 < total <= SEEDS_PER_RUN or options.seed < 0:
        limit = SEEDS_PER_RUN // len(FUNDUS_LABELS)
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
                label, seed = FUNDUS_LABELS[number % len(FUNDUS_LABELS)], options.seed * SEEDS_PER_RUN + number
                write(phantom(label, seed), label, seed, folder)
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
