"""offline: all pictures are there at once; how many a second when nobody waits for a particular one."""

import argparse
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group

from benchmarks import progress, tables, target, triton
from benchmarks.contenders import InProcess, Served
from benchmarks.load import closed_loop
from benchmarks.results import Record, Result
from benchmarks.statistics import median_interval
from benchmarks.target import Target
from fovea.client import CONCURRENCY
from fovea.errors import UsageError
from fovea.spec import Task

TOGETHER = ", together"


@dataclass(frozen=True)
class Way:
    """`size` pictures a request, so that always as many pictures are on the way."""

    name: str
    contender: InProcess | Served
    size: int


def arguments(parser: argparse.ArgumentParser) -> None:
    target.arguments(parser)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (5)")
    parser.add_argument("--requests", type=int, default=128, help="pictures a way and round (128)")
    parser.add_argument(
        "--in-flight", type=int, default=CONCURRENCY, metavar="N", help=f"so many are on the way ({CONCURRENCY})"
    )


async def measure(task: Task, options: argparse.Namespace) -> Path:
    """Every way, `rounds` times in rotating order; a round begins with every picture and ends with the last answer."""
    if min(options.rounds, options.requests, options.in_flight) < 1:
        raise UsageError("--rounds, --requests and --in-flight must be at least 1.")
    async with target.opened(task, options) as found, AsyncExitStack() as stack:
        ways = await _ways(found, stack, options.in_flight)
        settings = found.settings() | {
            "warm_up_requests": len(found.pictures),
            "requests_per_round": options.requests,
            "in_flight": options.in_flight,
            "pictures_a_request": {way.name: way.size for way in ways},
            "rounds": options.rounds,
            "load": "all pictures at once; client and server share the cores",
        }
        with (
            Record(options.results, "offline", task.name, settings, found.environment()) as record,
            progress.bar(options.rounds * len(ways)) as bar,
        ):
            for turn in range(options.rounds):
                # Rotated, so that none is always first after a pause or last when the machine is warm.
                for way in ways[turn % len(ways) :] + ways[: turn % len(ways)]:
                    bar.now(f"{task.name}: {way.name}")
                    record.add({"round": turn} | await _run(found, way, options.in_flight, options.requests))
                    bar.advance()
        return record.path


async def _ways(found: Target, stack: AsyncExitStack, in_flight: int) -> list[Way]:
    """Each with one picture a request and, where that is more, with as many as the client puts into one by itself."""
    contenders = await found.contenders(stack)
    served = contenders["gRPC"]
    assert isinstance(served, Served)
    size = min(await served.client.together(found.task, in_flight), len(found.pictures))
    ways = [Way(name, each, 1) for name, each in contenders.items()]
    return ways + [Way(name + TOGETHER, each, size) for name, each in contenders.items() if size > 1]


async def _run(found: Target, way: Way, in_flight: int, pictures: int) -> dict[str, Any]:
    await found.warm_up(way.contender.ask)
    starts = range(0, len(found.pictures) - way.size + 1, way.size)
    given = [tuple(found.pictures[start : start + way.size]) for start in starts]
    expected = [tuple(found.expected[start : start + way.size]) for start in starts]
    requests = max(pictures // way.size, 1)
    async with triton.counting(found.grpc_url, found.models(way.name.removesuffix(TOGETHER))) as server:
        seconds, latencies = await closed_loop(
            way.contender.ask_together, given, expected, in_flight // way.size, requests
        )
    return {
        "contender": way.name,
        "concurrency": in_flight,
        "seconds": round(seconds, 6),
        # Each picture of a request has waited for all of it.
        "latencies_ms": [round(latency, 3) for latency in latencies for _ in range(way.size)],
        "server": server,
    }


@dataclass(frozen=True)
class Line:
    """One way over all rounds; `ratio` compares with what was the fastest in process, round by round."""

    task: str
    way: str
    size: int
    in_flight: int
    images_per_s: float
    interval: tuple[float, float]
    ratio: tuple[float, float, float]
    images: int


def lines(result: Result) -> list[Line]:
    """Medians of rounds, in the order of the ways."""
    settings = result["settings"]
    rates: dict[str, dict[int, float]] = {name: {} for name in settings["pictures_a_request"]}
    for run in result["runs"]:
        rates[run["contender"]][run["round"]] = len(run["latencies_ms"]) / run["seconds"]
    limits = [each for name, each in rates.items() if name.startswith("in process")]
    limit = max(limits, key=lambda each: median_interval(list(each.values()))[0])
    found = []
    for name, own in rates.items():
        median, low, high = median_interval(list(own.values()))
        ratio = median_interval([rate / limit[turn] for turn, rate in own.items()])
        images = sum(len(run["latencies_ms"]) for run in result["runs"] if run["contender"] == name)
        size, in_flight = settings["pictures_a_request"][name], settings["in_flight"]
        found.append(Line(result["task"], name, size, in_flight, median, (low, high), ratio, images))
    return found


HEAD = ("task", "way", "a request", "in flight", "images/s", "[95 %]", "× in process", "[95 %]", "images")


def table(results: Sequence[Result]) -> Group:
    """Pictures a second, compared with the fastest in process; and the server's own split."""
    rows = []
    for line in (line for result in results for line in lines(result)):
        rate, ends = f"{line.images_per_s:.1f}", tables.interval(line.interval)
        ratio, bounds = f"{line.ratio[0]:.2f}", tables.interval(line.ratio[1:], 2)
        sizes = str(line.size), str(line.in_flight)
        rows.append((line.task, line.way, *sizes, rate, ends, ratio, bounds, str(line.images)))
    return Group(tables.table(HEAD, rows), "", tables.server(results))
