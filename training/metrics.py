"""Scores of masks and classes, each with a bootstrap interval over patients. No files are read or written here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fovea.errors import TrainingError
from fovea.spec import THRESHOLD

Values = npt.NDArray[np.float64]
RESAMPLES = 2000
LEVELS = 256
"""Masks are judged as they are served: rounded to uint8, so every pooled figure follows from 256 counts, exactly."""
CALIBRATION_BINS = 15
FIGURES = 6
"""Of `OneVsRest`."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % percentile interval over patients (None below two patients).

    `resamples` of `RESAMPLES` had the figure: one that lost a class has no macro AUC.
    """

    value: float
    low: float | None
    high: float | None
    resamples: int


@dataclass(frozen=True)
class Tally:
    """The pixels of one photograph's field of view, counted at each of `LEVELS` levels of the answer."""

    patient: str
    vessel: Values  # [LEVELS]
    background: Values  # [LEVELS]

    @property
    def dice(self) -> float:
        """Dice of this photograph alone."""
        return float(_pooled(self.vessel, self.background)[0])


@dataclass(frozen=True)
class VesselScores:
    """Pooled over the pixels of all photographs; None is undefined (a binary mask has no AUC)."""

    photographs: int
    patients: int
    dice: Estimate | None
    sensitivity: Estimate | None
    specificity: Estimate | None
    accuracy: Estimate | None
    auc: Estimate | None
    dice_mean: float
    dice_sd: float | None


@dataclass(frozen=True)
class OneVsRest:
    """A class against the rest, or the mean over classes; a class never answered has precision 0, not none.

    `average_precision` is the area under the precision-recall curve, `sensitivity_at_95` the largest sensitivity at a
    specificity of at least 95 %.
    """

    precision: Estimate | None
    recall: Estimate | None
    f1: Estimate | None
    auc: Estimate | None
    average_precision: Estimate | None
    sensitivity_at_95: Estimate | None


@dataclass(frozen=True)
class ClassScores:
    """`macro` and `by_class` cover the classes that the truth has; `absent` names the others, which have no score."""

    photographs: int
    patients: int
    absent: tuple[str, ...]
    accuracy: Estimate | None
    macro: OneVsRest
    by_class: dict[str, OneVsRest]
    confusion: list[list[int]]  # [truth][answer], in the order of the labels
    calibration_error: float


def intervals(patients: Sequence[str], statistics: Callable[[Values], Values], seed: int) -> list[Estimate | None]:
    """Each statistic of the photographs, with its interval over resampled patients (doi:10.1201/9780429246593).

    `patients` names the patient of every photograph; a patient's photographs are drawn together. `statistics` turns a
    weight per photograph (how often its patient was drawn) into values, NaN where one is undefined; a statistic that
    is undefined even without resampling gives None.
    """
    names, owner = np.unique(np.asarray(patients), return_inverse=True)
    point = statistics(np.ones(len(owner)))
    generator = np.random.default_rng(seed)
    draws = [
        statistics(np.bincount(generator.integers(len(names), size=len(names)), minlength=len(names))[owner] * 1.0)
        for _ in range(RESAMPLES if len(names) > 1 else 0)
    ]
    columns = np.array(draws).reshape(len(draws), len(point)).T
    return [_estimate(float(value), column) for value, column in zip(point, columns, strict=True)]


def _estimate(value: float, draws: Values) -> Estimate | None:
    if np.isnan(value):
        return None
    defined = draws[~np.isnan(draws)]
    low, high = np.percentile(defined, (2.5, 97.5)).tolist() if len(defined) else (None, None)
    return Estimate(value, low, high, len(defined))


