"""offline: all pictures are there at once; how many a second when nobody waits for a particular one."""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from rich.console import Group

from benchmarks import progress, tables, target, triton
from benchmarks.load import closed_loop
from benchmarks.results import Record, Result
from benchmarks.statistics import median_interval
from fovea.errors import UsageError
from fovea.spec import Task


def arguments(parser: argparse.ArgumentParser) -> None:
    target.arguments(parser)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (5)")
    parser.add_argument("--requests", type=int, default=128, help="pictures a way and round (128)")
    parser.add_argument(
        "--in-flight", type=int, default=8, metavar="N", help="as many of them are at the server, the rest wait (8)"
    )


async def measure(task: Task, options: argparse.Namespace) -> Path:
    """Every way, `rounds` times in rotating order; a round begins with every picture and ends with the last answer."""
    if min(options.rounds, options.requests, options.in_flight) < 1:
        raise UsageError("--rounds, --requests and --in-flight must be at least 1.")
    async with target.opened(task, options) as found, AsyncExitStack() as stack:
        ways = await found.ways(stack)
        settings = found.settings() | {
            "warm_up_requests": len(found.pictures),
            "requests_per_round": options.requests,
            "in_flight": options.in_flight,
            "rounds": options.rounds,
            "load": "all pictures at once, one a request; client and server share the cores",
        }
        names = list(ways)
        with (
            Record(options.results, "offline", task.name, settings, found.environment()) as record,
            progress.bar(options.rounds * len(names)) as bar,
        ):
            for turn in range(options.rounds):
                # Rotated, so that none is always first after a pause or last when the machine is warm.
                for name in names[turn % len(names) :] + names[: turn % len(names)]:
                    bar.now(f"{task.name}: {name}")
                    await found.warm_up(ways[name])
                    async with triton.counting(found.grpc_url, found.models(name)) as server:
                        seconds, latencies = await closed_loop(
                            ways[name], found.pictures, found.expected, options.in_flight, options.requests
                        )
                    record.add(
                        {
                            "contender": name,
                            "concurrency": options.in_flight,
                            "round": turn,
                            "seconds": round(seconds, 6),
                            "latencies_ms": [round(latency, 3) for latency in latencies],
                            "server": server,
                        }
                    )
                    bar.advance()
        return record.path


HEAD = ("task", "way", "in flight", "images/s", "[95 %]", "images")


def table(results: Sequence[Result]) -> Group:
    """Pictures a second as the median of rounds, and the server's own split."""
    rows = []
    for result in results:
        grouped: dict[str, list[Result]] = defaultdict(list)
        for run in result["runs"]:
            grouped[run["contender"]].append(run)
        for name, runs in grouped.items():
            median, low, high = median_interval([len(run["latencies_ms"]) / run["seconds"] for run in runs])
            images = sum(len(run["latencies_ms"]) for run in runs)
            in_flight = str(runs[0]["concurrency"])
            rows.append((result["task"], name, in_flight, f"{median:.1f}", tables.interval((low, high)), str(images)))
    return Group(tables.table(HEAD, rows), "", tables.server(results))
