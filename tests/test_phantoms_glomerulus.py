"""Glomerulus phantoms: sclerosis closes the loops and empties the tuft of cells, and leaves the tissue around."""

import numpy as np
import pytest

from fovea.phantoms import glomerulus
from fovea.phantoms.glomerulus import SIDES, Signs
from fovea.phantoms.plane import Picture

SEEDS = (0, 1, 2, 3)


def tuft(picture: Picture) -> Picture:
    """The middle of the picture, without transparency."""
    height, width = picture.shape[:2]
    return picture[int(0.3 * height) : int(0.7 * height), int(0.3 * width) : int(0.7 * width), :3]


@pytest.mark.parametrize("seed", SEEDS)
def test_picture_is_opaque_and_of_a_published_size(seed: int) -> None:
    picture = glomerulus.section(seed)
    assert picture.shape[2] == 4
    assert (picture[..., 3] == 255).all()
    assert SIDES[0] * 0.8 < min(picture.shape[:2]) <= max(picture.shape[:2]) <= SIDES[1]


def test_sizes_and_stains_vary_with_the_seed_alone() -> None:
    pictures = [glomerulus.section(seed) for seed in range(8)]
    assert len({picture.shape for picture in pictures}) == 8
    assert np.ptp([picture[..., :3].mean(axis=(0, 1)) for picture in pictures], axis=0).min() > 8
    assert glomerulus.section(5, Signs(1.0)).shape == pictures[5].shape


@pytest.mark.parametrize("seed", SEEDS)
def test_sclerosis_closes_the_open_lumina(seed: int) -> None:
    greens = [tuft(glomerulus.section(seed, Signs(sclerosis)))[..., 1].astype(float) for sclerosis in (0, 0.5, 1)]
    bright = [float(np.percentile(green, 90)) for green in greens]
    assert bright[0] > bright[1] + 15
    assert bright[1] > bright[2] + 5
    assert greens[2].std() < 0.6 * greens[0].std()


@pytest.mark.parametrize("seed", SEEDS)
def test_sclerosis_takes_nuclei_away(seed: int) -> None:
    # Blue nuclei let through less red than solid matrix does.
    reds = [tuft(glomerulus.section(seed, Signs(sclerosis)))[..., 0] for sclerosis in (0, 0.95)]
    share = [float((red < np.median(red) - 45).mean()) for red in reds]
    assert share[0] > 3 * share[1]


@pytest.mark.parametrize("seed", SEEDS)
def test_sclerosis_leaves_the_corners_alone(seed: int) -> None:
    healthy, solid = (glomerulus.section(seed, Signs(sclerosis)) for sclerosis in (0, 1))
    height, width = healthy.shape[:2]
    for rows in (slice(0, height // 14), slice(-(height // 14), None)):
        for columns in (slice(0, width // 14), slice(-(width // 14), None)):
            assert np.array_equal(healthy[rows, columns], solid[rows, columns])
