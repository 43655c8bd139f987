"""Synthetic X-ray angiograms: contrast-filled vessels over ribs, diaphragm and mottle.

Lengths are pixels of a square of side 300, a patch around one vessel, as classifiers of stenosis are shown. Tones were
set beside ARCADE (doi:10.1038/s41597-023-02871-z).
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from fovea.phantoms.plane import Picture, Plane, clouds, finished, grains, soft, streams

SIDE = 300
STEP, SUPERSAMPLING, SUBPIXEL_BITS = 2.0, 2, 4
RINGS = (1.0, 0.86, 0.66, 0.4)
"""Radii over the vessel's at which its optical density steps: that of a cylinder, √(1 − r²)."""


@dataclass(frozen=True)
class Signs:
    """What the angiogram shows, in anatomical words. The default is a vessel of even calibre."""

    stenosis: float = 0.0  # share of the diameter that is lost at the narrowest points, 0…0.9
    lesions: int = 1  # how many such points there are, 0…5


@dataclass(frozen=True)
class Tube:
    """A vessel: points `[n, 2]` (x, y) every `STEP` pixels, and the calibre at each."""

    points: npt.NDArray[np.float64]
    calibres: npt.NDArray[np.float64]


def angiogram(seed: int, signs: Signs = Signs()) -> Picture:
    """Draw one patch, uint8 `[300, 300]`. The same arguments give the same pixels on the same machine."""
    anatomy, camera, lesions, noise = streams(seed)
    trunk = _trunk(anatomy)
    branches, crossing = _branches(trunk, anatomy), _crossing(anatomy)
    density = _shadow([*branches, _narrowed(trunk, signs, lesions)]) + _shadow(crossing)
    picture = _background(camera) * np.exp(-np.float32(camera.uniform(0.75, 1.15)) * density)
    picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), camera.uniform(0.7, 1.6)), np.float32)
    picture += np.float32(camera.uniform(2.5, 7)) * grains(SIDE, SIDE, camera.uniform(0.5, 1.1), noise)
    return finished(picture)


def _trunk(generator: np.random.Generator) -> Tube:
    """A vessel that winds through the middle of the picture, roughly from top to bottom."""
    along = np.arange(-0.8 * SIDE, 0.8 * SIDE, STEP)
    across = sum(
        generator.uniform(*amplitude)
        * np.sin(math.tau * along / generator.uniform(*length) + generator.uniform(0, 6.3))
        for amplitude, length in (((8, 34), (260, 520)), ((2, 9), (90, 170)))
    )
    turned = generator.choice((0.5, 1.5)) * math.pi + generator.uniform(-0.35, 0.35)
    centre = SIDE / 2 + generator.uniform(-30, 30, 2)
    axis, normal = np.array((math.cos(turned), math.sin(turned))), np.array((-math.sin(turned), math.cos(turned)))
    points = centre + along[:, None] * axis + np.asarray(across)[:, None] * normal
    taper = 1 - generator.uniform(0.0, 0.35) * (along / SIDE)
    uneven = 1 + 0.03 * clouds(1, len(along), 12, generator)[0]
    return Tube(points, generator.uniform(28, 46) * taper * uneven)


def _narrowed(tube: Tube, signs: Signs, generator: np.random.Generator) -> Tube:
    """The vessel with stretches of lesser calibre, off its axis as plaque on one wall leaves it."""
    eccentric, length, first = generator.uniform(-0.4, 0.4), 200 / max(signs.lesions, 1), generator.uniform(0.3, 0.7)
    along = (np.arange(len(tube.points)) - len(tube.points) / 2) * STEP
    loss = np.zeros_like(along)
    for number in range(signs.lesions):
        at, half = (number + first) * length - 100, min(length / 3.2, generator.uniform(26, 48))
        loss = np.maximum(loss, signs.stenosis * np.exp(-(np.abs((along - at) / half) ** 8)))
    heading = np.gradient(tube.points, axis=0)
    normal = np.stack([-heading[:, 1], heading[:, 0]], axis=1) / np.linalg.norm(heading, axis=1, keepdims=True)
    shift = 0.5 * eccentric * loss * tube.calibres
    return Tube(tube.points + shift[:, None] * normal, tube.calibres * (1 - loss))


