"""Synthetic colour fundus photographs whose vessels are known exactly: for tests, demonstrations and benchmarks.

A phantom is drawn from a seed. The eye, the camera, the lesions and the sensor noise have a random stream each, so
the same seed with other `Signs` is the same eye, with the same vessels, before the same camera. Lengths are in
canonical units: the field of view has radius `RADIUS` around (0, 0), y points down, the disc lies at +x. Calibres,
contrasts and colours were set beside HRF (doi:10.1155/2013/154860) and CHASE_DB1 (doi:10.1109/TBME.2012.2205687).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from fovea.phantoms.plane import JPEG_QUALITY, Plane, clouds, streams

Point = tuple[float, float]

RADIUS = 272.0
"""Radius of the field of view in canonical units: pixels, at the default size."""
FILL = 0.466
"""That radius over the shorter side of the picture."""
DISC_RADIUS = 34.0
"""An optic disc of 1.85 mm in a field of view of 50°, about 15 mm."""
ARCADE = np.array(((0, 45, 0.3), (-35, 95, 1), (-105, 128, 1.5), (-200, 132, 2), (-300, 115, 3), (-430, 90, 5)))
NASAL = np.array(((22, 45, -1), (55, 110, -1), (80, 250, -3)))
"""Way points of a trunk from the disc: along x, away from the horizontal, and by how much artery and vein part."""
STEP, CELL, TAPER = 4.0, 8.0, 0.004
"""One step of growth; the side of the square that vessels of a kind do not share; calibre lost per unit of length."""
CALIBRES, DENSITIES = (1.5, 3.0, 6.0, 9.0), (0.20, 0.31, 0.42, 0.48)
"""Optical density in green of vessels of these calibres; below the first, a vessel is no longer followed."""
ABSORBANCE = np.array((0.14, 1.0, 0.55), np.float32)
"""Optical density of blood in red, green and blue over that in green."""
RIM, CUP = (1.2, 1.75, 1.9), (1.12, 1.6, 2.2)
"""How much brighter than the retina the disc is in red, green and blue, and how much brighter than it the cup."""
SUPERSAMPLING, SUBPIXEL_BITS = 3, 4


@dataclass(frozen=True)
class Signs:
    """What the phantom shows, in anatomical words. The defaults are a healthy eye."""

    dots: int = 0  # dark red, 3 to 5 px: outpouchings of capillaries
    blots: int = 0  # dark red and ragged, 7 to 18 px
    exudates: int = 0  # bright yellow patches, in clusters
    cup: float = 0.3  # diameter of the cup over that of the disc, 0…0.9
    crescent: float = 0.0  # width of the pale atrophy beside the disc over the disc's diameter, 0…1
    tessellation: float = 0.0  # how far the choroid shines through, 0…1


@dataclass(frozen=True)
class Phantom:
    """One photograph and its truth, all of the same height and width."""

    picture: npt.NDArray[np.uint8]  # [height, width, 3], RGB
    vessels: npt.NDArray[np.uint8]  # [height, width], 255 where at least half of the pixel is vessel, else 0
    field_of_view: npt.NDArray[np.uint8]  # [height, width], 1 inside, else 0

    def encoded(self, format: Literal["jpg", "png"] = "jpg") -> bytes:
        """The picture as a JPEG file of quality 95, or as a PNG file."""
        settings = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if format == "jpg" else []
        return cv2.imencode(f".{format}", self.picture[..., ::-1], settings)[1].tobytes()


@dataclass(frozen=True)
class Eye:
    """Where things lie, in canonical coordinates."""

    disc: Point
    disc_radius: float
    macula: Point


@dataclass(frozen=True)
class View:
    """The pixel grid on which an eye is drawn, at `scale` pixels per canonical unit."""

    height: int
    width: int
    scale: float
    mirrored: bool  # True puts the disc left of the centre
    centre: Point = (0.0, 0.0)  # what lies in the picture's middle

    def grid(self) -> tuple[Plane, Plane]:
        """Canonical x and y of every pixel's centre, each float32 `[height, width]`."""
        y, x = np.indices((self.height, self.width), np.float32)
        centre_y, centre_x = np.float32((self.height - 1) / 2), np.float32((self.width - 1) / 2)
        scale = np.float32(self.scale)
        from_middle = (x - centre_x) / (-scale if self.mirrored else scale), (y - centre_y) / scale
        return from_middle[0] + np.float32(self.centre[0]), from_middle[1] + np.float32(self.centre[1])

    def canvas(self) -> Plane:
        """An empty supersampled plane, for OpenCV to draw on."""
        return np.zeros((self.height * SUPERSAMPLING, self.width * SUPERSAMPLING), np.float32)

    def on_canvas(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
        """Canonical points `[n, 2]` as fixed-point canvas coordinates with `SUBPIXEL_BITS` binary digits."""
        scale = np.array((-self.scale if self.mirrored else self.scale, self.scale))
        pixels = (
            (points - np.array(self.centre)) * scale + np.array((self.width / 2, self.height / 2))
        ) * SUPERSAMPLING - 0.5
        return np.asarray(np.rint(pixels * 2**SUBPIXEL_BITS), np.int32)

    def shrunk(self, canvas: Plane) -> Plane:
        """The canvas averaged over each pixel of the picture."""
        return np.asarray(cv2.resize(canvas, (self.width, self.height), interpolation=cv2.INTER_AREA), np.float32)

    def clouds(self, size: float, generator: np.random.Generator) -> Plane:
        """Smooth noise of standard deviation near 1 whose grain measures `size` canonical units."""
        return clouds(self.height, self.width, size * self.scale, generator)


@dataclass(frozen=True)
class Shoot:
    """Where a vessel begins, and the way points through which it grows before it goes its own way."""

    point: Point
    heading: float  # radians, from +x towards +y
    calibre: float
    vein: bool
    through: tuple[Point, ...] = ()
    parent: int = -1


@dataclass(frozen=True)
class Vessel:
    """One stretch between branchings, in canonical units: points `[n, 2]` and the calibre at each."""

    points: npt.NDArray[np.float64]
    calibres: npt.NDArray[np.float64]
    vein: bool


def fundus(seed: int, signs: Signs = Signs(), height: int = 584, width: int = 656) -> Phantom:
    """Draw one eye. The same arguments give the same pixels on the same machine."""
    anatomy, camera, lesions, noise = streams(seed)
    view = View(height, width, FILL * min(height, width) / RADIUS, mirrored=bool(anatomy.random() < 0.5))
    disc = anatomy.uniform(135, 165), anatomy.uniform(-18, 12)
    macula = disc[0] - anatomy.uniform(150, 170), disc[1] + anatomy.uniform(4, 18)
    eye = Eye(disc, DISC_RADIUS * anatomy.uniform(0.9, 1.1), macula)

    density, vessels = draw_vessels(grow(eye, anatomy), view)
    x, y = view.grid()
    picture = background(x, y, eye, signs, view, camera)
    on_disc = draw_disc(picture, x, y, eye, signs, view, camera)
    exudates, blood = _draw_lesions(eye, signs, view, lesions)
    _tint(picture, exudates, (1.3, 2.7, 1.9))
    density *= np.float32(camera.uniform(0.9, 1.3)) * (1 + 0.6 * on_disc)
    picture *= np.exp(-np.maximum(density, blood)[..., None] * ABSORBANCE)
    from_rim = np.float32(RADIUS) - np.hypot(x, y)
    picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), camera.uniform(0.6, 0.9) * view.scale), np.float32)
    picture += noise.standard_normal(picture.shape, dtype=np.float32) * np.float32(camera.uniform(1.2, 2.6))
    picture *= np.clip(from_rim / 2, 0, 1)[..., None]
    inside = (from_rim >= 0).astype(np.uint8)
    seen = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    return Phantom(seen, inside * np.uint8(255) * (vessels >= 0.5), inside)


