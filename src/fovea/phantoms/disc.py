"""Synthetic photographs of the optic disc alone, as ACRIMA shows it (doi:10.1186/s12938-019-0649-y).

The eye and its lengths are those of `fovea.phantoms.eye`, seen from near: the same disc, cup and retina, with vessels
grown for this view, where the trunks' way over the rim matters and the rest of the retina does not.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from fovea.phantoms import eye
from fovea.phantoms.eye import Eye, Point, Vessel, View
from fovea.phantoms.plane import Picture, clouds, finished, grains, streams

SIDE = 340
KNEE, ROOM = 150.0, 105.0
"""Brightness from which the camera saturates, and how much is left above it."""
RIM, CUP = (1.15, 1.52, 1.45), (1.16, 1.75, 2.4)
"""As in `eye`, but set beside ACRIMA, where rims are redder."""
STEP = 2.0
"""One step of growth, in canonical units."""


@dataclass(frozen=True)
class Signs:
    """What the photograph shows, in anatomical words. The default is a healthy disc."""

    cup: float = 0.3  # diameter of the cup over that of the disc, 0…0.9


def crop(seed: int, signs: Signs = Signs()) -> Picture:
    """Draw one disc, uint8 `[340, 340, 3]`, RGB. The same arguments give the same pixels on the same machine."""
    anatomy, camera, _, noise = streams(seed)
    middle = anatomy.uniform(135, 165), anatomy.uniform(-18, 12)
    shown = Eye(middle, eye.DISC_RADIUS * anatomy.uniform(0.9, 1.1), (middle[0] - 160, middle[1] + 10))
    off = camera.uniform(-8, 8, 2)
    scale = SIDE * camera.uniform(0.20, 0.29) / eye.DISC_RADIUS
    view = View(
        SIDE, SIDE, scale, mirrored=bool(anatomy.random() < 0.5), centre=(middle[0] + off[0], middle[1] + off[1])
    )
    x, y = view.grid()
    inside = eye.Signs(cup=signs.cup, tessellation=anatomy.uniform(0, 0.35))
    picture = eye.background(x, y, shown, inside, view, camera)
    picture *= 1 + 0.03 * clouds(SIDE, SIDE, 3 * scale, camera)[..., None]
    picture *= camera.uniform((0.8, 0.9, 0.6), (1.05, 1.25, 1.3)).astype(np.float32)
    on_disc = eye.draw_disc(picture, x, y, shown, inside, view, camera, RIM, CUP)
    # A camera's film or sensor saturates slowly; otherwise cup and rim would both be white.
    picture = np.where(picture > KNEE, KNEE + ROOM * np.tanh((picture - KNEE) / (1.6 * ROOM)), picture)
    density, _ = eye.draw_vessels(list(_vessels(shown, anatomy)), view)
    density *= np.float32(camera.uniform(0.9, 1.3)) * (1 + 0.35 * on_disc)
    picture *= np.exp(-density[..., None] * eye.ABSORBANCE)
    picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), camera.uniform(0.8, 2.2)), np.float32)
    picture += np.float32(camera.uniform(1, 3)) * grains(SIDE, SIDE, 0.7, noise)[..., None]
    return finished(picture)


def _vessels(shown: Eye, generator: np.random.Generator) -> Iterator[Vessel]:
    """Trunks that part above and below into a temporal and a nasal branch, and twigs straight to the sides."""
    (dx, dy), radius = shown.disc, shown.disc_radius
    for vein in (True, False):
        for down in (-1, 1):
            start = dx + generator.uniform(0, 9) + (3 if vein else -1), dy + down * generator.uniform(-6, 8)
            fork = start[0] + generator.normal(1, 8), dy + down * radius * generator.uniform(0.45, 1.2)
            calibre = generator.uniform(5.5, 7.5) * (1 if vein else 0.75)
            trunk = _march(
                start,
                down * math.pi / 2 + generator.normal(0, 0.5),
                fork,
                calibre,
                shown,
                generator,
                vein,
                math.dist(start, fork),
                True,
            )
            yield trunk
            end, heading = (float(trunk.points[-1, 0]), float(trunk.points[-1, 1])), down * math.pi / 2
            # y points down: towards the temple is −x, and an angle of π − a lies below the horizontal.
            temporal, nasal = down * generator.uniform(1.75, 2.5), down * generator.uniform(0.4, 1.3)
            for goal, share in ((temporal, 0.9), (nasal, 0.65)):
                far = end[0] + 150 * math.cos(goal), end[1] + 150 * math.sin(goal)
                branch = _march(end, heading, far, share * calibre, shown, generator, vein)
                yield branch
                for _ in range(generator.integers(0, 3)):
                    at = int(generator.uniform(0.15, 0.7) * len(branch.points))
                    bud = float(branch.points[at, 0]), float(branch.points[at, 1])
                    turned = goal + generator.choice((-1, 1)) * generator.uniform(0.4, 0.9)
                    beyond = bud[0] + 150 * math.cos(turned), bud[1] + 150 * math.sin(turned)
                    yield _march(bud, turned, beyond, generator.uniform(1.5, 2.8), shown, generator, vein)
        for side in (0.0, math.pi):
            for _ in range(generator.integers(2, 4)):
                goal = side + generator.normal(0, 0.5)
                reach = generator.uniform(0.25, 0.95) * radius
                start = dx + 4 + reach * math.cos(goal), dy + reach * math.sin(goal)
                far = dx + 150 * math.cos(goal), dy + 150 * math.sin(goal)
                yield _march(
                    start,
                    goal + generator.normal(0, 0.5),
                    far,
                    generator.uniform(1.4, 2.8),
                    shown,
                    generator,
                    vein,
                    emerges=True,
                )


def _march(
    start: Point,
    heading: float,
    goal: Point,
    calibre: float,
    shown: Eye,
    generator: np.random.Generator,
    vein: bool,
    length: float = 110,
    emerges: bool = False,
) -> Vessel:
    """Grow towards the goal with wandering bends, and a kink where the vessel climbs over the rim of the disc.

    One that emerges widens from out of the depth of the cup.
    """
    x, y = start
    points, bend, within = [(x, y)], 0.0, math.dist(start, shown.disc) < shown.disc_radius
    kink = generator.normal(0, 0.45)
    for _ in range(max(2, round(length / STEP))):
        off = math.remainder(math.atan2(goal[1] - y, goal[0] - x) - heading, math.tau)
        bend = 0.75 * bend + generator.normal(0, 0.045)
        heading += min(0.16, max(-0.16, 0.22 * off)) + bend
        if within and math.dist((x, y), shown.disc) > 0.9 * shown.disc_radius:
            heading, within = heading + kink, False
        x, y = x + STEP * math.cos(heading), y + STEP * math.sin(heading)
        points.append((x, y))
    calibres = calibre * np.linspace(1, 0.85, len(points))
    if emerges:
        calibres[:5] *= np.linspace(0.3, 1, 5)[: len(points)]
    return Vessel(np.array(points), calibres, vein)
