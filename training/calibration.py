"""What makes a classifier's probabilities usable: one temperature, and named operating points, from validation data.

Dividing all logits by a temperature T changes no order of the classes and repairs over- or under-confidence
(arXiv:1706.04599). It is folded into the last Dense layer, so that whatever is made of the network has it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

Values = npt.NDArray[np.float64]

PRIOR_SD = 0.5
"""Of log T around 0: without it a validation split of five pictures, all right, would make a network sure of itself."""
WANTED = 0.95
"""The sensitivity of the operating point `screening` and the specificity of `confirmation`."""


@dataclass(frozen=True)
class OperatingPoint:
    """Something was found where 1 − P(healthy) ≥ `threshold`; the rest was measured on the validation split."""

    name: str
    threshold: float
    sensitivity: float
    specificity: float
    positives: int
    negatives: int


def reheated(probabilities: Values, temperature: float) -> Values:
    """The probabilities `[n, K]` whose logits are divided by `temperature` (below 1: multiplied)."""
    heated: Values = np.exp(_log_reheated(probabilities, temperature))
    return heated


def _log_reheated(probabilities: Values, temperature: float) -> Values:
    logits = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny)) / temperature
    logs: Values = log_softmax(logits, axis=1)
    return logs


def temperature(probabilities: Values, truth: Sequence[int]) -> float:
    """The T with the least negative log-likelihood of `truth`, under a prior that keeps few pictures from extremes."""

    def loss(log_t: float) -> float:
        likely = _log_reheated(probabilities, np.exp(log_t))[np.arange(len(truth)), list(truth)]
        return float(log_t**2 / (2 * PRIOR_SD**2) - likely.sum())

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def operating_points(scores: Values, found: npt.NDArray[np.bool_]) -> tuple[OperatingPoint, ...]:
    """`screening`, `balanced` (the best Youden's J) and `confirmation`, or none without both kinds.

    `scores` are 1 − P(healthy) `[n]`, `found` says where there is something to find. Thresholds lie halfway between
    neighbouring scores.
    """
    if found.all() or not found.any():
        return ()
    levels = np.unique(scores)
    cuts = np.concatenate([[levels[0] / 2], (levels[1:] + levels[:-1]) / 2, [np.nextafter((levels[-1] + 1) / 2, 2)]])
    sensitivity = np.array([(scores[found] >= cut).mean() for cut in cuts])  # falls along the cuts
    specificity = np.array([(scores[~found] < cut).mean() for cut in cuts])  # rises
    balanced = int(np.argmax(sensitivity + specificity))
    chosen = {
        # Where the best balance is on the far side of what was wanted, it has what was wanted and more.
        "screening": min(balanced, int(np.flatnonzero(sensitivity >= WANTED)[-1])),
        "balanced": balanced,
        "confirmation": max(balanced, int(np.flatnonzero(specificity >= WANTED)[0])),
    }
    counts = int(found.sum()), int((~found).sum())
    return tuple(
        OperatingPoint(name, float(cuts[i]), float(sensitivity[i]), float(specificity[i]), *counts)
        for name, i in chosen.items()
    )


def as_json(points: Sequence[OperatingPoint]) -> list[dict[str, Any]]:
    return [asdict(point) for point in points]
