"""sweep: engine and precision × design × transport × batch × concurrency, each cell measured in turn."""

import argparse
import asyncio
import itertools
import os
import random
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from rich.table import Table

from benchmarks import environment, progress, tables, target, variants
from benchmarks.contenders import InProcess, digest
from benchmarks.load import closed_loop
from benchmarks.results import Record, Result, samples
from benchmarks.statistics import percentile
from benchmarks.variants import Variant
from benchmarks.wire import Way, Wire
from fovea import pixels
from fovea.errors import UsageError
from fovea.hardware import choose
from fovea.repository import fused_name
from fovea.server import Server
from fovea.spec import FRAME, Task

WARM_UP = 4
DESIGNS = ("ensemble", "fused", "client-side")
Batch = tuple[bytes, ...]
Digests = tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One way to serve and ask; `client-side` preprocesses in the client and asks every network by itself."""

    variant: str
    design: str
    way: Way
    batch: int
    concurrency: int


def arguments(parser: argparse.ArgumentParser) -> None:
    target.arguments(parser)
    parser.add_argument("--requests", type=int, default=48, help="pictures a cell and round (48)")
    parser.add_argument("--rounds", type=int, default=2, help="rounds, each in another random order (2)")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 4], metavar="N", help="in flight (1 4)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4], metavar="N", help="pictures a request (1 4)")
    parser.add_argument("--seed", type=int, default=0, help="of the order of cells (0)")


async def measure(task: Task, options: argparse.Namespace) -> Path:
    """All variants are served at once, and their cells are asked one by one in random order: idle servers only wait."""
    if min(options.requests, options.rounds, *options.concurrency, *options.batch) < 1:
        raise UsageError("--requests, --rounds, --concurrency and --batch must be at least 1.")
    if max(options.batch) > task.max_batch:
        raise UsageError(f"--batch is at most {task.max_batch}, which the configs of {task.name} allow.")
    if options.url:
        raise UsageError("sweep starts its own servers, one for each engine and precision: leave --url out.")
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fovea-sweep-")))
        asks: dict[Cell, Callable[[Batch], Awaitable[Digests]]] = {}
        expected: dict[str, list[str]] = {}
        pictures = target.pictures(task)
        for variant in _variants(task, options):
            progress.MESSAGES.print(f"Serving {variant.name}.")
            ways, expected[variant.name] = await _serve(task, variant, options.repository, folder, pictures, stack)
            for (design, way), ask in ways.items():
                for batch, concurrency in itertools.product(options.batch, options.concurrency):
                    asks[Cell(variant.name, design, way, batch, concurrency)] = ask
        settings = {
            "pictures": f"{len(pictures)} distinct phantoms",
            "requests_per_round": options.requests,
            "rounds": options.rounds,
            "seed": options.seed,
            "warm_up_requests": WARM_UP,
            "hardware": "as named in each run",
            "load": "closed loop; client and servers share the cores",
            "answers": "every answer compared bit for bit with the in-process one of the same engine and precision",
        }
        described = environment.describe(options.repository, task, "cpu")
        with (
            Record(options.results, "sweep", task.name, settings, described) as record,
            progress.bar(options.rounds * len(asks)) as bar,
        ):
            for turn in range(options.rounds):
                cells = random.Random(options.seed + turn).sample(list(asks), len(asks))
                for cell in cells:
                    bar.now(
                        f"{task.name}: {cell.variant}, {cell.design}, {cell.way}, {cell.batch} × {cell.concurrency}"
                    )
                    run = await _cell(cell, asks[cell], pictures, expected[cell.variant], options.requests)
                    record.add({**vars(cell), "round": turn, **run})
                    bar.advance()
        return record.path


def _variants(task: Task, options: argparse.Namespace) -> list[Variant]:
    cores = len(os.sched_getaffinity(0))
    hardware = options.hardware
    if hardware == "auto":
        hardware, _ = choose([options.repository / network.name for network in task.networks])
    return [
        variants.committed(task, options.repository, hardware, cores),
        *variants.engines(task, options.repository, cores),
    ]


async def _serve(
    task: Task, variant: Variant, repository: Path, folder: Path, pictures: Sequence[bytes], stack: AsyncExitStack
) -> tuple[dict[tuple[str, Way], Callable[[Batch], Awaitable[Digests]]], list[str]]:
    """The ways to ask a server of this variant, and the digest that every picture must have."""
    as_committed = variant.name.endswith("as committed")
    fused = as_committed and (repository / fused_name(task)).is_dir()
    own = repository if as_committed else variants.write(variant, task, repository, folder / variant.name)
    server = stack.enter_context(Server(own, [task.name], hardware=variant.hardware, fused=fused))
    async with InProcess(task, own, variant.hardware) as limit:
        expected = [await limit.ask(picture) for picture in pictures]
    pool = stack.enter_context(ThreadPoolExecutor(len(os.sched_getaffinity(0))))
    ways: dict[tuple[str, Way], Callable[[Batch], Awaitable[Digests]]] = {}
    for way in get_args(Way):
        wire = await stack.enter_async_context(Wire(way, server.grpc_url, server.http_url))
        ways["ensemble", way] = _whole(wire, task, task.name)
        if fused and way == "gRPC":
            ways["fused", way] = _whole(wire, task, fused_name(task))
        if way != "HTTP":
            ways["client-side", way] = _steps(wire, task, pool)
    return ways, expected


def _whole(wire: Wire, task: Task, model: str) -> Callable[[Batch], Awaitable[Digests]]:
    async def ask(batch: Batch) -> Digests:
        encoded = np.array([[picture] for picture in batch], dtype=object)
        answer = await wire.ask(model, {"image": encoded}, task.outputs)
        return _digests(answer, len(batch))

    return ask


def _steps(wire: Wire, task: Task, pool: ThreadPoolExecutor) -> Callable[[Batch], Awaitable[Digests]]:
    """Preprocessing on the client's threads, then a call for each network."""

    async def ask(batch: Batch) -> Digests:
        loop = asyncio.get_running_loop()
        seen = await asyncio.gather(
            *(loop.run_in_executor(pool, pixels.preprocess, picture, task.image) for picture in batch)
        )
        tensors = {"pixels": np.stack([picture for picture, _ in seen])}
        tensors[FRAME.name] = np.array([frame for _, frame in seen], np.int32)
        for network in task.networks:
            inputs = {network.reads: tensors[task.source(network)]}
            tensors |= await wire.ask(network.name, inputs, task.graph_outputs(network))
        return _digests({tensor.name: tensors[tensor.name] for tensor in task.outputs}, len(batch))

    return ask


