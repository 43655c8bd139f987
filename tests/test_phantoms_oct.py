"""B-scan phantoms: layers in order, and signs that raise, darken or thicken what they say."""

import numpy as np
import pytest

from fovea.phantoms import oct
from fovea.phantoms.oct import HEIGHT, WIDTHS, Signs

SEEDS = (0, 1, 2, 3)
SHOWN = (Signs(bumps=8), Signs(membrane=0.8), Signs(fluid=0.8), Signs(cysts=10))


@pytest.mark.parametrize("seed", SEEDS)
def test_vitreous_is_dark_and_the_retina_bright(seed: int) -> None:
    picture = oct.scan(seed).astype(np.float32)
    assert picture.shape[0] == HEIGHT
    assert picture.shape[1] in WIDTHS
    inside = np.where(picture < 255, picture, 0)[:, 8:]
    rows = inside.mean(axis=1)
    brightest = int(rows.argmax())
    assert 120 < brightest < 400
    assert rows[50:80].mean() < 0.3 * rows[brightest]
    assert rows[-60:-40].mean() < 0.6 * rows[brightest]


def test_widths_tilts_and_white_margins_vary_with_the_seed() -> None:
    pictures = [oct.scan(seed) for seed in range(12)]
    assert {picture.shape[1] for picture in pictures} == set(WIDTHS)
    white = [(picture == 255).all(axis=1).sum() + (picture[2] == 255).mean() for picture in pictures]
    assert min(white) == 0
    assert max(white) > 0.5


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("signs", SHOWN, ids=["bumps", "membrane", "fluid", "cysts"])
def test_sign_changes_the_retina_but_not_the_vitreous_the_margins_or_the_camera(seed: int, signs: Signs) -> None:
    healthy, shown = (oct.scan(seed, made).astype(np.int16) for made in (Signs(), signs))
    assert healthy.shape == shown.shape
    changed = np.abs(shown - healthy) > 25
    assert 700 < changed.sum() < 0.25 * changed.size
    assert np.array_equal(shown[:40], healthy[:40])
    # A lesion casts its shadow on the choroid.
    assert np.abs(shown[-40:] - healthy[-40:]).max() < 12


@pytest.mark.parametrize("seed", SEEDS)
def test_signs_add_up_without_disturbing_one_another(seed: int) -> None:
    few, many = (oct.scan(seed, Signs(cysts=count)).astype(np.int16) for count in (8, 16))
    both = oct.scan(seed, Signs(cysts=8, membrane=0.8)).astype(np.int16)
    assert (few < 40).sum() != (many < 40).sum()
    assert (np.abs(both - few) > 25).sum() > 700


@pytest.mark.parametrize("seed", SEEDS)
def test_fluid_and_cysts_open_dark_cavities_between_bright_layers(seed: int) -> None:
    for signs in (Signs(fluid=1.0), Signs(cysts=14)):
        healthy, shown = oct.scan(seed), oct.scan(seed, signs)
        # Bright in health and dark now: more than the other way round by no speckle alone.
        assert ((healthy > 60) & (shown < 35)).sum() > 800
