"""Synthetic B-scans of the macula by optical coherence tomography: layers, pit, choroid, speckle, white margins.

Reflectivity is 0…1; lengths are pixels, 3.9 µm from top to bottom and about 11 µm across. Thicknesses and tones were
set beside the pictures of Kermany et al. (doi:10.1016/j.cell.2018.02.010); the layers are named as in
doi:10.1016/j.ophtha.2014.02.023.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from fovea.phantoms.plane import Picture, Plane, clouds, finished, grains, soft, streams

Line = npt.NDArray[np.float32]  # [width]: a height, in pixels from the top or as said, for every column

HEIGHT, WIDTHS = 496, (512, 512, 512, 768)
OUTER = (0.0, 8.0, 13.0, 17.5, 23.0, 25.0)
"""How far these lie above the foot of the pigment epithelium: itself, its top, and the ellipsoid zone's foot and top,
then the external limiting membrane's."""
TONES = (0.05, 0.66, 0.44, 0.25, 0.42, 0.18, 0.32, 0.22, 0.72, 0.40, 0.92)
"""Reflectivity of vitreous, nerve fibres, ganglion cells with inner plexiform, inner nuclear, outer plexiform and outer
nuclear layer, external limiting membrane, inner segments, ellipsoid zone, outer segments, pigment epithelium."""
FLUID = 0.05


@dataclass(frozen=True)
class Signs:
    """What the scan shows, in anatomical words. The defaults are a healthy retina."""

    bumps: int = 0  # small domes of the pigment epithelium, 12 to 24 px high
    membrane: float = 0.0  # tissue that lifts and thickens the pigment epithelium, 0…1
    fluid: float = 0.0  # height of the fluid between retina and pigment epithelium, 0…1
    cysts: int = 0  # dark cavities in the inner and outer nuclear layer, which thicken the retina


@dataclass(frozen=True)
class Lesions:
    """What the signs do to each column: heights in pixels."""

    raised: Line  # of the pigment epithelium above Bruch's membrane
    thickened: Line  # of the pigment epithelium itself
    detached: Line  # of the retina above the pigment epithelium
    swollen: Line  # of the inner and outer nuclear layer


def scan(seed: int, signs: Signs = Signs()) -> Picture:
    """Draw one B-scan, uint8 `[496, 512 or 768]`. The same arguments give the same pixels on the same machine."""
    anatomy, camera, lesions, noise = streams(seed)
    width = int(camera.choice(WIDTHS))
    x = np.arange(width, dtype=np.float32)
    fovea = width * anatomy.uniform(0.38, 0.62)
    changed = _lesions(x, fovea, signs, lesions)
    off_centre = (x - width / 2) / (width / 2)
    bruch = camera.uniform(215, 340) + camera.uniform(-45, 45) * off_centre + camera.uniform(-40, 12) * off_centre**2
    bruch = np.asarray(bruch + 1.5 * clouds(1, width, 90, anatomy)[0], np.float32)
    surfaces = _surfaces(x, fovea, bruch, changed, anatomy)

    y = np.arange(HEIGHT, dtype=np.float32)[:, None]
    picture = np.full((HEIGHT, width), TONES[0], np.float32)
    # Where a layer is gone, its two surfaces coincide and their steps cancel.
    for surface, above, below in zip(surfaces, TONES, TONES[1:], strict=False):
        picture += np.float32(below - above) * soft(y - surface, 3)
    retina = soft(y - surfaces[0], 3)
    picture *= 1 + 0.10 * clouds(HEIGHT, width, 26, anatomy, 5) * retina
    _draw_fluid(picture, y, surfaces, changed, signs, fovea, lesions)
    _draw_below(picture, y, surfaces[-1], bruch, changed, anatomy, lesions)
    shadow = _shadows(x, anatomy) * (1 - 0.35 * np.minimum((changed.raised + changed.thickened) / 30, 1))
    picture *= 1 - (1 - shadow) * soft(y - surfaces[1], 6)
    return _exposed(picture, camera, noise)


