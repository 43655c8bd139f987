"""`python -m client.demo [IMAGE…]`: a server is started, asked about phantoms or your pictures, and stopped."""

import argparse
import asyncio
import sys
import time
from pathlib import Path

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from client import batch
from client.batch import Row
from fovea import phantoms, program
from fovea.answers import to_source
from fovea.client import AsyncClient
from fovea.errors import UsageError
from fovea.phantoms import Phantom, Signs
from fovea.server import Server
from fovea.spec import THRESHOLD, Task
from fovea.tasks import TASKS, task_named

MESSAGES = Console(stderr=True, highlight=False, soft_wrap=True)
SEEDS = range(1, 7)
OUT = Path("out/demo")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m client.demo", description=__doc__)
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help="pictures or folders (phantoms)")
    parser.add_argument("--task", default="retina", help=f"one of {', '.join(TASKS)} (retina)")
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    options = parser.parse_args()
    return program.run(lambda: show(options))


def show(options: argparse.Namespace) -> int:
    """The whole demonstration; 1 if a picture got no answer."""
    task = task_named(options.task)
    files, made = (batch.find(options.images), {}) if options.images else draw_phantoms(task, OUT / "phantoms")
    MESSAGES.print(f"Starting NVIDIA's tritonserver with the task {task.name}: {task.question}")
    with Server(options.repository, [task.name]) as server:
        rows = asyncio.run(ask(server.grpc_url, task, files))
    Console().print(table(task, rows, made))
    failed = [row for row in rows if row.answer is None]
    for row in failed:
        MESSAGES.print(f"{row.file}: {row.reason}", markup=False)
    MESSAGES.print(f"Overlays are in {OUT}/. The server has stopped. Research use, not a medical device.")
    return 1 if failed else 0


def draw_phantoms(task: Task, folder: Path) -> tuple[list[Path], dict[Path, Phantom]]:
    """Phantoms as files, most tasks' every other one with signs of illness; for masks come the true vessels."""
    files: list[Path] = []
    made: dict[Path, Phantom] = {}
    for seed in SEEDS:
        path = folder / f"phantom-{seed}.{phantoms.suffix(task.modalities[0])}"
        if task.masks:
            made[path] = phantoms.fundus(seed, Signs() if seed % 2 else Signs(dots=20, blots=6, exudates=12))
        encoded = made[path].encoded() if path in made else phantoms.encoded(task.modalities[0], seed)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded)
        except OSError as error:
            raise UsageError(f"{path} cannot be written ({error.strerror}): make room, or run it elsewhere.") from None
        files.append(path)
    return files, made


async def ask(url: str, task: Task, files: list[Path]) -> list[Row]:
    """Every file's row; says how long after this program's start the first answer came."""
    rows: dict[int, Row] = {}
    async with AsyncClient(url) as client:
        async for position, row in batch.ask(client, task, files, concurrency=2, overlays=OUT):
            if not rows:
                since_start = time.time() - psutil.Process().create_time()
                MESSAGES.print(f"First answer {since_start:.1f} s after the start of this program.")
            rows[position] = row
    return [rows[position] for position in sorted(rows)]


def dice(row: Row, phantom: Phantom) -> float:
    """2·|both| / (|found| + |true|) of the first mask, in the source's pixels, inside the field of view."""
    assert row.answer is not None
    assert row.answer.frame is not None
    mask = next(iter(row.answer.masks.values()))
    height, width = phantom.vessels.shape
    inside = phantom.field_of_view == 1
    found = to_source(mask, row.answer.frame, width, height)[inside] >= THRESHOLD
    true = phantom.vessels[inside] > 0
    return float(2 * np.count_nonzero(found & true) / max(np.count_nonzero(found) + np.count_nonzero(true), 1))


def table(task: Task, rows: list[Row], made: dict[Path, Phantom]) -> Table:
    drawn = Table(box=None, pad_edge=False)
    drawn.add_column("file")
    drawn.add_column("top class")
    masks = [f"{mask.name} %" for mask in task.masks]
    for name in ("probability", *masks, "ms", *(["Dice"] if made else [])):
        drawn.add_column(name, justify="right")
    for row in rows:
        if row.answer is not None:
            known = [f"{dice(row, made[row.file]):.2f}"] if made else []
            shares = (f"{100 * share:.1f}" for _, share in row.shares)
            figures = f"{row.answer.probability:.2f}", *shares, f"{row.answer.latency_ms:.0f}", *known
            drawn.add_row(row.file.name, row.answer.label, *figures)
    return drawn


if __name__ == "__main__":
    sys.exit(main())
