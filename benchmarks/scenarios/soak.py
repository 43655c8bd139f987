"""soak: ten thousand requests; what the server holds must not grow, and every answer must be right."""

import argparse
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from statistics import median

from rich.console import Group

from benchmarks import progress, tables, target, triton
from benchmarks.load import closed_loop
from benchmarks.processes import footprint
from benchmarks.results import Record, Result, samples
from benchmarks.statistics import percentile
from fovea.errors import UsageError
from fovea.spec import Task

EVERY = 100
"""Requests between two looks at the processes."""
GROWTH = 0.02
"""Memory may be so much more at the end than after the warm-up; threads and descriptors may not be one more."""
HOLDS = {
    "rss_mib": "resident memory [MiB]",
    "shm_mib": "/dev/shm [MiB]",
    "threads": "threads",
    "descriptors": "descriptors",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    target.arguments(parser)
    parser.add_argument("--requests", type=int, default=10_000, help="requests after the warm-up (10000)")
    parser.add_argument("--warm-up", type=int, default=1000, help="requests before memory is compared (1000)")
    parser.add_argument("--in-flight", type=int, default=4, metavar="N", help="requests at a time (4)")


async def measure(task: Task, options: argparse.Namespace) -> Path:
    """Closed loop over gRPC and HTTP in turn; the processes are looked at after every hundred requests."""
    if options.url:
        raise UsageError("soak watches the processes of the server that it starts itself: leave --url out.")
    if options.requests < 10 * EVERY or min(options.warm_up, options.in_flight) < 1:
        raise UsageError(f"--requests must be at least {10 * EVERY}, --warm-up and --in-flight at least 1.")
    async with target.opened(task, options) as found, AsyncExitStack() as stack:
        assert found.server is not None
        ways = await found.ways(stack)
        names = [name for name in ways if found.models(name)]
        settings = found.settings() | {
            "requests": options.requests,
            "warm_up_requests": options.warm_up,
            "in_flight": options.in_flight,
            "load": f"closed loop over {' and '.join(names)} in turn; client and server share the cores",
        }
        for name in names:
            await found.warm_up(ways[name])
            await closed_loop(
                ways[name], found.pictures, found.expected, options.in_flight, -(-options.warm_up // len(names))
            )
        turns = -(-options.requests // EVERY)
        with (
            Record(options.results, "soak", task.name, settings, found.environment()) as record,
            progress.bar(turns) as bar,
        ):
            bar.now(f"{task.name}: {EVERY} requests a step")
            for turn in range(turns):
                name = names[turn % len(names)]
                async with triton.counting(found.grpc_url, found.models(name)) as server:
                    seconds, latencies = await closed_loop(
                        ways[name], found.pictures, found.expected, options.in_flight, EVERY
                    )
                record.add(
                    {
                        "contender": name,
                        "concurrency": options.in_flight,
                        "round": turn,
                        "seconds": round(seconds, 6),
                        "latencies_ms": [round(latency, 3) for latency in latencies],
                        "holds": asdict(footprint(found.server)),
                        "server": server,
                    }
                )
                bar.advance()
            record.result["failed"] = failed(record.result)
        return record.path


def ends(result: Result, held: str) -> tuple[float, float]:
    """What was held after the warm-up and at the end: the median of the first and of the last fifth of the looks."""
    seen = [run["holds"][held] for run in result["runs"]]
    fifth = max(1, len(seen) // 5)
    return median(seen[:fifth]), median(seen[-fifth:])


def failed(result: Result) -> list[str]:
    """A sentence for everything that grew."""
    sentences = []
    for held, name in HOLDS.items():
        first, last = ends(result, held)
        allowed = first * (1 + GROWTH) if held.endswith("_mib") else first
        if last > allowed:
            sentences.append(
                f"{result['task']}: {name} grew from {first:g} to {last:g} in {len(samples(result['runs']))} requests, "
                f'more than {allowed:g}: look at the runs\' "holds" for when.'
            )
    return sentences


HEAD = ("task", "held by tritonserver and its stubs", "first fifth", "last fifth", "growth", "goal")


def table(results: Sequence[Result]) -> Group:
    """What was held, each against its goal; then the latency of the first and the last fifth."""
    rows, speeds = [], []
    for result in results:
        for held, name in HOLDS.items():
            first, last = ends(result, held)
            goal = f"≤ {GROWTH:.0%}" if held.endswith("_mib") else "none"
            rows.append((result["task"], name, f"{first:g}", f"{last:g}", f"{last / first - 1:+.1%}", goal))
        runs = result["runs"]
        fifth = max(1, len(runs) // 5)
        for part, some in (("first fifth", runs[:fifth]), ("last fifth", runs[-fifth:]), ("all", runs)):
            latencies = samples(some)
            p50, p99 = (tables.number(percentile(latencies, p)) for p in (50, 99))
            speeds.append((result["task"], part, p50, p99, str(len(latencies)), "0"))
    latency = tables.table(("task", "requests of", "p50 ms", "p99 ms", "samples", "errors"), speeds, ("requests of",))
    return Group(tables.table(HEAD, rows, words=(HEAD[1],)), "", latency)