def tally(
    patient: str, probability: npt.NDArray[np.float32], truth: npt.NDArray[np.bool_], inside: npt.NDArray[np.bool_]
) -> Tally:
    """Count one photograph's pixels; all three planes are `[height, width]`, the probability in 0…1.

    Raises:
        TrainingError: the planes differ in size, or no vessel lies in the field of view.
    """
    if not probability.shape == truth.shape == inside.shape:
        raise TrainingError(
            f"{patient}: answer {probability.shape}, vessel mask {truth.shape} and field of view {inside.shape} "
            "should have one size: give masks in the photograph's own pixels."
        )
    if not (truth & inside).any():
        raise TrainingError(f"{patient}: the vessel mask shows no vessel in the field of view: give the right mask.")
    level = np.rint(probability[inside] * np.float32(255)).astype(np.uint8)
    vessel = truth[inside]
    return Tally(patient, *(np.bincount(level[part], minlength=LEVELS) * 1.0 for part in (vessel, ~vessel)))


def vessels(tallies: Sequence[Tally], seed: int, graded: bool = True) -> VesselScores:
    """Score the photographs together at `THRESHOLD`; `graded` is False for a binary mask, such as an observer's.

    `dice_sd` is the sample deviation of Dice over photographs (None for one photograph).
    """
    vessel = np.stack([item.vessel for item in tallies])  # [photographs, LEVELS]
    background = np.stack([item.background for item in tallies])
    patients = [item.patient for item in tallies]
    pooled = intervals(patients, lambda weights: _pooled(weights @ vessel, weights @ background), seed)
    dice, sensitivity, specificity, accuracy, auc = pooled if graded else (*pooled[:-1], None)
    each = np.array([item.dice for item in tallies])
    mean, sd = float(each.mean()), float(each.std(ddof=1)) if len(each) > 1 else None
    return VesselScores(len(each), len(set(patients)), dice, sensitivity, specificity, accuracy, auc, mean, sd)


def _pooled(vessel: Values, background: Values) -> Values:
    """Dice, sensitivity, specificity, accuracy and AUC of pixel counts `[LEVELS]`."""
    found, false = vessel[THRESHOLD:].sum(), background[THRESHOLD:].sum()
    positives, negatives = vessel.sum(), background.sum()
    rejected = negatives - false
    dice, accuracy = _share(2 * found, found + false + positives), _share(found + rejected, positives + negatives)
    return np.array([dice, _share(found, positives), _share(rejected, negatives), accuracy, area(vessel, background)])


def area(positives: Values, negatives: Values) -> float:
    """The area under the ROC curve from counts at ascending levels, ties half (doi:10.1148/radiology.143.1.7063747)."""
    below = np.cumsum(negatives) - negatives
    return _share(float(positives @ (below + negatives / 2)), float(positives.sum() * negatives.sum()))


def average_precision(positives: Values, negatives: Values) -> float:
    """Σ (recallₙ − recallₙ₋₁) · precisionₙ from counts at ascending levels, each level a threshold, as scikit-learn."""
    found, claimed = np.cumsum(positives[::-1]), np.cumsum((positives + negatives)[::-1])
    precision = np.divide(found, claimed, out=np.zeros_like(found), where=claimed > 0)
    return _share(float(positives[::-1] @ precision), float(positives.sum()))


def sensitivity_at(specificity: float, positives: Values, negatives: Values) -> float:
    """The largest sensitivity of any threshold that keeps this specificity, from counts at ascending levels."""
    found, false = np.cumsum(positives[::-1]), np.cumsum(negatives[::-1])
    # Counts are whole numbers: the margin is for their quotient only.
    allowed = found[false <= (1 - specificity) * negatives.sum() + 1e-9]
    return _share(float(allowed.max(initial=0)), float(positives.sum())) if negatives.sum() else float("nan")


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")


def _counts(levels: npt.NDArray[np.int64], weights: npt.NDArray[Any], size: int) -> Values:
    return np.asarray(np.bincount(levels, weights, size), np.float64)


