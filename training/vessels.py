"""Photographs with vessel masks, as the U-Net sees them: cached at its resolution, augmented on the way."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from fovea import pixels
from fovea.errors import TrainingError, UnreadableImage
from fovea.spec import Image
from training.datasets import content
from training.splits import Entry

Plane = npt.NDArray[np.uint8]  # [side, side]


@dataclass(frozen=True)
class Case:
    """One photograph at the network's resolution. `vessels` is soft: 255 × the share of the pixel that is vessel."""

    entry: Entry
    picture: pixels.Picture  # [side, side, 3]
    vessels: Plane
    inside: Plane  # 1 in the field of view, else 0
    frame: pixels.Frame


def load(entries: Sequence[Entry], image: Image) -> list[Case]:
    """Every entry that has a vessel mask, preprocessed exactly as the server does it.

    Raises:
        TrainingError: a photograph or mask is unreadable, or they differ in size.
    """
    return [_case(entry, image, entry.sample.vessels) for entry in entries if entry.sample.vessels is not None]


def _case(entry: Entry, image: Image, file: Path) -> Case:
    path, field_of_view = entry.sample.path, entry.sample.field_of_view
    try:
        encoded = path.read_bytes()
        picture, frame = pixels.preprocess(encoded, image)
        size = pixels.decode(encoded, at_least=1)[1:]
    except UnreadableImage as error:
        raise TrainingError(f"{path}: {error}") from None
    vessels = at_network_resolution(mask(file, size), frame, image.side)
    if field_of_view is None:
        return Case(entry, picture, vessels, pixels.lit_disc(picture), frame)
    inside = at_network_resolution(mask(field_of_view, size), frame, image.side) > 127
    return Case(entry, picture, vessels, inside.astype(np.uint8), frame)


def mask(path: Path, size: tuple[int, ...] | None = None) -> Plane:
    """A mask file as 0 and 255, uint8 `[height, width]`; `size` is the (width, height) it must have.

    Raises:
        TrainingError: it is unreadable, or of another size.
    """
    try:
        decoded = pixels.decode(content(path))
    except UnreadableImage as error:
        raise TrainingError(f"{path}: {error}") from None
    if size is not None and size != decoded[1:]:
        raise TrainingError(
            f"{path} has {decoded.source_width}×{decoded.source_height} pixels and its photograph {size[0]}×{size[1]}: "
            "give masks in the photograph's own pixels."
        )
    return np.where(decoded.picture[..., 0] > 127, np.uint8(255), np.uint8(0))


def at_network_resolution(plane: Plane, frame: pixels.Frame, side: int) -> Plane:
    """A source-sized plane, cut and resized as the picture was: area averaging keeps a thin vessel as a share."""
    return pixels.resize(pixels.cut(plane, frame.left, frame.top, frame.width), side)


def batch(
    cases: Sequence[Case], size: int, count: int, scales: tuple[float, float], generator: np.random.Generator
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Draw and augment `count` windows of `size` pixels.

    Returns:
        Pictures float32 `[count, size, size, 3]` in 0…1 and vessel shares float32 `[count, size, size]` in 0…1.
    """
    if not cases:
        raise TrainingError("No photograph with a vessel mask to train on: --data needs HRF, CHASE_DB1 or DRIVE.")
    drawn = [_window(cases[generator.integers(len(cases))], size, scales, generator) for _ in range(count)]
    return np.stack([picture for picture, _ in drawn]), np.stack([vessels for _, vessels in drawn])


def _window(
    case: Case, size: int, scales: tuple[float, float], generator: np.random.Generator
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Turn, flip and scale around a point in the field of view, then recolour as another camera might."""
    side = case.picture.shape[0]
    if size < side:
        rows, columns = np.nonzero(case.inside)
        chosen = generator.integers(len(rows))
        centre = float(columns[chosen]), float(rows[chosen])
    else:
        centre = side / 2, side / 2
    scale = float(np.exp(generator.uniform(np.log(scales[0]), np.log(scales[1]))))
    matrix = np.asarray(cv2.getRotationMatrix2D(centre, float(generator.uniform(0, 360)), scale), np.float64)
    if generator.random() < 0.5:
        matrix[0] *= -1
        matrix[0, 2] += 2 * centre[0]
    matrix[:, 2] += size / 2 - np.array(centre)
    picture = cv2.warpAffine(case.picture, matrix, (size, size), flags=cv2.INTER_LINEAR)
    vessels = cv2.warpAffine(case.vessels, matrix, (size, size), flags=cv2.INTER_LINEAR)
    return _recolour(picture.astype(np.float32) / 255, generator), vessels.astype(np.float32) / 255


def _recolour(picture: npt.NDArray[np.float32], generator: np.random.Generator) -> npt.NDArray[np.float32]:
    """Gain per channel, gamma, brightness, contrast, uneven light, blur and noise."""
    size = picture.shape[0]
    gain = generator.uniform(0.75, 1.25, 3).astype(np.float32)
    picture = np.clip(picture * gain, 0, 1) ** np.float32(np.exp(generator.uniform(-0.4, 0.4)))
    if generator.random() < 0.3:
        slope = np.linspace(-1, 1, size, dtype=np.float32)
        tilt = generator.uniform(-0.3, 0.3, 2)
        picture = picture * (1 + tilt[0] * slope[:, None, None] + tilt[1] * slope[None, :, None]).astype(np.float32)
    picture = picture * np.float32(generator.uniform(0.8, 1.2)) + np.float32(generator.uniform(-0.08, 0.08))
    if generator.random() < 0.3:
        picture = cv2.GaussianBlur(picture, (0, 0), float(generator.uniform(0.4, 1.2))).astype(np.float32)
    if generator.random() < 0.3:
        noise = generator.standard_normal(picture.shape, dtype=np.float32)
        picture = picture + noise * np.float32(generator.uniform(0.005, 0.03))
    return np.clip(picture, 0, 1).astype(np.float32)