def _digests(answer: dict[str, "np.ndarray[tuple[int, ...], np.dtype[np.generic]]"], rows: int) -> Digests:
    return tuple(digest({name: array[row : row + 1] for name, array in answer.items()}) for row in range(rows))


async def _cell(
    cell: Cell,
    ask: Callable[[Batch], Awaitable[Digests]],
    pictures: Sequence[bytes],
    expected: Sequence[str],
    requests: int,
) -> dict[str, object]:
    starts = range(0, len(pictures) - cell.batch + 1, cell.batch)
    batches = [tuple(pictures[start : start + cell.batch]) for start in starts]
    digests = [tuple(expected[start : start + cell.batch]) for start in starts]
    count = max(requests // cell.batch, cell.concurrency)
    await closed_loop(ask, batches, digests, cell.concurrency, WARM_UP)
    seconds, latencies = await closed_loop(ask, batches, digests, cell.concurrency, count)
    return {"seconds": round(seconds, 6), "latencies_ms": [round(x, 3) for x in latencies]}


HEAD = ("task", "served", "design", "transport", "batch", "in flight", "images/s", "p50 ms", "p90 ms", "requests")


def table(results: Sequence[Result]) -> Table:
    """Fastest first."""
    return tables.table(HEAD, [row for result in results for row in rows(result)], ("served", "design", "transport"))


def _cells(result: Result) -> dict[Cell, list[Result]]:
    cells: dict[Cell, list[Result]] = {}
    for run in result["runs"]:
        cell = Cell(run["variant"], run["design"], run["way"], run["batch"], run["concurrency"])
        cells.setdefault(cell, []).append(run)
    return cells


def rates(result: Result) -> dict[Cell, float]:
    """Images per second, the median of rounds; fastest first."""
    found = {
        cell: float(np.median([len(run["latencies_ms"]) * cell.batch / run["seconds"] for run in runs]))
        for cell, runs in _cells(result).items()
    }
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def rows(result: Result) -> list[tuple[str, ...]]:
    """One for each cell, all rounds together."""
    found: list[tuple[str, ...]] = []
    for cell, rate in rates(result).items():
        latencies = samples(_cells(result)[cell])
        p50, p90 = (
            f"{value:.1f}" if value is not None else "–" for p in (50, 90) for value in [percentile(latencies, p)]
        )
        words = (result["task"], cell.variant, cell.design, cell.way, str(cell.batch), str(cell.concurrency))
        found.append((*words, f"{rate:.1f}", p50, p90, str(len(latencies))))
    return found
