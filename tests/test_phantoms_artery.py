"""Angiogram phantoms: a stenosis takes contrast from one stretch of one vessel."""

import numpy as np
import pytest

from fovea.phantoms import artery
from fovea.phantoms.artery import SIDE, Signs

SEEDS = (0, 1, 2, 3)


@pytest.mark.parametrize("seed", SEEDS)
def test_vessel_is_darker_than_the_chest_behind_it(seed: int) -> None:
    picture = artery.angiogram(seed)
    assert picture.shape == (SIDE, SIDE)
    assert picture.dtype == np.uint8
    assert np.percentile(picture, 3) < 0.75 * np.median(picture)


@pytest.mark.parametrize("seed", SEEDS)
def test_stenosis_lightens_one_small_stretch_in_the_middle(seed: int) -> None:
    healthy, narrowed = (artery.angiogram(seed, Signs(stenosis)).astype(np.int16) for stenosis in (0, 0.8))
    changed = np.abs(narrowed - healthy) > 15
    y, x = np.nonzero(changed)
    assert 60 < changed.sum() < 0.08 * SIDE**2
    assert max(np.ptp(y), np.ptp(x)) < 130
    assert (narrowed - healthy)[changed].mean() > 15
    far = np.hypot(*(np.indices((SIDE, SIDE)) - np.array([y.mean(), x.mean()])[:, None, None])) > 80
    assert np.array_equal(narrowed[far], healthy[far])


def test_tighter_stenosis_lightens_more() -> None:
    sums = [int(artery.angiogram(1, Signs(stenosis)).astype(np.int64).sum()) for stenosis in (0, 0.3, 0.6, 0.9)]
    assert sums == sorted(sums)


def test_background_and_course_vary_with_the_seed() -> None:
    pictures = [artery.angiogram(seed).astype(np.float32) for seed in range(8)]
    assert np.ptp([picture.mean() for picture in pictures]) > 20
    flat = np.corrcoef([picture.ravel() for picture in pictures])
    assert (flat - np.eye(8)).max() < 0.9
