"""direct: each network alone, served and in process, on the same pixels: what the server itself costs."""

import argparse
import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.table import Table

from benchmarks import progress, tables, target
from benchmarks.contenders import digest
from benchmarks.load import closed_loop
from benchmarks.results import Record, Result, samples
from benchmarks.statistics import median_interval
from benchmarks.target import Target
from benchmarks.wire import Wire
from fovea import engines
from fovea.alone import Mark
from fovea.errors import UsageError
from fovea.repository import graph_path, hint
from fovea.spec import Network, Task

Batch = npt.NDArray[np.uint8]  # [1, height, width, channels]
Ask = Callable[[Batch], Awaitable[str]]
WARM_UP = 8


def arguments(parser: argparse.ArgumentParser) -> None:
    target.arguments(parser)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (5)")
    parser.add_argument("--requests", type=int, default=64, help="requests a network, way and round (64)")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 4], metavar="N", help="in flight (1 4)")


async def measure(task: Task, options: argparse.Namespace) -> Path:
    if min(options.rounds, options.requests, *options.concurrency) < 1:
        raise UsageError("--rounds, --requests and --concurrency must be at least 1.")
    async with target.opened(task, options) as found, Wire("gRPC", found.grpc_url, found.http_url) as wire:
        settings = found.settings() | {
            "warm_up_requests": WARM_UP,
            "requests_per_round": options.requests,
            "rounds": options.rounds,
            "load": "closed loop; client and server share the cores",
        }
        steps = _inputs(found)
        with (
            Record(options.results, "direct", task.name, settings, found.environment()) as record,
            progress.bar(options.rounds * len(task.networks) * len(options.concurrency) * 2) as bar,
        ):
            for turn in range(options.rounds):
                for network in task.networks:
                    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
                        ways = {"in process": _alone(found, network, pool), "gRPC": _served(wire, task, network)}
                        expected = [await ways["in process"](batch) for batch in steps[network.name]]
                        for concurrency in options.concurrency:
                            for name in sorted(ways, reverse=turn % 2 == 1):
                                bar.now(f"{network.name}: {name} × {concurrency}")
                                given = (ways[name], steps[network.name], expected, concurrency)
                                await closed_loop(*given, WARM_UP)
                                seconds, latencies = await closed_loop(*given, options.requests)
                                record.add(
                                    {
                                        "network": network.name,
                                        "contender": name,
                                        "concurrency": concurrency,
                                        "round": turn,
                                        "seconds": round(seconds, 6),
                                        "latencies_ms": [round(x, 3) for x in latencies],
                                    }
                                )
                                bar.advance()
        return record.path


def _inputs(found: Target) -> dict[str, list[Batch]]:
    """What every network is given for each picture: the answers of those before it."""
    pipeline = engines.Pipeline(found.task, found.repository, found.hardware)
    tensors = [pipeline.answer([picture]) for picture in found.pictures]
    return {
        network.name: [each[found.task.source(network)].astype(np.uint8, copy=False) for each in tensors]
        for network in found.task.networks
    }


def _alone(found: Target, network: Network, pool: ThreadPoolExecutor) -> Ask:
    """An engine for each thread of the pool, all cores for a lone request: as the server has it."""
    graph = graph_path(found.repository, network, found.hardware).read_bytes()
    arithmetic = hint(found.repository, network, found.hardware)
    cores = len(os.sched_getaffinity(0))
    marks, local, making = bytearray(cores), threading.local(), threading.Lock()

    def run(batch: Batch) -> dict[str, "np.ndarray[Any, Any]"]:
        if not hasattr(local, "engine"):
            with making:
                local.mark = Mark(marks)
                shape = found.task.input_shape(network)
                local.engine = engines.elastic(
                    local.mark, cores, found.hardware, graph, arithmetic, network.reads, shape
                )
                local.engine.wait()
        with local.mark:
            answer = local.engine.engine(batch)
        return {tensor.name: answer[tensor.name] for tensor in found.task.graph_outputs(network)}

    async def ask(batch: Batch) -> str:
        return digest(await asyncio.get_running_loop().run_in_executor(pool, run, batch))

    return ask


def _served(wire: Wire, task: Task, network: Network) -> Ask:
    async def ask(batch: Batch) -> str:
        return digest(await wire.ask(network.name, {network.reads: batch}, task.graph_outputs(network)))

    return ask


HEAD = ("task", "network", "in flight", "in process ms", "served ms", "server's part ms", "served ÷ in process /s")


def table(results: Sequence[Result]) -> Table:
    return tables.table(HEAD, [row for result in results for row in rows(result)], ("network",))


def rows(result: Result) -> list[tuple[str, ...]]:
    """Median latencies over all rounds; throughput's ratio round by round, then its median."""
    found: list[tuple[str, ...]] = []
    keys = dict.fromkeys((run["network"], run["concurrency"]) for run in result["runs"])
    for network, concurrency in keys:
        runs: dict[str, list[Result]] = {}
        for run in result["runs"]:
            if (run["network"], run["concurrency"]) == (network, concurrency):
                runs.setdefault(run["contender"], []).append(run)
        own, served = (float(np.median(samples(runs[name]))) for name in ("in process", "gRPC"))
        pairs = zip(runs["gRPC"], runs["in process"], strict=True)
        ratio, _, _ = median_interval([inside["seconds"] / outside["seconds"] for outside, inside in pairs])
        words = (result["task"], network, str(concurrency), f"{own:.2f}", f"{served:.2f}", f"{served - own:.2f}")
        found.append((*words, f"{ratio:.2f}"))
    return found
