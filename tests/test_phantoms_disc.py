"""Disc phantoms: the cup grows inside the disc, and nothing else changes."""

import numpy as np
import pytest

from fovea.phantoms import disc
from fovea.phantoms.disc import SIDE, Signs

SEEDS = (0, 1, 2)


def test_disc_is_brighter_than_the_retina_around_it() -> None:
    for seed in SEEDS:
        green = disc.crop(seed)[..., 1].astype(np.float32)
        middle = slice(SIDE // 2 - 30, SIDE // 2 + 30)
        assert np.percentile(green[middle, middle], 80) > 1.25 * np.median(green)


@pytest.mark.parametrize("seed", SEEDS)
def test_larger_cup_brightens_the_disc_and_leaves_the_retina(seed: int) -> None:
    healthy, cupped = (disc.crop(seed, Signs(cup)).astype(np.int16) for cup in (0.3, 0.85))
    changed = np.abs(cupped - healthy).max(axis=2) > 0
    y, x = np.nonzero(changed)
    assert 4000 < changed.sum() < 0.3 * SIDE**2
    assert np.hypot(y - SIDE / 2, x - SIDE / 2).max() < 0.42 * SIDE
    assert (cupped - healthy)[changed][:, 1].mean() > 12


def test_brightness_grows_with_the_cup() -> None:
    means = [disc.crop(1, Signs(cup)).mean() for cup in (0.0, 0.3, 0.6, 0.9)]
    assert means == sorted(means)


def test_left_and_right_eyes_and_cameras_vary() -> None:
    pictures = [disc.crop(seed) for seed in range(8)]
    colours = np.array([picture.mean(axis=(0, 1)) for picture in pictures])
    assert np.ptp(colours, axis=0).min() > 20
    assert all(picture.shape == (SIDE, SIDE, 3) and picture.dtype == np.uint8 for picture in pictures)
