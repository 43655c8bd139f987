"""What a set of latencies allows to be said, and with what certainty."""

from collections.abc import Sequence

import numpy as np

SAMPLES_NEEDED = {50: 20, 90: 44, 95: 90, 99: 459}
"""Percentile → fewest samples for it. From 90 on: so many that, with 99 % confidence, at least one lies above the true
percentile, 0.01 ≥ (p/100)ⁿ (MLPerf's early-stopping rule with none over the bound:
github.com/mlcommons/inference_policies, inference_rules.adoc)."""


def percentile(samples_ms: Sequence[float], p: int) -> float | None:
    """The p-th percentile in ms, or None where there are too few samples to speak of it."""
    return float(np.percentile(samples_ms, p)) if len(samples_ms) >= SAMPLES_NEEDED[p] else None


def median_interval(values: Sequence[float], seed: int = 0, resamples: int = 2000) -> tuple[float, float, float]:
    """(median, low, high): the median of a few rounds and its bootstrap 95 % interval."""
    generator = np.random.default_rng(seed)
    draws = np.median(generator.choice(np.asarray(values), (resamples, len(values))), axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(np.median(values)), float(low), float(high)