def _lesions(x: Line, fovea: float, signs: Signs, generator: np.random.Generator) -> Lesions:
    """Heights for every column; each sign draws its numbers from a stream of its own."""
    bumps, membrane, fluid, cysts = generator.spawn(4)
    raised, thickened, detached, swollen = (np.zeros_like(x) for _ in range(4))

    def dome(centre: float, half: float, power: float = 2) -> Line:
        return np.asarray(np.exp(-(np.abs((x - centre) / half) ** power)), np.float32)

    for _ in range(signs.bumps):
        centre = fovea + bumps.uniform(-0.36, 0.36) * len(x)
        raised = np.maximum(raised, bumps.uniform(12, 24) * dome(centre, bumps.uniform(9, 17)))
    if signs.membrane > 0:
        centre, half = fovea + membrane.uniform(-60, 60), membrane.uniform(65, 110)
        lifted = dome(centre, half, 4) * (1 + 0.25 * clouds(1, len(x), 38, membrane)[0])
        raised = np.maximum(raised, signs.membrane * membrane.uniform(30, 50) * np.maximum(lifted, 0))
        thickened = signs.membrane * 9 * dome(centre, half, 4) * (1 + 0.5 * clouds(1, len(x), 14, membrane)[0])
        thickened = np.maximum(thickened, 0)
    if signs.fluid > 0:
        centre, half = fovea + fluid.uniform(-60, 60), fluid.uniform(60, 110)
        detached = signs.fluid * fluid.uniform(24, 42) * dome(centre, half)
    if signs.cysts > 0:
        swollen = (26 + 1.6 * min(signs.cysts, 16)) * dome(fovea + cysts.uniform(-35, 35), cysts.uniform(85, 130))
    return Lesions(*(np.asarray(line, np.float32) for line in (raised, thickened, detached, swollen)))


def _surfaces(x: Line, fovea: float, bruch: Line, changed: Lesions, generator: np.random.Generator) -> list[Line]:
    """The upper surfaces of the layers of `TONES` after the vitreous, from the nerve fibres down."""
    pit = np.exp(-(((x - fovea) / generator.uniform(34, 50)) ** 2))
    rim = np.exp(-(((np.abs(x - fovea) - 100) / 60) ** 2))
    nasal = generator.choice((-1, 1)) * (x - fovea) / len(x)
    full = generator.uniform(0.9, 1.15)
    inner = full * np.maximum(1 - 1.02 * pit + 0.15 * rim, 0)
    fibres = (7 + 22 * np.maximum(nasal, 0)) * inner
    ganglion, inner_nuclear, plexiform = 24 * inner, 10 * inner, 6 * inner
    outer_nuclear = full * (19 + 9 * pit)
    flattened = np.clip(changed.swollen / 40, 0, 1)
    inner_nuclear = inner_nuclear + 0.35 * changed.swollen
    outer_nuclear = outer_nuclear + 0.65 * changed.swollen
    ganglion = ganglion + 10 * flattened * pit
    wavy = [0.5 * clouds(1, len(x), 18, generator)[0] for _ in range(3)]

    foot = bruch - changed.raised
    top = foot - OUTER[1] - changed.thickened
    outer = [top - (height - OUTER[1]) - changed.detached for height in OUTER[2:]]
    # The layers further in span the domes below them.
    outer_nuclear = outer_nuclear - 0.8 * (changed.raised - cv2.GaussianBlur(changed.raised[None], (0, 0), 25)[0])
    surfaces = [top, *outer]
    for thickness, wave in zip((outer_nuclear, plexiform, inner_nuclear, ganglion, fibres), (*wavy, 0, 0), strict=True):
        surfaces.append(surfaces[-1] - np.maximum(thickness + wave * np.minimum(thickness / 6, 1), 0))
    return [np.asarray(surface, np.float32) for surface in reversed(surfaces)]


