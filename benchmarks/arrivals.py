"""When requests are sent: drawn before the run, so that a slow server cannot slow down what it is asked."""

import numpy as np


def poisson(rate_per_s: float, count: int, seed: int) -> list[float]:
    """Instants, in seconds after the start, of `count` requests that arrive independently at `rate_per_s`."""
    gaps = np.random.default_rng(seed).exponential(1 / rate_per_s, count)
    return [float(instant) for instant in np.cumsum(gaps)]
