"""`python -m benchmarks [TASK…]`: in-process, gRPC and HTTP side by side; raw samples kept, README's table remade."""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks import environment, perf_analyzer, report
from benchmarks.contenders import Ask, InProcess, Served
from benchmarks.load import Run, closed_loop
from fovea import phantoms, program
from fovea.errors import FoveaError, UsageError
from fovea.repository import fused_name, graph_path, hint
from fovea.server import Server
from fovea.spec import Task
from fovea.tasks import TASKS, task_named

MESSAGES = Console(stderr=True, highlight=False, soft_wrap=True)
REPOSITORY = Path("model_repository")
RESULTS = Path("benchmarks/results")
PICTURES = 32
CONCURRENCIES = [1, 2, 4]
WARM_UP = 8


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"which of {', '.join(TASKS)} (all)")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (5)")
    parser.add_argument("--requests", type=int, default=96, help="requests a contender and round (96)")
    parser.add_argument(
        "--concurrency", type=int, nargs="+", default=CONCURRENCIES, metavar="N", help="requests in flight (1 2 4)"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true", help="only remake the table and plots from --results")
    parser.add_argument("--no-perf-analyzer", action="store_true", help="leave out the cross-check")
    options = parser.parse_args()
    return program.run(lambda: bench(options), "Stopped; nothing was written for the unfinished task.")


def bench(options: argparse.Namespace) -> int:
    """Measure the tasks one by one, keeping each result as soon as it is complete; then remake the report."""
    if min(options.rounds, options.requests, *options.concurrency) < 1:
        raise UsageError("--rounds, --requests and --concurrency must be at least 1.")
    if not options.report:
        for name in options.tasks or TASKS:
            result = asyncio.run(measure(task_named(name), options))
            options.results.mkdir(parents=True, exist_ok=True)
            path = options.results / f"{name}.json"
            path.write_text(json.dumps(result, indent=1) + "\n")
            MESSAGES.print(f"Wrote {path}.")
    results = report.load(options.results)
    Console().print(report.console_table(results))
    if options.results == RESULTS:
        report.write(results, options.results, Path("README.md"))
    return 0


async def measure(task: Task, options: argparse.Namespace) -> dict[str, Any]:
    """Every contender at every concurrency, `rounds` times in rotating order, on the same distinct pictures."""
    pictures = [phantoms.encoded(task.modalities[0], seed) for seed in range(PICTURES)]
    kind = {"png": "PNG", "jpg": "JPEG"}[phantoms.suffix(task.modalities[0])]
    fused = (REPOSITORY / fused_name(task)).is_dir()
    with Server(REPOSITORY, [task.name], fused=fused) as server:
        async with AsyncExitStack() as stack:
            limit = await stack.enter_async_context(InProcess(task, REPOSITORY, server.hardware))
            grpc = await stack.enter_async_context(Served(task, server.grpc_url))
            http = await stack.enter_async_context(Served(task, server.http_url))
            contenders: dict[str, Ask] = {"in process": limit.ask, "gRPC": grpc.ask, "HTTP": http.ask}
            if fused:
                one_hop = Served(replace(task, name=fused_name(task)), server.grpc_url)
                contenders["gRPC, fused"] = (await stack.enter_async_context(one_hop)).ask
            expected = [await limit.ask(picture) for picture in pictures]
            runs = await _rounds(task, contenders, pictures, expected, options)
        check = [] if options.no_perf_analyzer else _cross_check(task, server.grpc_url, pictures, options.requests)
    return {
        "schema": 1,
        "task": task.name,
        "date": time.strftime("%Y-%m-%d"),
        "settings": {
            "pictures": f"{PICTURES} distinct phantoms, seeds 0 to {PICTURES - 1}, {kind}",
            "warm_up_requests": WARM_UP,
            "requests_per_round": options.requests,
            "rounds": options.rounds,
            "hardware": server.hardware,
            "graphs": {
                network.name: [
                    graph_path(REPOSITORY, network, server.hardware).name,
                    hint(REPOSITORY, network, server.hardware),
                ]
                for network in task.networks
            },
            "load": "closed loop; client and server share the cores",
            "answers": "every answer compared bit for bit with the in-process one",
        },
        "environment": environment.describe(REPOSITORY, task, server.hardware),
        "runs": [asdict(run) | {"latencies_ms": [round(x, 3) for x in run.latencies_ms]} for run in runs],
        "perf_analyzer": check,
    }


async def _rounds(
    task: Task,
    contenders: dict[str, Ask],
    pictures: Sequence[bytes],
    expected: Sequence[str],
    options: argparse.Namespace,
) -> list[Run]:
    runs = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("left"))
    names = list(contenders)
    with Progress(*columns, TimeRemainingColumn(), console=MESSAGES, transient=True) as bar:
        line = bar.add_task(task.name, total=options.rounds * len(options.concurrency) * len(names))
        for turn in range(options.rounds):
            for concurrency in options.concurrency:
                # Rotated, so that none is always first after a pause or last when the machine is warm.
                for name in names[turn % len(names) :] + names[: turn % len(names)]:
                    bar.update(line, description=f"{task.name}: {name} × {concurrency}")
                    await closed_loop(contenders[name], pictures, expected, concurrency, WARM_UP)
                    seconds, latencies = await closed_loop(
                        contenders[name], pictures, expected, concurrency, options.requests
                    )
                    runs.append(Run(name, concurrency, turn, round(seconds, 6), tuple(latencies)))
                    bar.advance(line)
    return runs


def _cross_check(task: Task, url: str, pictures: Sequence[bytes], count: int) -> list[dict[str, Any]]:
    """perf_analyzer's view, or a line saying why there is none: its absence must not cost the measurement."""
    found = []
    for concurrency in CONCURRENCIES:
        try:
            folder = Path("out/perf_analyzer").resolve()
            found.append(perf_analyzer.measure(folder, url, task.name, pictures, concurrency, count))
        except FoveaError as error:
            MESSAGES.print(str(error), markup=False)
            break
    return found


if __name__ == "__main__":
    sys.exit(main())