def _draw_fluid(
    picture: Plane,
    y: Plane,
    surfaces: list[Line],
    changed: Lesions,
    signs: Signs,
    fovea: float,
    generator: np.random.Generator,
) -> None:
    """Dark pockets, in place: between retina and pigment epithelium, and in the nuclear layers."""
    top = surfaces[-1]
    pocket = soft(y - (top - changed.detached), 3) * soft(top - y, 3) * np.minimum(changed.detached / 4, 1)
    cavities = np.zeros(picture.shape, np.uint8)
    inner, outer = (surfaces[2] + surfaces[3]) / 2, (surfaces[4] + surfaces[5]) / 2
    (stream,) = generator.spawn(1)
    for number in range(signs.cysts):
        column = int(np.clip(fovea + stream.normal(0, 42), 20, picture.shape[1] - 21))
        deep = number % 3 != 0
        middle = (outer if deep else inner)[column]
        half = 0.42 * (surfaces[5] - surfaces[4] if deep else surfaces[3] - surfaces[2])[column]
        central = 0.55 + 0.9 * math.exp(-(((column - fovea) / 40) ** 2))
        axes = (
            round(central * stream.uniform(8, 16)),
            round(max(3.0, half * min(1.0, stream.uniform(0.7, 1.0) * central))),
        )
        cv2.ellipse(cavities, (column, round(float(middle))), axes, stream.uniform(-12, 12), 0, 360, (255,), -1)
    dark = np.maximum(pocket, cv2.GaussianBlur(cavities, (0, 0), 1.0).astype(np.float32) / 255)
    picture += (FLUID - picture) * dark


def _draw_below(
    picture: Plane,
    y: Plane,
    top: Line,
    bruch: Line,
    changed: Lesions,
    anatomy: np.random.Generator,
    lesions: np.random.Generator,
) -> None:
    """Tissue between pigment epithelium and Bruch's membrane, then the choroid fading with depth, in place."""
    height, width = picture.shape
    foot = top + OUTER[1] + changed.thickened
    (stream,) = lesions.spawn(1)
    tissue = 0.5 * (1 + 0.22 * clouds(height, width, 10, stream, 6))
    picture += (tissue - picture) * soft(y - foot, 3) * soft(bruch - y, 3)
    depth = np.maximum(y - bruch, 0)
    reach, lumen = anatomy.uniform(30, 65), anatomy.uniform(14, 24)
    texture = 1 + 0.34 * clouds(height, width, 1.3 * lumen, anatomy, 0.8 * lumen) * np.minimum(depth / 20, 1)
    texture += 0.12 * clouds(height, width, 7, anatomy, 5)
    choroid = 0.04 + np.maximum(0.36 * texture, 0.08) * np.exp(-depth / np.float32(reach))
    picture += (choroid - picture) * soft(y - np.maximum(bruch, foot), 3)


def _shadows(x: Line, generator: np.random.Generator) -> Line:
    """What passes the vessels of the retina, 0…1 for every column."""
    light = np.ones_like(x)
    for _ in range(generator.integers(1, 6)):
        centre, half = generator.uniform(0, len(x)), generator.uniform(2, 5)
        light *= np.asarray(1 - generator.uniform(0.2, 0.45) * np.exp(-(((x - centre) / half) ** 2)), np.float32)
    return light


def _exposed(picture: Plane, camera: np.random.Generator, noise: np.random.Generator) -> Picture:
    """Speckle, gain, and the white margins where the scan was shifted and turned into place."""
    height, width = picture.shape
    picture = picture * np.float32(camera.uniform(0.75, 1.1))
    picture *= 1 + np.float32(camera.uniform(0.16, 0.30)) * grains(height, width, 0.9, noise)
    picture += np.float32(camera.uniform(0.015, 0.04)) * np.abs(noise.standard_normal(picture.shape, dtype=np.float32))
    picture *= 255
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    depths, slopes = camera.uniform(2, 45, 2), camera.uniform(-0.07, 0.07, 2)
    shown, side = camera.random(2) < (0.6, 0.4), int(camera.integers(0, 4))
    if shown[0]:
        picture[y < depths[0] + slopes[0] * (x - width / 2)] = 255
    if shown[1]:
        picture[height - 1 - y < depths[1] + slopes[1] * (x - width / 2)] = 255
    picture[:, :side] = 255
    return finished(picture)
