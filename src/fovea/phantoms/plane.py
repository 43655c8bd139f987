"""What every phantom is drawn with: random streams, smooth noise, soft edges, and the file at the end."""

import math

import cv2
import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.float32]  # [height, width]; a picture is [height, width, 3], RGB in 0…255
Picture = npt.NDArray[np.uint8]  # [height, width], [height, width, 3] RGB or [height, width, 4] RGBA

JPEG_QUALITY = 95


def streams(seed: int) -> tuple[np.random.Generator, ...]:
    """Anatomy, camera, lesions and noise, a stream each: other signs leave the patient and the camera as they are."""
    return tuple(np.random.default_rng([seed, stream]) for stream in range(4))


def clouds(
    height: int, width: int, grain: float, generator: np.random.Generator, grain_y: float | None = None
) -> Plane:
    """Smooth noise `[height, width]` of standard deviation near 1 whose grain measures `grain` pixels.

    With `grain_y` it measures that much from top to bottom.
    """
    grains = [math.ceil(side / size) + 3 for side, size in ((height, grain_y or grain), (width, grain))]
    noise = 1.4 * generator.standard_normal(grains, dtype=np.float32)
    return np.asarray(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)


def grains(height: int, width: int, sigma: float, generator: np.random.Generator) -> Plane:
    """Noise `[height, width]` of standard deviation 1, blurred by `sigma` pixels: speckle, mottle, film grain."""
    noise = cv2.GaussianBlur(generator.standard_normal((height, width), dtype=np.float32), (0, 0), sigma)
    return np.asarray(noise / noise.std(), np.float32)


def soft(inside: Plane, width: float) -> Plane:
    """1 where a signed distance in pixels is positive, 0 where negative, over an edge `width` pixels wide."""
    return np.clip(inside / np.float32(width) + np.float32(0.5), 0, 1)


def finished(picture: Plane) -> Picture:
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def file(picture: Picture) -> bytes:
    """The picture as a file: PNG where it has transparency, otherwise JPEG."""
    if picture.ndim == 3 and picture.shape[2] == 4:
        return cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGBA2BGRA))[1].tobytes()
    shown = picture if picture.ndim == 2 else picture[..., ::-1]
    return cv2.imencode(".jpg", shown, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
