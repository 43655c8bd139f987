"""multi: N requests in flight, the next sent when one returns; in process, gRPC, HTTP and fused side by side."""

import argparse
import asyncio
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks import perf_analyzer, progress, target, triton
from benchmarks.contenders import Ask
from benchmarks.load import closed_loop
from benchmarks.results import Record, Result, samples
from benchmarks.statistics import median_interval, percentile
from benchmarks.target import Target
from fovea.errors import FoveaError, UsageError
from fovea.spec import Task

CONCURRENCIES = [1, 2, 4]
WARM_UP = 8
LIMIT = "in process"


def arguments(parser: argparse.ArgumentParser) -> None:
    target.arguments(parser)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (5)")
    parser.add_argument("--requests", type=int, default=96, help="requests a contender and round (96)")
    parser.add_argument(
        "--concurrency", type=int, nargs="+", default=CONCURRENCIES, metavar="N", help="requests in flight (1 2 4)"
    )
    parser.add_argument("--no-perf-analyzer", action="store_true", help="leave out the cross-check")


async def measure(task: Task, options: argparse.Namespace) -> Path:
    """Every contender at every concurrency, `rounds` times in rotating order, on the same distinct pictures."""
    if min(options.rounds, options.requests, *options.concurrency) < 1:
        raise UsageError("--rounds, --requests and --concurrency must be at least 1.")
    async with target.opened(task, options) as found, AsyncExitStack() as stack:
        contenders = await found.ways(stack)
        settings = found.settings() | {
            "warm_up_requests": WARM_UP,
            "requests_per_round": options.requests,
            "rounds": options.rounds,
            "load": "closed loop; client and server share the cores",
        }
        with Record(options.results, "multi", task.name, settings, found.environment()) as record:
            await _rounds(found, contenders, options, record)
            record.result["perf_analyzer"] = [] if options.no_perf_analyzer else await _cross_check(found, options)
        return record.path


async def _rounds(found: Target, contenders: dict[str, Ask], options: argparse.Namespace, record: Record) -> None:
    names = list(contenders)
    with progress.bar(options.rounds * len(options.concurrency) * len(names)) as bar:
        for turn in range(options.rounds):
            for concurrency in options.concurrency:
                # Rotated, so that none is always first after a pause or last when the machine is warm.
                for name in names[turn % len(names) :] + names[: turn % len(names)]:
                    bar.now(f"{found.task.name}: {name} × {concurrency}")
                    ask = contenders[name]
                    await closed_loop(ask, found.pictures, found.expected, concurrency, WARM_UP)
                    async with triton.counting(found.grpc_url, found.models(name)) as server:
                        seconds, latencies = await closed_loop(
                            ask, found.pictures, found.expected, concurrency, options.requests
                        )
                    record.add(
                        {
                            "contender": name,
                            "concurrency": concurrency,
                            "round": turn,
                            "seconds": round(seconds, 6),
                            "latencies_ms": [round(x, 3) for x in latencies],
                            "server": server,
                        }
                    )
                    bar.advance()


async def _cross_check(found: Target, options: argparse.Namespace) -> list[dict[str, Any]]:
    """perf_analyzer's view, or a line saying why there is none: its absence must not cost the measurement."""
    checks = []
    for concurrency in options.concurrency:
        try:
            checks.append(
                await asyncio.to_thread(
                    perf_analyzer.measure,
                    Path("out/perf_analyzer").resolve(),
                    found.grpc_url,
                    found.task.name,
                    found.pictures,
                    concurrency,
                    options.requests,
                )
            )
        except FoveaError as error:
            progress.MESSAGES.print(str(error), markup=False)
            break
    return checks


@dataclass(frozen=True)
class Line:
    """One contender at one concurrency, over all rounds."""

    task: str
    contender: str
    concurrency: int
    images_per_s: float
    interval: tuple[float, float]
    ratio: float
    samples: int
    percentiles_ms: dict[int, float | None]


def lines(result: Result) -> list[Line]:
    """Throughput as the median of rounds; its ratio to the in-process limit round by round, then the median."""
    grouped: dict[tuple[str, int], list[Result]] = defaultdict(list)
    for run in result["runs"]:
        grouped[run["contender"], run["concurrency"]].append(run)
    found = []
    for (contender, concurrency), runs in sorted(grouped.items(), key=lambda item: (item[0][1], item[0][0] != LIMIT)):
        rates = [len(run["latencies_ms"]) / run["seconds"] for run in runs]
        limit = {run["round"]: len(run["latencies_ms"]) / run["seconds"] for run in grouped[LIMIT, concurrency]}
        latencies = samples(runs)
        median, low, high = median_interval(rates)
        ratio, _, _ = median_interval([rate / limit[run["round"]] for rate, run in zip(rates, runs, strict=True)])
        percentiles = {p: percentile(latencies, p) for p in (50, 95, 99)}
        found.append(
            Line(result["task"], contender, concurrency, median, (low, high), ratio, len(latencies), percentiles)
        )
    return found


HEAD = ("task", "concurrency", "way", "images/s", "[95 %]", "× in process", "p50 ms", "p95 ms", "p99 ms", "samples")


def cells(line: Line) -> tuple[str, ...]:
    p50, p95, p99 = (f"{value:.1f}" if value is not None else "–" for value in line.percentiles_ms.values())
    low, high = line.interval
    rate, interval = f"{line.images_per_s:.1f}", f"{low:.1f}–{high:.1f}"
    return line.task, str(line.concurrency), line.contender, rate, interval, f"{line.ratio:.2f}", p50, p95, p99, str(
        line.samples
    )  # fmt: skip


@dataclass(frozen=True)
class Best:
    """One contender at the concurrency where it answers most; `ratio` compares with the best of the limit.

    `alone_ms` is its median latency with one request in flight, `p99_ms` that at its best concurrency.
    """

    task: str
    contender: str
    concurrency: int
    images_per_s: float
    interval: tuple[float, float]
    ratio: tuple[float, float, float]
    alone_ms: float | None
    p99_ms: float | None


def best(result: Result) -> list[Best]:
    """In the order of the contenders."""
    every = lines(result)
    names = list(dict.fromkeys(line.contender for line in every))
    tops = {name: max((x for x in every if x.contender == name), key=lambda x: x.images_per_s) for name in names}
    alone = {x.contender: x.percentiles_ms[50] for x in every if x.concurrency == 1}
    limit = _by_round(result, LIMIT, tops[LIMIT].concurrency)
    found = []
    for name, top in tops.items():
        own = _by_round(result, name, top.concurrency)
        ratio = median_interval([own[turn] / limit[turn] for turn in own])
        figures = (top.concurrency, top.images_per_s, top.interval, ratio, alone.get(name), top.percentiles_ms[99])
        found.append(Best(result["task"], name, *figures))
    return found


def _by_round(result: Result, contender: str, concurrency: int) -> dict[int, float]:
    """Images per second."""
    return {
        run["round"]: len(run["latencies_ms"]) / run["seconds"]
        for run in result["runs"]
        if (run["contender"], run["concurrency"]) == (contender, concurrency)
    }


def table(results: Sequence[Result]) -> Table:
    """As the README shows it."""
    made = Table(box=None, pad_edge=False)
    for name in HEAD:
        made.add_column(name, justify="left" if name in ("task", "way") else "right")
    for result in results:
        for line in lines(result):
            made.add_row(*cells(line))
    return made
