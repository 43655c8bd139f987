"""Synthetic glomeruli in PAS stain: capillary loops, nuclei, Bowman's space and capsule, interstitium around them.

A tuft is drawn as two densities of stain, periodic acid–Schiff (magenta) and haematoxylin (blue), and lit through:
Beer and Lambert, with colours that were set beside the whole-slide images of the Kidney Precision Medicine Project.
Lengths are shares of the capsule's radius.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from fovea.phantoms.plane import Picture, Plane, clouds, finished, soft, streams

SCHIFF = np.array((0.50, 1.45, 0.55), np.float32)
"""Optical density in red, green and blue of basement membrane."""
HAEMATOXYLIN = np.array((1.10, 1.25, 0.72), np.float32)
"""The same of a nucleus."""
SIDES = (250, 520)
"""Of the picture in pixels: the published crops measure 270 to 870."""


@dataclass(frozen=True)
class Signs:
    """What the section shows, in anatomical words. The default is an open tuft."""

    sclerosis: float = 0.0  # how far matrix has taken the place of loops, cells and Bowman's space, 0…1


@dataclass(frozen=True)
class Shape:
    """The capsule on the picture's grid: polar coordinates of every pixel, its outline, and one radius in pixels."""

    from_centre: Plane  # 1 on the capsule
    centre: tuple[float, float]
    radius: float


def section(seed: int, signs: Signs = Signs()) -> Picture:
    """Draw one glomerulus, uint8 `[height, width, 4]`, RGBA, opaque as published; 250 to 520 pixels a side."""
    anatomy, camera, lesions, noise = streams(seed)
    side, aspect = camera.uniform(*SIDES), anatomy.uniform(0.85, 1.18)
    height, width = round(min(side, side * aspect)), round(min(side, side / aspect))
    shape = _shape(height, width, anatomy)
    schiff, blue = _surround(shape, height, width, anatomy)
    _capsule(schiff, blue, shape, signs.sclerosis, anatomy, lesions)
    _tuft(schiff, blue, shape, signs.sclerosis, anatomy, lesions)

    stains = camera.uniform(0.75, 1.2) * SCHIFF, camera.uniform(0.75, 1.1) * HAEMATOXYLIN
    stains[0][0] *= camera.uniform(0.7, 1.3)
    density = schiff[..., None] * stains[0] + blue[..., None] * stains[1]
    picture = np.array((246, 243, 247), np.float32) * camera.uniform(0.95, 1.02) * np.exp(-density)
    picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), camera.uniform(0.5, 1.1)), np.float32)
    picture += np.float32(camera.uniform(1, 3)) * noise.standard_normal((height, width, 1), dtype=np.float32)
    return np.dstack([finished(picture), np.full((height, width), 255, np.uint8)])


def _shape(height: int, width: int, generator: np.random.Generator) -> Shape:
    y, x = np.indices((height, width), np.float32)
    centre = width / 2 + generator.uniform(-0.03, 0.03) * width, height / 2 + generator.uniform(-0.03, 0.03) * height
    x, y = (x - centre[0]) / np.float32(0.43 * width), (y - centre[1]) / np.float32(0.43 * height)
    angle = np.arctan2(y, x)
    uneven = sum(
        generator.normal(0, 0.05) / order**0.7 * np.cos(order * angle + generator.uniform(0, math.tau))
        for order in (2, 3, 5, 8)
    )
    return Shape(np.hypot(x, y) * (1 + np.asarray(uneven, np.float32)), centre, 0.43 * math.sqrt(width * height))


def _surround(shape: Shape, height: int, width: int, generator: np.random.Generator) -> tuple[Plane, Plane]:
    """Densities of both stains in the interstitium: pale wisps, a few tubules' membranes, scattered nuclei."""
    radius = shape.radius
    fibres = clouds(height, width, 0.16 * radius, generator) + 0.6 * clouds(height, width, 0.05 * radius, generator)
    schiff = np.maximum(generator.uniform(0.18, 0.42) + 0.09 * fibres, 0.03)
    blue = np.full_like(schiff, 0.10)
    for _ in range(generator.integers(3, 7)):
        angle, reach = generator.uniform(0, math.tau), generator.uniform(1.25, 1.6) * radius
        where = round(shape.centre[0] + reach * math.cos(angle)), round(shape.centre[1] + reach * math.sin(angle))
        axes = round(generator.uniform(0.2, 0.42) * radius), round(generator.uniform(0.2, 0.42) * radius)
        turned = generator.uniform(0, 180)
        cv2.ellipse(schiff, where, axes, turned, 0, 360, (0.28,), -1, cv2.LINE_8)
        cv2.ellipse(schiff, where, axes, turned, 0, 360, (0.85,), max(1, round(0.02 * radius)), cv2.LINE_8)
    spots = generator.uniform(-0.5, 0.5, (70, 2)) * (width, height) * 1.05 + (width / 2, height / 2)
    _nuclei(blue, spots, radius, generator)
    return schiff, blue


