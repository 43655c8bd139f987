"""What a set of latencies allows to be said, and with what certainty."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

SAMPLES_NEEDED = {50: 20, 90: 44, 95: 90, 99: 459}
"""Percentile → fewest samples for it. From 90 on: so many that, with 99 % confidence, at least one lies above the true
percentile, 0.01 ≥ (p/100)ⁿ (MLPerf's early-stopping rule with none over the bound:
github.com/mlcommons/inference_policies, inference_rules.adoc)."""

CONFIDENCE = 0.99
"""Of a verdict on a percentile; intervals that are shown are of 95 %."""

Verdict = Literal["met", "missed", "open"]
Floats = npt.NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
"""Over the last axis."""
PIECES = 24
"""Into about so many pieces of neighbouring samples a result is cut when it is resampled."""


def percentile(samples_ms: Sequence[float], p: int) -> float | None:
    """The p-th percentile in ms, or None where there are too few samples to speak of it."""
    return float(np.percentile(samples_ms, p)) if len(samples_ms) >= SAMPLES_NEEDED[p] else None


def binomial(count: int, chance: float) -> Floats:
    """P(X ≤ k) for k = 0 … `count`, X ~ Binomial(`count`, `chance`), 0 < `chance` < 1."""
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])  # of the factorials
    k = np.arange(count + 1)
    log_mass = logs[count] - logs - logs[::-1] + k * np.log(chance) + (count - k) * np.log1p(-chance)
    chances: Floats = np.minimum(np.cumsum(np.exp(log_mass)), 1.0)
    return chances


def percentile_interval(samples: Sequence[float], p: float) -> tuple[float | None, float | None]:
    """95 % interval of the p-th percentile, whatever the distribution; None where no sample lies far enough out.

    The order statistics between which the percentile lies: X₍ⱼ₎ ≤ ξ ≤ X₍ₖ₎ with P(j ≤ B < k) ≥ 0.95,
    B ~ Binomial(n, p/100) (David & Nagaraja, Order Statistics, 2003, section 7.1). It takes samples as independent;
    in a queue neighbours are alike, and the truth is somewhat wider.
    """
    below = binomial(len(samples), p / 100)
    ordered = np.sort(np.asarray(samples, float))
    first = int(np.searchsorted(below, 0.025, side="right"))  # P(B < first) ≤ 0.025
    last = int(np.searchsorted(below, 0.975)) + 1  # P(B < last) ≥ 0.975
    low = float(ordered[first - 1]) if first >= 1 else None
    high = float(ordered[last - 1]) if last <= len(ordered) else None
    return low, high


def verdict(over: int, count: int, p: int = 99) -> Verdict:
    """Whether the p-th percentile lies within a bound that `over` of `count` samples exceed, with 99 % confidence.

    "met": were it above, so few would exceed it with 1 % chance at most (the upper Clopper-Pearson limit of the share
    is within 1 − p/100). 459 samples allow none over p99's bound, 2,010 allow ten. "missed": the same the other way
    round. Between them the samples leave it open.
    """
    below = binomial(count, 1 - p / 100)
    if below[over] <= 1 - CONFIDENCE:
        return "met"
    return "missed" if over and 1 - below[over - 1] <= 1 - CONFIDENCE else "open"


def allowed_over(count: int, p: int = 99) -> int:
    """How many of `count` samples may exceed the bound and the p-th percentile still be shown within; −1: none do."""
    return int(np.searchsorted(binomial(count, 1 - p / 100), 1 - CONFIDENCE, side="right")) - 1


def median_interval(values: Sequence[float], seed: int = 0, resamples: int = 2000) -> tuple[float, float, float]:
    """(median, low, high): the median of a few rounds and its bootstrap 95 % interval."""
    generator = np.random.default_rng(seed)
    draws = np.median(generator.choice(np.asarray(values), (resamples, len(values))), axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(np.median(values)), float(low), float(high)


def resampled(rounds: Sequence[Sequence[float]], seed: int, resamples: int = 500) -> Floats:
    """The samples as they might have been, `[resamples, samples]`: pieces of neighbours drawn with replacement.

    A block bootstrap: whole pieces, because neighbours in a queue, or in a bad second of the machine, are alike; no
    piece spans two rounds (Künsch, Annals of Statistics 17(3), 1989, doi:10.1214/aos/1176347265).
    """
    length = min(max(1, sum(map(len, rounds)) // PIECES), *map(len, rounds))
    cut = [some[start : start + length] for some in rounds for start in range(0, len(some) - length + 1, length)]
    pieces = np.asarray(cut, float)  # [piece, sample]
    drawn = np.random.default_rng(seed).integers(0, len(pieces), (resamples, len(pieces)))
    together: Floats = pieces[drawn].reshape(resamples, -1)
    return together


def noise(rounds: Sequence[Sequence[float]], statistic: Statistic) -> float:
    """How far two halves of one and the same result are apart: |log ratio|, of early and late, and of every other.

    There must be two samples at least.
    """
    some = list(rounds) if len(rounds) > 1 else [rounds[0][: len(rounds[0]) // 2], rounds[0][len(rounds[0]) // 2 :]]
    middle = len(some) // 2
    apart = []
    for one, other in ((some[:middle], some[middle:]), (some[::2], some[1::2])):
        first, second = (
            float(statistic(np.concatenate([np.asarray(part, float) for part in h]))) for h in (one, other)
        )
        apart.append(abs(math.log(second / first)))
    return max(apart)
