"""Encoded bytes → the uint8 picture the networks see. The only preprocessing there is.

Training loaders, the served preprocess model, parity checks and benchmarks all call `preprocess`, so a picture
cannot be seen differently in training and in service. Normalisation is not here: it is inside each network's graph.
"""

import io
import warnings
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image as Pillow

from fovea.errors import UnreadableImage
from fovea.spec import Image

Picture = npt.NDArray[np.uint8]  # [height, width, 3], RGB

MAX_PIXELS = 64_000_000
"""Larger pictures are refused before they are decoded: 64 megapixels decode to 192 MB."""
MIN_SIDE = 32
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM")
MODES_8_BIT = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX"})
MODES_16_BIT = frozenset({"I;16", "I;16L", "I;16B"})

# Pillow only warns between one and two times its limit; the one answer here is the refusal below.
warnings.filterwarnings("error", category=Pillow.DecompressionBombWarning)
# The serving processes own the cores: a picture is preprocessed on one thread.
cv2.setNumThreads(1)


class Frame(NamedTuple):
    """The square that was resized, in pixels of the upright source picture; it may reach beyond its borders."""

    left: int
    top: int
    width: int
    height: int


class Decoded(NamedTuple):
    """An upright picture, possibly decoded at a fraction of its size, and the source's (width, height)."""

    picture: Picture
    source_width: int
    source_height: int


def preprocess(encoded: bytes, image: Image) -> tuple[Picture, Frame]:
    """Decode, crop, pad to a square, resize and equalise, as `image` declares.

    Returns:
        The picture, uint8 `[image.side, image.side, 3]` RGB, and the square of the source that it shows.

    Raises:
        UnreadableImage: the bytes are no picture, are damaged, too large or too small, or show nothing.
    """
    decoded = decode(encoded, at_least=2 * image.side)
    height, width = decoded.picture.shape[:2]
    box = field_of_view(decoded.picture) if image.crop == "field_of_view" else (0, 0, width, height)
    left, top, side = _enclosing_square(box)
    picture = resize(cut(decoded.picture, left, top, side), image.side)
    scale = decoded.source_width / width
    frame = Frame(round(left * scale), round(top * scale), round(side * scale), round(side * scale))
    return equalise(picture, image), frame


def decode(encoded: bytes, at_least: int | None = None) -> Decoded:
    """Decode JPEG, PNG, TIFF, BMP, GIF, WebP or PPM to an upright 8-bit RGB picture; transparency is dropped.

    With `at_least`, a JPEG is decoded at the smallest eighth of its size (inside the inverse DCT, which averages)
    whose sides are still that long, in pixels. 16-bit grey is scaled by 255/65535.

    Raises:
        UnreadableImage: with the reason and the cure.
    """
    if not encoded:
        raise UnreadableImage("The file is empty: a JPEG, PNG or TIFF picture was expected; copy it again.")
    try:
        header = Pillow.open(io.BytesIO(encoded), formats=FORMATS)
    except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning):
        raise UnreadableImage(f"The picture has more than {MAX_PIXELS:,} pixels: reduce it first.") from None
    except Exception:  # Pillow's readers raise whatever a hostile header makes them raise
        raise UnreadableImage("The bytes are no JPEG, PNG or TIFF picture: export the picture again.") from None
    width, height = header.size
    if width * height > MAX_PIXELS:
        raise UnreadableImage(
            f"The picture is {width}×{height} pixels, more than {MAX_PIXELS:,} in all: reduce it first."
        )
    if min(width, height) < MIN_SIDE:
        raise UnreadableImage(
            f"The picture is {width}×{height} pixels; both sides must have at least {MIN_SIDE}: send the original."
        )
    try:
        orientation = header.getexif().get(0x0112, 1)  # not earlier: where a PNG has none, Pillow decodes all of it
    except Exception as error:  # as above
        raise UnreadableImage(f"The {header.format} picture is damaged or cut off ({error}): copy it again.") from None
    if header.format in ("JPEG", "MPO"):
        picture = _decode_jpeg(encoded, header.mode, at_least)
    else:
        picture = _decode_other(header)
    picture = _upright(picture, orientation)
    if orientation in (5, 6, 7, 8):
        width, height = height, width
    return Decoded(picture, width, height)


def _decode_jpeg(encoded: bytes, mode: str, at_least: int | None) -> Picture:
    if mode == "CMYK":
        raise UnreadableImage("The JPEG is in printing colours (CMYK): save it as RGB.")
    try:
        # strict: libjpeg's warnings (premature end, corrupt data) are errors, where OpenCV and Pillow
        # fill the lost part with grey or noise and say nothing.
        return np.asarray(
            simplejpeg.decode_jpeg(encoded, "RGB", min_height=at_least or 0, min_width=at_least or 0, strict=True)
        )
    except ValueError as error:
        raise UnreadableImage(f"The JPEG is damaged or cut off ({error}): copy it again.") from None