def grow(eye: Eye, generator: np.random.Generator) -> list[Vessel]:
    """Both vascular trees, thickest first, each vessel keeping clear of those of its kind that were there before."""
    shoots = list(_trunks(eye, generator))
    taken: dict[tuple[int, int], tuple[int, bool]] = {}  # cell -> number of its vessel, and whether that is a vein
    vessels: list[Vessel] = []
    while shoots:
        shoot = shoots.pop(max(range(len(shoots)), key=lambda i: shoots[i].calibre))
        vessels.append(_grow_one(shoot, len(vessels), eye, taken, shoots, generator))
    return vessels


def _trunks(eye: Eye, generator: np.random.Generator) -> Iterator[Shoot]:
    """An artery and a vein for each arcade and each nasal quadrant, and twigs straight to the sides."""
    dx, dy = eye.disc
    sides = generator.choice((-10, 10), 2)  # the artery runs inside its vein or outside it
    for vein in (True, False):
        for down, side in zip((-1, 1), sides, strict=True):
            apart = side if vein else -side
            start = dx + 4 + apart / 3 + generator.normal(0, 2), dy - 4 * down + generator.normal(0, 2)
            for path, calibre in ((ARCADE, 9.0), (NASAL, 5.0)):
                across = path[:, 0] + apart * np.minimum(np.abs(path[:, 2]), 1) * np.sign(path[:, 2])
                points = np.stack([dx + across, dy + down * (path[:, 1] + apart * path[:, 2])], axis=1)
                through = tuple((float(x), float(y)) for x, y in points + generator.normal(0, 7, points.shape))
                width = calibre * generator.uniform(0.85, 1.0) * (1 if vein else 0.78)
                yield Shoot(start, down * math.pi / 2, width, vein, through)
        for heading in (0.0, 0.6, -0.6, math.pi - 0.5, math.pi + 0.5):
            turned, reach = heading + generator.normal(0, 0.2), generator.uniform(0.7, 1.05) * eye.disc_radius
            start = dx + reach * math.cos(turned), dy + reach * math.sin(turned)
            yield Shoot(start, turned, generator.uniform(2.0, 3.2), vein)