def _branches(trunk: Tube, generator: np.random.Generator) -> list[Tube]:
    """Side branches of the trunk, which leave it as it was before any narrowing."""
    tubes = []
    for _ in range(generator.integers(1, 4)):
        start = int(generator.uniform(0.25, 0.75) * len(trunk.points))
        dx, dy = trunk.points[start + 1] - trunk.points[start]
        heading = math.atan2(dy, dx) + generator.choice((-1, 1)) * generator.uniform(0.5, 1.2)
        calibre = trunk.calibres[start] * generator.uniform(0.25, 0.5)
        tubes.append(_winding(trunk.points[start], heading, calibre, generator))
    return tubes


def _crossing(generator: np.random.Generator) -> list[Tube]:
    """Thin vessels in front of or behind the others."""
    count = int(generator.integers(1, 4))
    starts, headings = generator.uniform(-0.1, 1.1, (count, 2)) * SIDE, generator.uniform(0, math.tau, count)
    return [
        _winding(start, heading, generator.uniform(3, 8), generator)
        for start, heading in zip(starts, headings, strict=True)
    ]


def _winding(start: npt.NDArray[np.float64], heading: float, calibre: float, generator: np.random.Generator) -> Tube:
    """A vessel that goes its own way and thins out."""
    count = int(generator.uniform(50, 120))
    bends = np.cumsum(np.convolve(generator.normal(0, 0.05, count), np.ones(6) / 2, mode="same"))
    steps = STEP * np.stack([np.cos(heading + bends), np.sin(heading + bends)], axis=1)
    return Tube(start + np.cumsum(steps, axis=0), calibre * np.linspace(1, 0.5, count))


def _shadow(tubes: list[Tube]) -> Plane:
    """Optical density `[SIDE, SIDE]`: the path through cylinders of contrast medium, later ones over earlier ones."""
    canvas = np.zeros((SIDE * SUPERSAMPLING, SIDE * SUPERSAMPLING), np.float32)
    digits = 2**SUBPIXEL_BITS
    for tube in tubes:
        centres = np.rint((tube.points * SUPERSAMPLING) * digits).astype(int).tolist()
        # Long paths saturate: harder rays are left.
        densities = 0.85 * (tube.calibres / 36) ** 0.6
        for outer, inner in zip(RINGS, (*RINGS[1:], 0.0), strict=True):
            path = math.sqrt(1 - ((outer + inner) / 2) ** 2)
            radii = np.rint(outer * tube.calibres / 2 * SUPERSAMPLING * digits).astype(int).tolist()
            for centre, radius, density in zip(centres, radii, (densities * path).tolist(), strict=True):
                cv2.circle(canvas, centre, radius, (density,), -1, cv2.LINE_8, SUBPIXEL_BITS)
    return np.asarray(cv2.resize(canvas, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.float32)


def _background(camera: np.random.Generator) -> Plane:
    """The chest without contrast medium: light falling off, a diaphragm's edge, ribs, lung, the collimator."""
    y, x = np.indices((SIDE, SIDE), np.float32) / np.float32(SIDE) - np.float32(0.5)
    picture = camera.uniform(125, 195) * (1 + camera.uniform(-0.3, 0.3) * x + camera.uniform(-0.3, 0.3) * y)
    turned = camera.uniform(0, math.tau)
    u, v = x * np.cos(turned) + y * np.sin(turned), y * np.cos(turned) - x * np.sin(turned)
    edge = u - camera.uniform(-0.4, 0.4) + camera.uniform(-0.6, 0.6) * v**2
    picture *= 1 - camera.uniform(0.0, 0.3) * soft(edge, camera.uniform(0.01, 0.08))
    ribs = np.sin(math.tau * (v * camera.uniform(1.5, 3) + camera.uniform(-0.8, 0.8) * u**2 + camera.random()))
    picture *= 1 - camera.uniform(0.0, 0.10) * soft(ribs.astype(np.float32) - 0.2, 0.5)
    picture *= 1 + 0.05 * clouds(SIDE, SIDE, 60, camera) + 0.02 * clouds(SIDE, SIDE, 14, camera)
    side, depth, shut = camera.integers(0, 4), camera.uniform(0.02, 0.10), camera.random() < 0.25
    if shut:
        from_edge = (x, -x, y, -y)[int(side)] + 0.5 - depth
        picture *= 0.12 + 0.88 * soft(np.asarray(from_edge, np.float32), 0.012)
    return np.asarray(picture, np.float32)