def _decode_other(header: Pillow.Image) -> Picture:
    pages = getattr(header, "n_frames", 1)
    if pages != 1:
        raise UnreadableImage(f"The file holds {pages} pictures where one was expected: save the right one alone.")
    if header.mode not in MODES_8_BIT | MODES_16_BIT:
        raise UnreadableImage(
            f"Pixels of kind {header.mode!r} are not supported: save the picture as 8-bit RGB or 8- or 16-bit grey."
        )
    try:
        if header.mode in MODES_16_BIT:
            wide = np.asarray(header).astype(np.uint32)
            grey = ((wide * 255 + 32767) // 65535).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        return np.array(header.convert("RGB"))
    except Exception as error:  # as above: the decoders of eight formats, fed hostile bytes
        raise UnreadableImage(f"The {header.format} picture is damaged or cut off ({error}): copy it again.") from None


def _upright(picture: Picture, orientation: int) -> Picture:
    """Undo the EXIF orientation (1…8; anything else is taken as upright, as viewers do)."""
    if orientation in (5, 6, 7, 8):
        picture = picture.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    return np.ascontiguousarray(picture)


def field_of_view(picture: Picture) -> tuple[int, int, int, int]:
    """The bounding box (left, top, right, bottom) of the lit disc of a fundus photograph.

    The largest component brighter than an eighth of the 99th percentile, on a reduced copy. A picture without
    a dark surround is its own field of view.

    Raises:
        UnreadableImage: the picture is black.
    """
    height, width = picture.shape[:2]
    scale = max(1.0, max(height, width) / 512)
    small = cv2.resize(picture, (round(width / scale), round(height / scale)), interpolation=cv2.INTER_AREA)
    brightness, bright = _brightness(np.asarray(small, np.uint8))
    if bright < 16:
        raise UnreadableImage("The picture is black: no field of view can be found; take it again.")
    left, top, box_width, box_height = _largest((brightness > bright / 8).astype(np.uint8))
    right, bottom = left + box_width, top + box_height
    return (
        int(left * scale),
        int(top * scale),
        min(width, round(right * scale)),
        min(height, round(bottom * scale)),
    )


def _largest(lit: npt.NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """The bounding box (left, top, width, height) of the component (8-connected) with the most pixels.

    Outlines give it twenty times faster than labelling all pixels, where one component leaves too few to the others.
    """
    outlines, hierarchy = cv2.findContours(lit, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    outer = [outline for outline, (_, _, _, inside) in zip(outlines, hierarchy[0], strict=True) if inside < 0]
    boxes = sorted((cv2.boundingRect(outline) for outline in outer), key=lambda box: box[2] * box[3])
    others = [box[2] * box[3] for box in boxes[:-1]]
    if cv2.countNonZero(lit) - sum(others) > max(others, default=0):
        left, top, width, height = boxes[-1]
        return left, top, width, height
    _, _, stats, _ = cv2.connectedComponentsWithStats(lit, connectivity=8)
    left, top, width, height, _ = (int(value) for value in max(stats[1:], key=lambda each: int(each[4])))
    return left, top, width, height


def _brightness(picture: Picture) -> tuple[npt.NDArray[np.uint8], float]:
    """The largest of red, green and blue, freed of specks, `[height, width]`, and its 99th percentile.

    The percentile is numpy's, linear between ranks, but read off a histogram; the largest channel is taken plane by
    plane. Both are many times faster so, and this runs for every picture that is served.
    """
    red, green, blue = cv2.split(picture)
    brightness = np.asarray(cv2.medianBlur(cv2.max(cv2.max(red, green), blue), 5), np.uint8)
    below = cv2.calcHist([brightness], [0], None, [256], [0, 256])[:, 0].cumsum(dtype=np.float64)
    rank = 0.99 * (brightness.size - 1)
    low, high = np.searchsorted(below, [np.floor(rank), np.ceil(rank)], side="right")
    return brightness, float(low + (high - low) * (rank % 1))


def lit_disc(picture: Picture) -> npt.NDArray[np.uint8]:
    """The field of view as a plane `[height, width]`: 1 inside the convex outline of the largest lit part, else 0."""
    brightness, bright = _brightness(picture)
    lit = (brightness > bright / 8).astype(np.uint8)
    outlines, _ = cv2.findContours(lit, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    hull = cv2.convexHull(max(outlines, key=cv2.contourArea))
    return np.asarray(cv2.fillConvexPoly(np.zeros_like(lit), hull, (1,)), np.uint8)


def _enclosing_square(box: tuple[int, int, int, int]) -> tuple[int, int, int]:
    """(left, top, side) of the smallest square around the box, with the same centre."""
    left, top, right, bottom = box
    side = max(right - left, bottom - top)
    return (left + right - side) // 2, (top + bottom - side) // 2, side


def cut(array: npt.NDArray[np.uint8], left: int, top: int, side: int) -> npt.NDArray[np.uint8]:
    """The square of `array` `[height, width, …]` at (left, top), padded with zeros where it reaches outside."""
    height, width = array.shape[:2]
    inside = array[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)]
    if inside.shape[:2] == (side, side):
        return inside
    return cv2.copyMakeBorder(
        inside,
        top=max(-top, 0),
        bottom=max(top + side - height, 0),
        left=max(-left, 0),
        right=max(left + side - width, 0),
        borderType=cv2.BORDER_CONSTANT,
    ).astype(np.uint8, copy=False)


def resize(array: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """Resize a square to `side` pixels: area averaging when shrinking, bilinear when enlarging."""
    shrinks = array.shape[0] > side
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(array, (side, side), interpolation=interpolation).astype(np.uint8, copy=False)


def equalise(picture: Picture, image: Image) -> Picture:
    """Equalise the lightness (L of CIE Lab), globally or by CLAHE (clip 2, 8×8 tiles), or leave it alone."""
    if image.equalisation == "none":
        return picture
    lab = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB)
    if image.equalisation == "clahe":
        lab[..., 0] = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(lab[..., 0])
    else:
        lab[..., 0] = cv2.equalizeHist(lab[..., 0])
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB).astype(np.uint8, copy=False)
