"""server: pictures arrive at random; the highest rate at which 99 of 100 are answered within a bound."""

import argparse
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from rich.console import Group

from benchmarks import arrivals, progress, tables, target, triton
from benchmarks.contenders import Ask
from benchmarks.load import closed_loop
from benchmarks.open_loop import Request, columns, counts, demand_answers, open_loop, requests_of
from benchmarks.results import Record, Result
from benchmarks.statistics import allowed_over, percentile, percentile_interval, verdict
from benchmarks.target import Target
from fovea.errors import UsageError
from fovea.spec import Task

CONFIRMING = 2010
"""Requests of the confirmation: as many as show p99 within the bound with 99 % confidence when ten exceed it."""
FIRST = 0.7
"""The first rate that is tried, of what the server answers in a second when asked without pause."""
STEP, RESOLUTION, LOWEST = 1.5, 1.05, 1 / 20
"""Factor between rates until one is met and one is not; then halving until they are so close. Below LOWEST × capacity
nothing is tried: the time of one lone request decides there."""
WARM_UP_S = 2.0
"""The first arrivals of every probe find an empty server and are not counted."""


def arguments(parser: argparse.ArgumentParser) -> None:
    target.arguments(parser)
    parser.add_argument("--bound-ms", type=float, default=200, metavar="MS", help="p99 from the schedule (200)")
    parser.add_argument("--requests", type=int, default=1001, help="requests a probe, at least 459 (1001)")
    parser.add_argument("--way", default="gRPC", help="gRPC (default), HTTP, 'gRPC, fused' or 'in process'")
    parser.add_argument("--seed", type=int, default=0, help="of the first probe's arrivals (0)")


async def measure(task: Task, options: argparse.Namespace) -> Path:
    """Bracket, then bisect the rate; then confirm it with more requests, going down until that succeeds."""
    if options.bound_ms <= 0:
        raise UsageError("--bound-ms must be above 0.")
    if allowed_over(options.requests) < 0:
        raise UsageError(f"--requests is {options.requests}: fewer than 459 can never show a p99 within a bound.")
    async with target.opened(task, options) as found, AsyncExitStack() as stack:
        ways = await found.ways(stack, timeout_s=max(5.0, 10 * options.bound_ms / 1e3))
        if options.way not in ways:
            raise UsageError(f"There is no way {options.way!r} here: choose one of {', '.join(ways)}.")
        ask = ways[options.way]
        await found.warm_up(ask)
        seconds, latencies = await closed_loop(ask, found.pictures, found.expected, 4, 2 * len(found.pictures))
        capacity = len(latencies) / seconds
        settings = found.settings() | {
            "bound_ms": options.bound_ms,
            "way": options.way,
            "requests_per_probe": options.requests,
            "requests_of_confirmation": CONFIRMING,
            "first_seed": options.seed,
            "warm_up": f"the arrivals of the first {WARM_UP_S:g} s of every probe are not counted",
            "load": "open loop, Poisson arrivals drawn beforehand; client and server share the cores",
            "latency": "from the scheduled instant; refused and timed-out requests count as over the bound",
        }
        with (
            Record(options.results, "server", task.name, settings, found.environment()) as record,
            progress.bar(1) as bar,
        ):

            async def probe(rate: float, count: int = options.requests) -> bool:
                number = len(record.result["runs"])
                bar.now(f"{task.name}: {rate:.1f}/s for {count / rate:.0f} s")
                record.add(await _probe(found, ask, options, rate, count, options.seed + number))
                demand_answers(requests_of(record.result["runs"][-1]))
                return bool(record.result["runs"][-1]["verdict"] == "met")

            found_rate = await highest(probe, FIRST * capacity, LOWEST * capacity)
            while found_rate is not None and not await probe(found_rate, CONFIRMING):
                found_rate = found_rate / RESOLUTION if found_rate / RESOLUTION > LOWEST * capacity else None
            record.result["capacity_per_s"] = round(capacity, 3)
            record.result["rate_per_s"] = found_rate and round(found_rate, 3)
            if found_rate is None:
                record.result["failed"] = [
                    f"{task.name} over {options.way}: no rate down to {LOWEST * capacity:.1f}/s keeps p99 within "
                    f"{options.bound_ms:g} ms: raise --bound-ms, or serve on faster hardware."
                ]
        return record.path


async def highest(probe: Callable[[float], Awaitable[bool]], first: float, lowest: float) -> float | None:
    """The highest rate that `probe` says is met, to a factor of `RESOLUTION`; None where even `lowest` is not."""
    met: float | None = None
    missed: float | None = None
    rate = first
    while met is None or missed is None or missed / met > RESOLUTION:
        if await probe(rate):
            met = rate
        else:
            missed = rate
        if met is not None and missed is not None:
            rate = math.sqrt(met * missed)
        elif met is not None:
            rate = met * STEP
        elif rate <= lowest:
            return None
        else:
            rate = max(rate / STEP, lowest)
    return met


async def _probe(
    found: Target, ask: Ask, options: argparse.Namespace, rate: float, count: int, seed: int
) -> dict[str, object]:
    """One rate: as soon as more requests exceed the bound than the verdict allows, nothing more is sent."""
    warm_up = math.ceil(WARM_UP_S * rate)
    instants = arrivals.poisson(rate, warm_up + count, seed)
    over = 0

    def enough(request: Request) -> bool:
        nonlocal over
        over += request.scheduled_s >= instants[warm_up] and exceeds(request, options.bound_ms)
        return over > allowed_over(count)

    async with triton.counting(found.grpc_url, found.models(options.way)) as server:
        requests = await open_loop(ask, found.pictures, found.expected, instants, enough)
    counted = requests[warm_up:]
    over = sum(exceeds(request, options.bound_ms) for request in counted)
    return {
        "contender": options.way,
        "load": f"{rate:.1f}/s",
        "rate_per_s": rate,
        "seed": seed,
        "warm_up": warm_up,
        "planned": count,
        "over": over,
        "verdict": verdict(over, len(counted)) if counted else "open",
        **columns(requests),
        "server": server,
    }


def exceeds(request: Request, bound_ms: float) -> bool:
    return request.outcome != "answered" or request.latency_ms > bound_ms


HEAD = (
    "task",
    "way",
    "rate/s",
    "p99 ≤ bound",
    "p50 ms",
    "p99 ms",
    "[95 %]",
    "p99 from send",
    "over",
    "samples",
    "late",
)


def table(results: Sequence[Result]) -> Group:
    """Every probe in order, the last one being the confirmation of the rate that was found; the server's split."""
    rows = []
    for result in results:
        for run in result["runs"]:
            requests = requests_of(run)[run["warm_up"] :]
            answered = [request for request in requests if request.outcome == "answered"]
            waited = [request.latency_ms for request in answered]
            p50, p99 = (tables.number(percentile(waited, p)) for p in (50, 99))
            ends = tables.interval(percentile_interval(waited, 99)) if p99 != "–" else "–"
            served = tables.number(percentile([request.service_ms for request in answered], 99))
            late = str(counts(requests)["sent late"])
            told = (run["contender"], f"{run['rate_per_s']:.1f}", run["verdict"])
            rows.append((result["task"], *told, p50, p99, ends, served, str(run["over"]), str(len(requests)), late))
    last = [{**result, "runs": result["runs"][-1:]} for result in results]
    return Group(tables.table(HEAD, rows, words=("p99 ≤ bound",)), "", tables.server(last))
