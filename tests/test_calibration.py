"""The temperature and the operating points: against their definitions, and where validation data are few."""

import numpy as np
import pytest
from scipy.special import softmax

from training import calibration, metrics

RANDOM = np.random.default_rng(11)


def overconfident(count: int, sharpness: float) -> tuple[calibration.Values, list[int]]:
    """Answers whose true class is drawn from softmax(logits), while the network says softmax(sharpness · logits)."""
    logits = RANDOM.normal(0, 1.5, (count, 3))
    truth = [int(RANDOM.choice(3, p=row)) for row in softmax(logits, axis=1)]
    return softmax(sharpness * logits, axis=1), truth


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_a_known_over_or_underconfidence(sharpness: float) -> None:
    said, truth = overconfident(4000, sharpness)
    assert calibration.temperature(said, truth) == pytest.approx(sharpness, rel=0.08)


def test_a_folded_temperature_lowers_the_calibration_error_and_changes_no_answer() -> None:
    said, truth = overconfident(2000, 3.0)
    repaired = calibration.reheated(said, calibration.temperature(said, truth))
    names = ("0", "1", "2")
    before, after = (
        metrics.calibration_error(metrics.confidence(names, [str(t) for t in truth], p)) for p in (said, repaired)
    )
    assert after < 0.04 < 0.15 < before
    assert np.array_equal(said.argmax(axis=1), repaired.argmax(axis=1))
    assert np.allclose(repaired.sum(axis=1), 1)


def test_reheating_back_gives_the_probabilities_that_were() -> None:
    said, _ = overconfident(50, 1.0)
    assert np.allclose(calibration.reheated(calibration.reheated(said, 2.5), 1 / 2.5), said, atol=1e-12)


def test_five_pictures_all_right_do_not_make_a_network_sure_of_itself() -> None:
    said = np.full((5, 2), 0.3)
    said[:, 0] = 0.7
    assert 0.4 < calibration.temperature(said, [0] * 5) < 1


def test_certain_and_wrong_is_repaired_without_an_infinite_loss() -> None:
    said = np.array([[1.0, 0.0]] * 10)
    assert 1 < calibration.temperature(said, [1] * 5 + [0] * 5) < 21


def test_operating_points_keep_what_their_names_promise_on_the_data_that_chose_them() -> None:
    found = np.arange(400) < 160
    scores = np.clip(RANDOM.normal(np.where(found, 0.65, 0.35), 0.15), 0.001, 0.999)
    points = {point.name: point for point in calibration.operating_points(scores, found)}
    assert list(points) == ["screening", "balanced", "confirmation"]
    assert points["screening"].sensitivity >= 0.95
    assert points["confirmation"].specificity >= 0.95
    assert points["screening"].threshold < points["balanced"].threshold < points["confirmation"].threshold
    for point in points.values():
        claimed = scores >= point.threshold
        assert point.sensitivity == (claimed & found).sum() / 160
        assert point.specificity == (~claimed & ~found).sum() / 240
        assert (point.positives, point.negatives) == (160, 240)
    youden = max((scores[found] >= t).mean() + (scores[~found] < t).mean() for t in scores)
    assert points["balanced"].sensitivity + points["balanced"].specificity == pytest.approx(youden)


def test_screening_takes_the_highest_threshold_and_confirmation_the_lowest_that_will_do() -> None:
    scores, found = np.array([0.1, 0.2, 0.3, 0.7, 0.8, 0.9]), np.array([0, 0, 0, 1, 1, 1]) == 1
    screening, balanced, confirmation = calibration.operating_points(scores, found)
    assert screening.threshold == balanced.threshold == confirmation.threshold == pytest.approx(0.5)


def test_screening_is_never_stricter_than_the_balance_nor_confirmation_laxer() -> None:
    """One healthy score above all others but one: 95 % sensitivity alone would allow a high threshold."""
    found = np.arange(100) < 60
    scores = np.where(found, np.linspace(0.5, 0.99, 100), np.linspace(0.01, 0.3, 100))
    scores[0] = 0.45
    screening, balanced, confirmation = calibration.operating_points(scores, found)
    assert screening.threshold <= balanced.threshold <= confirmation.threshold
    assert screening.sensitivity >= balanced.sensitivity >= 0.95


def test_healthy_pictures_that_score_one_leave_a_confirmation_that_finds_nothing() -> None:
    *_, confirmation = calibration.operating_points(np.array([1.0, 1.0, 0.2, 1.0]), np.arange(4) == 3)
    assert confirmation.specificity == 1
    assert confirmation.threshold > 1


@pytest.mark.parametrize("found", [[True, True], [False, False]])
def test_without_both_kinds_there_is_no_operating_point(found: list[bool]) -> None:
    assert calibration.operating_points(np.array([0.2, 0.8]), np.array(found)) == ()


def test_scores_that_are_all_equal_still_give_points_that_keep_their_names() -> None:
    screening, _, confirmation = calibration.operating_points(np.full(6, 0.4), np.arange(6) < 3)
    assert screening.sensitivity == 1
    assert confirmation.specificity == 1
