"""overload: three times as many pictures as can be answered; what is answered, what is refused, what comes after."""

import argparse
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Group

from benchmarks import arrivals, progress, tables, target, triton
from benchmarks.load import closed_loop
from benchmarks.open_loop import Outcome, Request, columns, counts, demand_answers, open_loop, requests_of
from benchmarks.results import Record, Result
from benchmarks.statistics import percentile
from fovea.errors import UsageError
from fovea.spec import Task

DEADLINE_S = 10.0
KEPT = 0.9
"""Of the throughput before, at least so much is answered during the overload."""
REFUSED_MS = 250.0
"""99 of 100 refusals come within this time: before a person wonders whether anything happens."""
NORMAL_S, NORMAL = 5.0, 2.0
"""So long after the overload, at the latest, a request takes no more than NORMAL × the slowest of those before."""
AFTER_S = 15.0
AFTER_PER_S = 4.0
"""How long, and how often, requests are sent afterwards to see when they are answered as before."""


def arguments(parser: argparse.ArgumentParser) -> None:
    target.arguments(parser)
    parser.add_argument("--times", type=float, default=3, metavar="X", help="of the capacity measured just before (3)")
    parser.add_argument("--seconds", type=float, default=60, help="duration of the overload (60)")
    parser.add_argument("--seed", type=int, default=0, help="of the arrivals (0)")


async def measure(task: Task, options: argparse.Namespace) -> Path:
    """Lone requests, the capacity, the overload, and a few requests a second until all is as it was."""
    if options.times <= 1 or options.seconds <= 0:
        raise UsageError("--times must be above 1 and --seconds above 0.")
    async with target.opened(task, options) as found, AsyncExitStack() as stack:
        ask = (await found.ways(stack, timeout_s=DEADLINE_S))["gRPC"]
        settings = found.settings() | {
            "times": options.times,
            "seconds": options.seconds,
            "seed": options.seed,
            "deadline_s": DEADLINE_S,
            "warm_up_requests": len(found.pictures),
            "load": "open loop, Poisson arrivals drawn beforehand; client and server share the cores",
        }
        with (
            Record(options.results, "overload", task.name, settings, found.environment()) as record,
            progress.bar(4) as bar,
        ):

            async def run(phase: str, instants: Sequence[float]) -> list[Request]:
                async with triton.counting(found.grpc_url, found.models("gRPC")) as server:
                    requests = await open_loop(ask, found.pictures, found.expected, instants)
                record.add({"contender": "gRPC", "load": phase, **columns(requests), "server": server})
                demand_answers(requests)
                bar.advance()
                return requests

            await found.warm_up(ask)
            bar.now(f"{task.name}: alone")
            await run("before", _regular(len(found.pictures)))
            bar.now(f"{task.name}: capacity")
            seconds, latencies = await closed_loop(ask, found.pictures, found.expected, 4, 8 * len(found.pictures))
            capacity = len(latencies) / seconds
            record.result["capacity_per_s"] = round(capacity, 3)
            bar.advance()
            rate = options.times * capacity
            bar.now(f"{task.name}: {rate:.0f}/s for {options.seconds:g} s")
            drawn = arrivals.poisson(rate, round(rate * options.seconds), options.seed)
            await run("overload", drawn)
            bar.now(f"{task.name}: afterwards")
            await run("after", _regular(round(AFTER_S * AFTER_PER_S)))
            record.result["failed"] = failed(record.result)
        return record.path


def _regular(count: int) -> list[float]:
    return [number / AFTER_PER_S for number in range(count)]


@dataclass(frozen=True)
class Told:
    """What an overload result says; times in ms from the schedule unless named otherwise.

    Attributes:
        answered_per_s: answers that came while requests were being sent, in a second.
        normal_s: seconds from the last scheduled request of the overload until a request was answered as before, and
            every later one too; None if that did not happen.
    """

    capacity_per_s: float
    answered_per_s: float
    answered: list[Request]
    refused: list[Request]
    lost: list[Request]
    normal_s: float | None