def calibration(probability: npt.NDArray[np.floating[Any]], outcome: npt.NDArray[np.bool_]) -> Values:
    """Cases, summed probability and summed outcome in `CALIBRATION_BINS` equal bins, `[bins, 3]`; sums of it pool."""
    bins = np.minimum((probability * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    sums = (np.ones(len(bins)), probability, outcome)
    return np.stack([_counts(bins, addend, CALIBRATION_BINS) for addend in sums], axis=1)


def calibration_error(bins: Values) -> float:
    """Expected calibration error (arXiv:1706.04599) of what `calibration` counted."""
    return _share(float(np.abs(bins[:, 1] - bins[:, 2]).sum()), float(bins[:, 0].sum()))


def classes(
    labels: Sequence[str], truth: Sequence[str], probabilities: Values, patients: Sequence[str], seed: int
) -> ClassScores:
    """Score `probabilities` `[photographs, len(labels)]` against the true label of each photograph."""
    count = len(labels)
    actual, answered = np.array([labels.index(label) for label in truth]), probabilities.argmax(axis=1)
    present = np.unique(actual)
    levels = [np.unique(probabilities[:, index], return_inverse=True)[1] for index in present]

    def table(weights: Values) -> Values:
        return _counts(actual * count + answered, weights, count * count).reshape(count, count)

    def statistics(weights: Values) -> Values:
        confusion = table(weights)
        rows = np.full((len(present), FIGURES), np.nan)  # a class that this resample lost has no score
        for row, (index, level) in enumerate(zip(present, levels, strict=True)):
            hits, actuals, answers = confusion[index, index], confusion[index].sum(), confusion[:, index].sum()
            if actuals:
                precision = hits / answers if answers else 0.0
                positives = _counts(level, weights * (actual == index), level.max() + 1)
                negatives = _counts(level, weights * (actual != index), level.max() + 1)
                f1 = 2 * hits / (actuals + answers)
                ranked = (
                    area(positives, negatives),
                    average_precision(positives, negatives),
                    sensitivity_at(0.95, positives, negatives),
                )
                rows[row] = precision, hits / actuals, f1, *ranked
        return np.concatenate([[confusion.trace() / weights.sum()], rows.mean(axis=0), rows.ravel()])

    accuracy, *scores = intervals(patients, statistics, seed)
    macro, *each = (OneVsRest(*scores[first : first + FIGURES]) for first in range(0, len(scores), FIGURES))
    return ClassScores(
        photographs=len(truth),
        patients=len(set(patients)),
        absent=tuple(label for index, label in enumerate(labels) if index not in present),
        accuracy=accuracy,
        macro=macro,
        by_class={labels[index]: score for index, score in zip(present, each, strict=True)},
        confusion=table(np.ones(len(actual))).astype(int).tolist(),
        calibration_error=calibration_error(confidence(labels, truth, probabilities)),
    )


def confidence(labels: Sequence[str], truth: Sequence[str], probabilities: Values) -> Values:
    """`calibration` of the top class's probability against whether it was right, `[bins, 3]`."""
    right = probabilities.argmax(axis=1) == np.array([labels.index(label) for label in truth])
    return calibration(probabilities.max(axis=1), right)


def operating_point(threshold: float, scores: Values, found: npt.NDArray[np.bool_]) -> dict[str, list[int]]:
    """(cases right, cases in all) for sensitivity and specificity of "found where score ≥ threshold"."""
    claimed = scores >= threshold
    return {
        "sensitivity": [int((claimed & found).sum()), int(found.sum())],
        "specificity": [int((~claimed & ~found).sum()), int((~found).sum())],
    }


def wilson(right: int, cases: int) -> tuple[float, float]:
    """The 95 % score interval of a share (doi:10.1080/01621459.1927.10502953)."""
    z = 1.959964
    centre, spread = right + z * z / 2, z * np.sqrt(right * (cases - right) / cases + z * z / 4)
    return float((centre - spread) / (cases + z * z)), float((centre + spread) / (cases + z * z))