def _nuclei(
    blue: Plane, spots: npt.NDArray[np.float64], radius: float, generator: np.random.Generator, missing: float = 0.0
) -> None:
    """Draw a nucleus on each spot `[n, 2]` but a `missing` share of them, in place."""
    sizes = generator.uniform((0.028, 0.020), (0.050, 0.034), (len(spots), 2)) * radius
    turns, depths = generator.uniform(0, 180, len(spots)), generator.uniform(0.6, 1.15, len(spots))
    # All are drawn by lot alike, so that those which stay are the same whatever is missing.
    stays = generator.random(len(spots)) >= missing
    for spot, size, turned, depth in zip(spots[stays], sizes[stays], turns[stays], depths[stays], strict=True):
        middle, axes = np.rint(spot * 16).astype(int).tolist(), np.rint(size * 16).astype(int).tolist()
        outline = cv2.ellipse2Poly(middle, axes, round(float(turned)), 0, 360, 40)
        cv2.fillPoly(blue, [np.asarray(outline, np.int32)], (float(depth),), cv2.LINE_8, 4)


def _capsule(
    schiff: Plane,
    blue: Plane,
    shape: Shape,
    sclerosis: float,
    anatomy: np.random.Generator,
    lesions: np.random.Generator,
) -> None:
    """Bowman's capsule and the space within: empty, or filled with layers of collagen; in place."""
    height, width = schiff.shape
    distance = shape.from_centre
    inside = soft(1 - distance, 0.02)
    waves = np.sin(90 * distance + 5 * clouds(height, width, 0.2 * shape.radius, lesions))
    collagen = sclerosis * (0.46 + 0.08 * waves + 0.10 * clouds(height, width, 0.06 * shape.radius, lesions))
    schiff += (np.maximum(collagen, 0.02) - schiff) * inside
    blue *= 1 - inside
    thickness = anatomy.uniform(0.014, 0.028) * (1 + 0.6 * sclerosis)
    uneven = thickness * (1 + 0.35 * clouds(height, width, 0.35 * shape.radius, anatomy))
    ring = soft(np.maximum(uneven, 0.008) - np.abs(distance - 1), 0.02)
    schiff += (1.05 - schiff) * ring


def _tuft(
    schiff: Plane,
    blue: Plane,
    shape: Shape,
    sclerosis: float,
    anatomy: np.random.Generator,
    lesions: np.random.Generator,
) -> None:
    """The tuft in place: mesangium, loops with open lumina between their membranes, nuclei; or solid matrix."""
    height, width = schiff.shape
    radius = shape.radius
    bays = 0.035 * clouds(height, width, 0.22 * radius, anatomy)
    reach = anatomy.uniform(0.84, 0.92) * (1 - 0.14 * sclerosis)
    inside = soft(reach - shape.from_centre + bays, 0.03)

    matrix = 0.46 + 0.14 * clouds(height, width, 0.16 * radius, anatomy)
    _loops(matrix, shape, sclerosis, anatomy)
    solid = 0.92 + 0.13 * clouds(height, width, 0.25 * radius, lesions)
    solid += 0.10 * clouds(height, width, 0.05 * radius, lesions, 0.03 * radius)
    solid += 0.09 * clouds(height, width, 0.02 * radius, lesions)
    matrix += (solid - matrix) * np.float32(min(1.0, 1.1 * sclerosis))
    bend = [np.float32(0.016 * radius) * clouds(height, width, 0.09 * radius, anatomy) for _ in range(2)]
    y, x = np.indices((height, width), np.float32)
    matrix = np.asarray(cv2.remap(matrix, x + bend[0], y + bend[1], cv2.INTER_LINEAR, None, cv2.BORDER_REPLICATE))

    cells = np.full_like(blue, 0.06)
    angle, out = anatomy.uniform(0, math.tau, 150), reach * np.sqrt(anatomy.random(150))
    spots = np.array(shape.centre) + radius * (out * np.stack([np.cos(angle), np.sin(angle)])).T
    _nuclei(cells, spots, radius, anatomy, 0.9 * sclerosis)
    schiff += (np.maximum(matrix, 0) - schiff) * inside
    schiff *= 1 - 0.6 * inside * np.clip(cells, 0, 1)
    blue += (cells - blue) * inside


def _loops(matrix: Plane, shape: Shape, sclerosis: float, generator: np.random.Generator) -> None:
    """Draw capillary loops on the matrix, in place: a ring of membrane about a lumen, closed as sclerosis goes on."""
    count = 330
    angle, out = generator.uniform(0, math.tau, count), np.sqrt(generator.random(count))
    spots = np.array(shape.centre) + shape.radius * (out * np.stack([np.cos(angle), np.sin(angle)])).T
    sizes = generator.uniform((0.035, 0.025), (0.095, 0.055), (count, 2)) * shape.radius
    open_share = np.clip(1.2 * (1 - sclerosis) - 0.25 * generator.random(count), 0, 1)
    wall = generator.uniform(0.012, 0.022, count) * shape.radius
    turns, lumina = generator.uniform(0, 180, count), generator.uniform(0.02, 0.28, count)
    for i in range(count):
        middle = np.rint(spots[i] * 16).astype(int).tolist()
        for grown, value in ((wall[i], 1.0), (0.0, lumina[i])):
            axes = np.rint((sizes[i] * open_share[i] + grown) * 16).astype(int).tolist()
            if open_share[i] > 0.1:
                outline = cv2.ellipse2Poly(middle, axes, round(turns[i]), 0, 360, 30)
                cv2.fillPoly(matrix, [np.asarray(outline, np.int32)], (float(value),), cv2.LINE_8, 4)