def _grow_one(
    shoot: Shoot,
    number: int,
    eye: Eye,
    taken: dict[tuple[int, int], tuple[int, bool]],
    shoots: list[Shoot],
    generator: np.random.Generator,
) -> Vessel:
    """March from `shoot` until the vessel is too thin, hemmed in or out of sight; add its branches to `shoots`."""
    (x, y), heading, calibre, through = shoot.point, shoot.heading, shoot.calibre, list(shoot.through)
    bend, length, side, to_branch = 0.0, 0.0, generator.choice((-1, 1)), generator.uniform(15, 35)
    points, calibres = [(x, y)], [calibre]

    def obstacles(turn: float, *distances: float) -> int:
        """What lies ahead after a turn: 1 for a vessel of the other kind, 2 for one of this kind or the fovea."""
        worst = 0
        for ahead in distances:
            there = x + ahead * math.cos(heading + turn), y + ahead * math.sin(heading + turn)
            if math.dist(there, eye.macula) < 30:
                return 2
            owner, vein = taken.get((int(there[0] // CELL), int(there[1] // CELL)), (number, shoot.vein))
            if owner != number and (owner != shoot.parent or length >= 30):
                worst = max(worst, 2 if vein == shoot.vein else 1)
        return worst

    def towards(along_x: float, along_y: float, share: float, limit: float) -> float:
        """The turn that goes a share of the way to that direction, at most `limit`."""
        off = math.remainder(math.atan2(along_y, along_x) - heading, math.tau)
        return min(limit, max(-limit, share * off))

    while calibre >= CALIBRES[0] and math.hypot(x, y) < RADIUS + 8:
        if through:
            to_x, to_y = through[0][0] - x, through[0][1] - y
            heading += towards(to_x, to_y, 0.25, 0.1)
            # Reached or passed: a way point that was missed must not be circled.
            if math.hypot(to_x, to_y) < 30 or to_x * math.cos(heading) + to_y * math.sin(heading) < 0:
                through.pop(0)
        else:
            # Between the arcades vessels make for the fovea, elsewhere away from the disc.
            if eye.macula[0] - 60 < x < eye.disc[0] and abs(y - eye.macula[1]) < 115:
                heading += towards(eye.macula[0] - x, eye.macula[1] - y, 0.06, 0.08)
            else:
                heading += towards(x - eye.disc[0], y - eye.disc[1], 0.06, 0.08)
            if math.dist((x, y), eye.disc) > eye.disc_radius:
                turn = min((0.0, 0.25, -0.25, 0.5, -0.5), key=lambda turn: (obstacles(turn, 9, 15), abs(turn)))
                if obstacles(turn, 9, 15) == 2 and calibre < 4:
                    break
                heading += 0.5 * turn
        bend = 0.75 * bend + generator.normal(0, 0.04 if calibre > 4 else 0.06)
        heading += bend
        x, y, length = x + STEP * math.cos(heading), y + STEP * math.sin(heading), length + STEP
        calibre -= (3 if math.dist((x, y), eye.macula) < 75 else 1) * TAPER * STEP
        points.append((x, y))
        calibres.append(calibre)
        taken[int(x // CELL), int(y // CELL)] = number, shoot.vein
        if length > to_branch and math.dist((x, y), eye.disc) > 1.3 * eye.disc_radius:
            share = generator.uniform(0.3, 0.6) if through else generator.uniform(0.5, 0.85)
            child = max(share * calibre, min(generator.uniform(1.6, 2.4), 0.8 * calibre))
            turn = side * generator.uniform(0.6, 1.1)
            side, to_branch = -side, length + generator.uniform(8, 18)
            if child > CALIBRES[0] and not obstacles(turn, 18, 24, 30, 36):
                # Murray: the cubes of the calibres add up (doi:10.1073/pnas.12.3.207).
                calibre = (calibre**3 - child**3) ** (1 / 3)
                shoots.append(Shoot((x, y), heading + turn, child, shoot.vein, parent=number))
                heading -= 0.0 if through else 0.3 * turn
                to_branch += 20
    return Vessel(np.array(points), np.array(calibres), shoot.vein)


def draw_vessels(vessels: list[Vessel], view: View) -> tuple[Plane, Plane]:
    """Optical density in green, and the share of each pixel that is vessel."""
    canvas = view.canvas()
    for vessel in sorted(vessels, key=lambda vessel: vessel.calibres[0]):
        ends = view.on_canvas(vessel.points).tolist()
        density = np.interp(vessel.calibres, CALIBRES, DENSITIES) * (1.08 if vessel.vein else 0.85)
        # A cylinder absorbs most along its axis; the wall of a wide artery reflects light from there.
        reflex = not vessel.vein and vessel.calibres[0] > 4
        for ring, strength in ((1.0, 0.72), (0.7, 1.0), (0.28, 0.72))[: 3 if reflex else 2]:
            # OpenCV draws a line of even thickness t with sub-pixel ends t + 1 pixels wide.
            widths = np.maximum(2 * np.rint((vessel.calibres * ring * view.scale * SUPERSAMPLING - 1) / 2), 1)
            for start, end, value, thickness in zip(ends, ends[1:], density * strength, widths, strict=False):
                cv2.line(canvas, start, end, (float(value),), int(thickness), cv2.LINE_8, SUBPIXEL_BITS)
    return view.shrunk(canvas), view.shrunk((canvas > 0).astype(np.float32))


def background(x: Plane, y: Plane, eye: Eye, signs: Signs, view: View, camera: np.random.Generator) -> Plane:
    """The retina without vessels and disc, under this camera's light."""
    red = camera.uniform(165, 225)
    colour = np.array((red, red * camera.uniform(0.31, 0.40), red * camera.uniform(0.06, 0.2)), np.float32)
    lamp_x, lamp_y = camera.uniform(-90, 90, 2)
    light = 1.08 - np.float32(camera.uniform(0.2, 0.4) / RADIUS**2) * ((x - lamp_x) ** 2 + (y - lamp_y) ** 2)
    light = np.clip(light + 0.04 * view.clouds(180, camera), 0.3, 1.3)
    mottling = 0.025 * view.clouds(22, camera) + 0.02 * view.clouds(6, camera)
    from_macula = (x - eye.macula[0]) ** 2 + (y - eye.macula[1]) ** 2
    # Choroidal vessels fan out from the macula: noise on a polar grid, bent, its grain long along the radius.
    around = 69 / math.tau * np.arctan2(y - eye.macula[1], x - eye.macula[0]) + 0.35 * view.clouds(35, camera)
    along = np.sqrt(from_macula) / 40 + 0.5 * view.clouds(50, camera)
    grain = camera.standard_normal((16, 69), dtype=np.float32)  # wrapped, so that the fan closes
    fan = cv2.remap(grain, around.astype(np.float32), along.astype(np.float32), cv2.INTER_CUBIC, None, cv2.BORDER_WRAP)
    choroid = np.tanh(1.8 * np.asarray(fan, np.float32))
    from_disc = (x - eye.disc[0]) ** 2 + (y - eye.disc[1]) ** 2
    pigment = 0.22 * np.exp(-from_macula / (2 * 42**2)) + 0.16 * np.exp(-from_macula / (2 * 11**2))
    sheen = 0.16 * np.exp(-from_disc / (2 * 75**2))
    bare = np.float32(signs.tessellation) * (1 - np.exp(-from_macula / (2 * 60**2)))
    picture = np.empty((view.height, view.width, 3), np.float32)
    for channel, (share, pale) in enumerate(((0.35, 0.02), (1.0, 0.35), (0.8, 0.5))):
        tone = 1 + share * (mottling + sheen - pigment) + bare * (0.7 * pale + (0.05 + 0.5 * pale) * choroid)
        picture[..., channel] = colour[channel] * light * tone
    return picture


def draw_disc(
    picture: Plane,
    x: Plane,
    y: Plane,
    eye: Eye,
    signs: Signs,
    view: View,
    camera: np.random.Generator,
    rim: tuple[float, float, float] = RIM,
    pale: tuple[float, float, float] = CUP,
) -> Plane:
    """The crescent of atrophy, the disc upon it, and the cup within; returns the opacity of the disc."""
    (dx, dy), radius = eye.disc, eye.disc_radius
    ragged = 1.2 * view.clouds(16, camera)
    beside = radius * (1 + signs.crescent) - np.hypot(x - dx + radius * (1.2 * signs.crescent + 0.1), y - dy) + ragged
    disc = np.clip((radius - np.hypot((x - dx) / 0.93, y - dy) + 0.5 * ragged) / 8 + 0.5, 0, 1)
    cup = radius * signs.cup - np.hypot((x - dx + 0.12 * radius) / 0.95, y - dy) + 0.5 * ragged
    if signs.crescent > 0:
        _tint(picture, np.clip(beside / 4 + 0.5, 0, 1) * (1 - disc) * (0.8 + 0.1 * ragged), (1.22, 2.1, 2.8))
    _tint(picture, disc * (1 - 0.006 * (x - dx)), rim)
    if signs.cup > 0:
        _tint(picture, np.clip(cup / 9 + 0.5, 0, 1), pale)
    return disc


def _draw_lesions(eye: Eye, signs: Signs, view: View, generator: np.random.Generator) -> tuple[Plane, Plane]:
    """Opacity of the exudates, and optical density of blood outside the vessels."""
    exudates, blood = view.canvas(), view.canvas()

    def somewhere() -> Point:
        while True:
            distance, angle = 0.85 * RADIUS * math.sqrt(generator.random()), generator.uniform(0, math.tau)
            point = distance * math.cos(angle), distance * math.sin(angle)
            if math.dist(point, eye.disc) > 1.5 * eye.disc_radius:
                return point

    def patch(canvas: Plane, centre: Point, radius: float, value: float) -> None:
        angles = np.linspace(0, math.tau, 12, endpoint=False)
        reach = radius * generator.uniform(0.8, 1.15, 12)
        outline = np.stack([centre[0] + reach * np.cos(angles), centre[1] + reach * np.sin(angles)], axis=1)
        cv2.fillPoly(canvas, [view.on_canvas(outline)], (value,), cv2.LINE_8, SUBPIXEL_BITS)

    for _ in range(signs.dots):
        patch(blood, somewhere(), generator.uniform(1.6, 2.6), generator.uniform(0.35, 0.5))
    for _ in range(signs.blots):
        patch(blood, somewhere(), generator.uniform(3.5, 9), generator.uniform(0.35, 0.6))
    centre = eye.macula
    for number in range(signs.exudates):
        if number % 8 == 0:
            centre = somewhere()
        spot = centre[0] + generator.normal(0, 16), centre[1] + generator.normal(0, 16)
        patch(exudates, spot, generator.uniform(1.5, 5.5), generator.uniform(0.65, 0.9))
    return view.shrunk(exudates), view.shrunk(blood)


def _tint(picture: Plane, opacity: Plane, gains: tuple[float, float, float]) -> None:
    """Brighten the channels by `gains` where the opacity is 1, in place: the camera's light stays on it."""
    picture *= 1 + opacity[..., None] * (np.array(gains, np.float32) - 1)
