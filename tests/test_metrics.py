"""Scores against values computed by hand, and against scikit-learn where it has the same score."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from sklearn import metrics as reference

from fovea.errors import TrainingError
from training import metrics

LABELS = ("Disease", "Other", "Normal")
SEED = 7


def plane(rows: list[list[float]]) -> npt.NDArray[np.float32]:
    return np.array(rows, np.float32)


def noisy_tally(patient: str, generator: np.random.Generator) -> metrics.Tally:
    """A photograph with its own error rate, so that Dice differs between patients."""
    truth = generator.random((40, 40)) < 0.2
    flipped = generator.random((40, 40)) < generator.uniform(0.02, 0.3)
    return metrics.tally(patient, (truth ^ flipped).astype(np.float32), truth, np.ones((40, 40), bool))


def value(estimate: metrics.Estimate | None) -> float:
    assert estimate is not None
    return estimate.value


def width(estimate: metrics.Estimate | None) -> float:
    assert estimate is not None
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.high - estimate.low


def test_scores_of_a_small_mask_are_those_counted_by_hand() -> None:
    answer = plane([[0.9, 0.9, 0.1, 0.1], [0.9, 0.1, 0.1, 0.1]])
    truth = plane([[1, 1, 1, 0], [0, 0, 0, 0]]) > 0
    scores = metrics.vessels([metrics.tally("a", answer, truth, np.ones_like(truth))], SEED)
    # 2 found, 1 invented, 1 missed, 4 rightly left out.
    assert value(scores.dice) == pytest.approx(4 / 6)
    assert value(scores.sensitivity) == pytest.approx(2 / 3)
    assert value(scores.specificity) == pytest.approx(4 / 5)
    assert value(scores.accuracy) == pytest.approx(6 / 8)
    # 15 pairs: 2 found vessels beat 4 and tie with 1 each, the missed one ties with 4 and loses to 1.
    assert value(scores.auc) == pytest.approx((2 * (4 + 0.5) + 4 * 0.5) / 15)


def test_pixels_outside_the_field_of_view_do_not_count() -> None:
    answer, truth = plane([[0.9, 0.9, 0.1, 0.1]]), plane([[0, 1, 0, 1]]) > 0
    inside = plane([[0, 1, 1, 0]]) > 0
    scores = metrics.vessels([metrics.tally("a", answer, truth, inside)], SEED)
    assert value(scores.dice) == 1
    assert metrics.tally("a", answer, truth, np.ones_like(truth)).dice == pytest.approx(1 / 2)


def test_the_threshold_is_a_half_as_the_served_byte_sees_it() -> None:
    truth = plane([[1, 1]]) > 0
    at, below = (metrics.tally("a", plane([[1, p]]), truth, truth) for p in (0.5, 0.498))
    assert at.dice == 1
    assert below.dice == pytest.approx(2 / 3)


def test_dice_is_pooled_over_pixels_and_its_mean_over_photographs() -> None:
    large, small = np.ones((1, 90), bool), np.ones((1, 10), bool)
    tallies = [
        metrics.tally("a", large.astype(np.float32), large, large),
        metrics.tally("b", plane([[1.0] * 5 + [0.0] * 5]), small, small),
    ]
    scores = metrics.vessels(tallies, SEED)
    assert value(scores.dice) == pytest.approx(2 * 95 / (95 + 100))
    assert scores.dice_mean == pytest.approx((1 + 2 / 3) / 2)
    assert scores.dice_sd == pytest.approx((1 - 2 / 3) / math.sqrt(2))


def test_auc_from_level_counts_is_that_of_the_rounded_levels() -> None:
    generator = np.random.default_rng(1)
    truth = generator.random((50, 50)) < 0.2
    answer = np.clip(generator.normal(0.35 + 0.3 * truth, 0.2), 0, 1).astype(np.float32)
    scores = metrics.vessels([metrics.tally("a", answer, truth, np.ones_like(truth))], SEED)
    expected = reference.roc_auc_score(truth.ravel(), np.rint(answer.ravel() * 255))
    assert value(scores.auc) == pytest.approx(expected, abs=1e-12)


def test_a_binary_observer_has_no_auc() -> None:
    truth = plane([[1, 0, 0]]) > 0
    observer = metrics.tally("a", plane([[1, 1, 0]]), truth, np.ones_like(truth))
    assert metrics.vessels([observer], SEED, graded=False).auc is None
    assert metrics.vessels([observer], SEED).auc is not None


def test_planes_of_different_size_are_refused() -> None:
    with pytest.raises(TrainingError, match="one size"):
        metrics.tally("a", plane([[1, 0]]), np.ones((1, 3), bool), np.ones((1, 2), bool))


def test_a_mask_without_vessels_in_the_field_of_view_is_refused() -> None:
    truth = plane([[0, 1]]) > 0
    with pytest.raises(TrainingError, match="no vessel"):
        metrics.tally("a", plane([[0, 1]]), truth, ~truth)


def test_the_interval_surrounds_the_point_and_is_the_same_for_the_same_seed() -> None:
    generator = np.random.default_rng(2)
    tallies = [noisy_tally(f"patient {index}", generator) for index in range(12)]
    first, again, other = (metrics.vessels(tallies, seed).dice for seed in (SEED, SEED, SEED + 1))
    assert first is not None
    assert first.low is not None
    assert first.high is not None
    assert first.low < first.value < first.high
    assert first.resamples == metrics.RESAMPLES
    assert first == again
    assert first != other


def test_photographs_of_one_patient_are_drawn_together() -> None:
    generator = np.random.default_rng(3)
    pair = [noisy_tally("left", generator), noisy_tally("right", generator)]
    copies = [pair[0]] * 10 + [pair[1]] * 10
    independent = [
        metrics.Tally(f"{item.patient} {index}", item.vessel, item.background) for index, item in enumerate(copies)
    ]
    together, apart = metrics.vessels(copies, SEED), metrics.vessels(independent, SEED)
    assert (together.photographs, together.patients, apart.patients) == (20, 2, 20)
    assert value(together.dice) == value(apart.dice)
    # Two patients can be drawn in three ways only: the interval runs from the worse patient to the better one.
    assert together.dice is not None
    assert [together.dice.low, together.dice.high] == pytest.approx(sorted(item.dice for item in pair))
    assert width(together.dice) > 1.5 * width(apart.dice)


def test_one_patient_has_no_interval() -> None:
    generator = np.random.default_rng(4)
    scores = metrics.vessels([noisy_tally("a", generator), noisy_tally("a", generator)], SEED)
    assert scores.dice is not None
    assert (scores.dice.low, scores.dice.high, scores.dice.resamples) == (None, None, 0)


def test_calibration_error_is_the_weighted_gap_between_probability_and_outcome() -> None:
    # 0.95 ten times with 5 outcomes (gap +0.45), 0.05 thirty times with 6 (gap −0.15): the gaps do not cancel.
    probability = np.array([0.95] * 10 + [0.05] * 30, np.float32)
    outcome = np.array([True] * 5 + [False] * 5 + [True] * 6 + [False] * 24)
    bins = metrics.calibration(probability, outcome)
    assert metrics.calibration_error(bins) == pytest.approx((10 * 0.45 + 30 * 0.15) / 40, abs=1e-6)
    halves = metrics.calibration(probability[::2], outcome[::2]) + metrics.calibration(probability[1::2], outcome[1::2])
    np.testing.assert_allclose(halves, bins, atol=1e-5, rtol=0)


def judge(truth: list[str], probabilities: metrics.Values) -> metrics.ClassScores:
    return metrics.classes(LABELS, truth, probabilities, [str(index) for index in range(len(truth))], SEED)


def test_a_perfect_classifier_scores_one_everywhere() -> None:
    truth = list(LABELS) * 8
    scores = judge(truth, np.eye(3)[[LABELS.index(label) for label in truth]])
    macro = scores.macro
    figures = (scores.accuracy, macro.precision, macro.recall, macro.f1, macro.auc)
    assert [(value(figure), width(figure)) for figure in figures] == [(1.0, 0.0)] * 5
    assert scores.confusion == [[8, 0, 0], [0, 8, 0], [0, 0, 8]]
    assert scores.calibration_error == 0


def test_a_classifier_that_draws_lots_has_an_auc_of_a_half() -> None:
    answers = np.random.default_rng(5).dirichlet((1, 1, 1), 600)
    scores = judge(list(LABELS) * 200, answers)
    assert value(scores.macro.auc) == pytest.approx(0.5, abs=0.04)
    assert value(scores.accuracy) == pytest.approx(1 / 3, abs=0.06)


def test_class_scores_are_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(6)
    actual = generator.integers(3, size=80)
    answers = generator.dirichlet((1, 1, 1), 80) + 0.4 * np.eye(3)[actual]
    answers /= answers.sum(axis=1, keepdims=True)
    scores = judge([LABELS[index] for index in actual], answers)
    answered = answers.argmax(axis=1)
    precision, recall, f1, _ = reference.precision_recall_fscore_support(actual, answered, average="macro")
    assert value(scores.accuracy) == pytest.approx(reference.accuracy_score(actual, answered))
    assert value(scores.macro.precision) == pytest.approx(precision)
    assert value(scores.macro.recall) == pytest.approx(recall)
    assert value(scores.macro.f1) == pytest.approx(f1)
    expected = reference.roc_auc_score(actual, answers, multi_class="ovr", average="macro")
    assert value(scores.macro.auc) == pytest.approx(expected)
    assert scores.confusion == reference.confusion_matrix(actual, answered).tolist()
    for index, label in enumerate(LABELS):
        assert value(scores.by_class[label].auc) == pytest.approx(
            reference.roc_auc_score(actual == index, answers[:, index])
        )


def test_a_class_without_photographs_is_named_and_has_no_score() -> None:
    truth = ["Disease", "Disease", "Normal", "Normal"]
    answers = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.2, 0.1, 0.7]])
    scores = judge(truth, answers)
    assert scores.absent == ("Other",)
    assert list(scores.by_class) == ["Disease", "Normal"]
    # One of two diseased is answered "Other": the means are over the two classes that are there.
    assert value(scores.macro.recall) == pytest.approx((1 / 2 + 1) / 2)
    assert value(scores.macro.precision) == pytest.approx(1)
    assert value(scores.macro.f1) == pytest.approx((2 / 3 + 1) / 2)


def test_a_class_that_is_never_answered_has_precision_zero() -> None:
    answers = np.array([[0.6, 0.1, 0.3], [0.6, 0.1, 0.3], [0.5, 0.1, 0.4]])
    scores = judge(["Disease", "Disease", "Normal"], answers)
    assert value(scores.by_class["Normal"].precision) == 0
    assert value(scores.by_class["Normal"].auc) == 1


def test_resamples_that_lost_a_class_are_left_out_and_counted() -> None:
    truth = ["Disease"] + ["Normal"] * 9
    answers = np.array([[0.9, 0.0, 0.1]] + [[0.2, 0.0, 0.8]] * 9)
    scores = judge(truth, answers)
    assert scores.accuracy is not None
    assert scores.macro.auc is not None
    assert scores.accuracy.resamples == metrics.RESAMPLES
    # A draw of ten out of ten misses a given photograph with probability 0.9¹⁰.
    assert scores.macro.auc.resamples / metrics.RESAMPLES == pytest.approx(1 - 0.9**10, abs=0.04)
    assert (scores.macro.auc.low, scores.macro.auc.high) == (1, 1)
    assert scores.macro.recall is not None
    assert scores.macro.recall.resamples == scores.macro.auc.resamples


def test_a_single_class_has_no_auc() -> None:
    scores = judge(["Disease", "Disease"], np.array([[0.8, 0.1, 0.1], [0.7, 0.2, 0.1]]))
    assert scores.macro.auc is None
    assert scores.by_class["Disease"].auc is None
    assert value(scores.accuracy) == 1
