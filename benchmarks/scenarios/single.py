"""single: one request after another; how long one picture takes when nobody else asks (p90)."""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from rich.console import Group

from benchmarks import progress, tables, target, triton
from benchmarks.load import closed_loop
from benchmarks.results import Record, Result, samples
from benchmarks.statistics import percentile, percentile_interval
from fovea.errors import UsageError
from fovea.spec import Task


def arguments(parser: argparse.ArgumentParser) -> None:
    target.arguments(parser)
    parser.add_argument("--rounds", type=int, default=4, help="interleaved rounds (4)")
    parser.add_argument("--requests", type=int, default=128, help="requests a way and round (128)")


async def measure(task: Task, options: argparse.Namespace) -> Path:
    """Every way, one request in flight, `rounds` times in rotating order."""
    if min(options.rounds, options.requests) < 1:
        raise UsageError("--rounds and --requests must be at least 1.")
    async with target.opened(task, options) as found, AsyncExitStack() as stack:
        ways = await found.ways(stack)
        settings = found.settings() | {
            "warm_up_requests": len(found.pictures),
            "requests_per_round": options.requests,
            "rounds": options.rounds,
            "load": "closed loop, one request in flight; client and server share the cores",
        }
        names = list(ways)
        with (
            Record(options.results, "single", task.name, settings, found.environment()) as record,
            progress.bar(options.rounds * len(names)) as bar,
        ):
            for turn in range(options.rounds):
                # Rotated, so that none is always first after a pause or last when the machine is warm.
                for name in names[turn % len(names) :] + names[: turn % len(names)]:
                    bar.now(f"{task.name}: {name}")
                    await found.warm_up(ways[name])
                    async with triton.counting(found.grpc_url, found.models(name)) as server:
                        seconds, latencies = await closed_loop(
                            ways[name], found.pictures, found.expected, 1, options.requests
                        )
                    record.add(
                        {
                            "contender": name,
                            "concurrency": 1,
                            "round": turn,
                            "seconds": round(seconds, 6),
                            "latencies_ms": [round(latency, 3) for latency in latencies],
                            "server": server,
                        }
                    )
                    bar.advance()
        return record.path


HEAD = ("task", "way", "p50 ms", "p90 ms", "[95 %]", "p99 ms", "samples")


def table(results: Sequence[Result]) -> Group:
    """Percentiles over all rounds, and the server's own split."""
    rows = []
    for result in results:
        grouped: dict[str, list[Result]] = defaultdict(list)
        for run in result["runs"]:
            grouped[run["contender"]].append(run)
        for name, runs in grouped.items():
            latencies = samples(runs)
            p50, p90, p99 = (tables.number(percentile(latencies, p)) for p in (50, 90, 99))
            ends = tables.interval(percentile_interval(latencies, 90))
            rows.append((result["task"], name, p50, p90, ends, p99, str(len(latencies))))
    return Group(tables.table(HEAD, rows), "", tables.server(results))