def told(result: Result) -> Told:
    phases = {run["load"]: requests_of(run) for run in result["runs"]}
    overload, after = phases["overload"], phases["after"]
    last = overload[-1].scheduled_s
    outcomes: dict[Outcome, list[Request]] = {}
    for request in overload:
        outcomes.setdefault(request.outcome, []).append(request)
    answered = outcomes.get("answered", [])
    normal_ms = NORMAL * max(request.latency_ms for request in phases["before"])
    # The requests afterwards begin when the last one of the overload has ended.
    waited = max(request.ended_s for request in overload) - last
    slow = [request for request in after if request.outcome != "answered" or request.latency_ms > normal_ms]
    if slow and slow[-1] is after[-1]:
        normal_s = None
    else:
        first = after[after.index(slow[-1]) + 1] if slow else after[0]
        normal_s = waited + first.ended_s
    return Told(
        result["capacity_per_s"],
        sum(request.ended_s <= last for request in answered) / last,
        answered,
        outcomes.get("refused", []),
        outcomes.get("timed out", []),
        normal_s,
    )


def failed(result: Result) -> list[str]:
    """A sentence for every goal that was missed."""
    seen, task, sentences = told(result), result["task"], []
    if seen.answered_per_s < KEPT * seen.capacity_per_s:
        sentences.append(
            f"{task}: {seen.answered_per_s:.1f} a second were answered under overload, "
            f"less than {KEPT:g} of the {seen.capacity_per_s:.1f} before."
        )
    if seen.lost:
        sentences.append(
            f"{task}: {len(seen.lost)} requests were neither answered nor refused within {DEADLINE_S:g} s: "
            "the server queues without a bound."
        )
    refusals = [request.service_ms for request in seen.refused]
    p99 = percentile(refusals, 99)
    slowest = max(refusals, default=0.0) if p99 is None else p99
    if slowest > REFUSED_MS:
        which = "p99" if p99 is not None else f"the slowest of {len(refusals)}"
        sentences.append(f"{task}: refusals took {slowest:.0f} ms ({which}), not within {REFUSED_MS:g} ms.")
    if seen.normal_s is None or seen.normal_s > NORMAL_S:
        came = f"after {seen.normal_s:.1f} s" if seen.normal_s is not None else f"not within {AFTER_S:g} s"
        sentences.append(f"{task}: requests were answered as before {came}, not within {NORMAL_S:g} s.")
    return sentences


HEAD = ("task", "capacity/s", "sent/s", "answered/s", "of capacity", "normal after s", "sent late")
ENDS = ("task", "ended as", "requests", "p50 ms", "p99 ms", "p99 from send")


def table(results: Sequence[Result]) -> Group:
    """Throughput kept; how each kind of request ended; the server's split."""
    rows, kinds = [], []
    for result in results:
        seen = told(result)
        overload = requests_of(next(run for run in result["runs"] if run["load"] == "overload"))
        sent = len(overload) / overload[-1].scheduled_s
        late = f"{counts(overload)['sent late'] / len(overload):.0%}"
        told_of = (seen.capacity_per_s, sent, seen.answered_per_s)
        share = f"{seen.answered_per_s / seen.capacity_per_s:.2f}"
        rows.append((result["task"], *(f"{value:.1f}" for value in told_of), share, tables.number(seen.normal_s), late))
        for name, requests in (("answered", seen.answered), ("refused", seen.refused), ("timed out", seen.lost)):
            waited = [request.latency_ms for request in requests]
            served = percentile([request.service_ms for request in requests], 99)
            times = (median(waited) if waited else None, percentile(waited, 99), served)
            kinds.append((result["task"], name, str(len(requests)), *(tables.number(value) for value in times)))
    return Group(
        tables.table(HEAD, rows), "", tables.table(ENDS, kinds, words=("ended as",)), "", tables.server(results)
    )
