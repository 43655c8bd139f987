"""What a result says in numbers that can be compared: each with what it might have been, and with its own noise."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.results import Result
from benchmarks.scenarios import server
from benchmarks.scenarios.overload import told
from benchmarks.statistics import SAMPLES_NEEDED, Floats, Statistic, noise, resampled

ROUNDS_NEEDED = 3
"""Fewer numbers of one a round say nothing of how much they vary."""
Place = tuple[str, str]
"""Way and load: "gRPC", "4 in flight"."""


@dataclass(frozen=True)
class Metric:
    """One number of one result.

    Attributes:
        draws: what it might have been as well, by resampling.
        noise: |log ratio| of the number between two halves of the same result.
    """

    name: str
    higher_is_better: bool
    value: float
    draws: Floats
    noise: float


def metrics(result: Result, seed: int = 0) -> dict[Place, list[Metric]]:
    """Every number of a result, by way and load; percentiles only where there are samples enough."""
    match result["scenario"]:
        case "server":
            return {(run["contender"], "p99 within the bound"): _rate(result, seed) for run in result["runs"][-1:]}
        case "coldstart":
            return _starts(result, seed)
        case "overload":
            return _overload(result, seed)
        case _:
            return _closed(result, seed)


def _metric(
    name: str,
    higher_is_better: bool,
    rounds: Sequence[Sequence[float]],
    statistic: Statistic,
    drawn: Floats,
) -> Metric:
    value = float(statistic(np.concatenate([np.asarray(some, float) for some in rounds])))
    return Metric(name, higher_is_better, value, statistic(drawn), noise(rounds, statistic))


def _closed(result: Result, seed: int) -> dict[Place, list[Metric]]:
    """Scenarios with so many requests in flight: images a second as the median of rounds, percentiles of all."""
    grouped: dict[Place, list[Result]] = defaultdict(list)
    for run in result["runs"]:
        grouped[run["contender"], f"{run['concurrency']} in flight"].append(run)
    found = {}
    for place, runs in grouped.items():
        rates = [[len(run["latencies_ms"]) / run["seconds"]] for run in runs]
        latencies = [run["latencies_ms"] for run in runs]
        count = sum(map(len, latencies))
        found[place] = (
            [_metric("images/s", True, rates, _median, resampled(rates, seed))] if len(rates) >= ROUNDS_NEEDED else []
        )
        drawn = np.sort(resampled(latencies, seed))  # once, instead of for every percentile
        for p, needed in SAMPLES_NEEDED.items():
            if count >= needed:
                found[place].append(_metric(f"p{p} ms", False, latencies, _percentile(p), drawn))
    return found


def _starts(result: Result, seed: int) -> dict[Place, list[Metric]]:
    grouped: dict[Place, list[list[float]]] = defaultdict(list)
    for run in result["runs"]:
        grouped[run["contender"], "cold start"].append([run["answered_s"]])
    return {
        place: [_metric("first answer s", False, rounds, _median, resampled(rounds, seed))]
        for place, rounds in grouped.items()
        if len(rounds) >= ROUNDS_NEEDED
    }


def _overload(result: Result, seed: int) -> dict[Place, list[Metric]]:
    """Answers of each second of the overload, and how long the answered ones took."""
    seen = told(result)
    seconds = int(max((request.scheduled_s for request in seen.answered), default=0.0))
    counted, _ = np.histogram([request.ended_s for request in seen.answered], bins=np.arange(seconds + 1))
    found = []
    if seconds > 1:
        each = [[float(count)] for count in counted]
        found.append(_metric("answered/s", True, each, _mean, resampled(each, seed)))
    if len(seen.answered) >= SAMPLES_NEEDED[50]:
        latencies = [[request.latency_ms for request in seen.answered]]
        found.append(_metric("p50 ms", False, latencies, _percentile(50), resampled(latencies, seed)))
    return {("gRPC", "overload"): found}


def _rate(result: Result, seed: int) -> list[Metric]:
    """The confirmed rate. The true one lies between it and the lowest that was shown to be too high."""
    low = result["rate_per_s"]
    if low is None:
        return []
    missed = [run["rate_per_s"] for run in result["runs"] if run["verdict"] == "missed" and run["rate_per_s"] > low]
    high = min(missed, default=low * server.RESOLUTION)
    draws = np.random.default_rng(seed).uniform(math.log(low), math.log(high), 500)
    return [Metric("rate/s", True, low, np.exp(draws), math.log(server.RESOLUTION))]


def _median(values: Floats) -> Floats:
    return np.asarray(np.median(values, axis=-1))


def _mean(values: Floats) -> Floats:
    return np.asarray(np.mean(values, axis=-1))


def _percentile(p: int) -> Statistic:
    return lambda values: np.asarray(np.percentile(values, p, axis=-1))
