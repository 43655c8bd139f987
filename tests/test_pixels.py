"""Encoded bytes in every shape they come in, and what must not get through."""

import io
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from fovea import phantoms, pixels
from fovea.errors import UnreadableImage
from fovea.spec import Image
from fovea.tasks import TASKS

PLAIN = Image(side=64)


def encode(picture: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]", kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Pillow.fromarray(picture).save(stream, kind, **options)
    return stream.getvalue()


def colourful(height: int = 96, width: int = 128) -> pixels.Picture:
    """Red rises to the right, green downwards, blue is half: every orientation of it is different."""
    picture = np.full((height, width, 3), 128, np.uint8)
    picture[..., 0] = np.linspace(0, 255, width).astype(np.uint8)
    picture[..., 1] = np.linspace(0, 255, height).astype(np.uint8)[:, None]
    return picture


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM"])
def test_lossless_formats_decode_to_the_very_pixels(kind: str) -> None:
    assert np.array_equal(pixels.decode(encode(colourful(), kind)).picture, colourful())


def test_jpeg_decodes_to_nearly_the_pixels() -> None:
    decoded = pixels.decode(encode(colourful(), "JPEG", quality=98, subsampling=0)).picture
    assert np.abs(decoded.astype(int) - colourful()).max() <= 6


def test_transparency_is_dropped_and_colours_kept() -> None:
    transparent = np.dstack([colourful(), np.zeros((96, 128), np.uint8)])
    assert np.array_equal(pixels.decode(encode(transparent, "PNG")).picture, colourful())


def test_grey_becomes_three_equal_channels() -> None:
    grey = colourful()[..., 0]
    assert np.array_equal(pixels.decode(encode(grey, "PNG")).picture, np.repeat(grey[..., None], 3, axis=2))


def test_sixteen_bit_grey_is_scaled_to_the_same_grey() -> None:
    grey = colourful()[..., 0]
    decoded = pixels.decode(encode(grey.astype(np.uint16) * 257, "PNG")).picture
    assert np.array_equal(decoded[..., 0], grey)


def test_sixteen_bit_colour_is_scaled_to_the_same_colour() -> None:
    wide = (colourful()[..., ::-1].astype(np.uint16)) * 257
    decoded = pixels.decode(cv2.imencode(".png", wide)[1].tobytes()).picture
    assert np.array_equal(decoded, colourful())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_every_exif_orientation_is_made_upright(orientation: int, kind: str) -> None:
    upright = colourful()
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    options = {"quality": 98, "subsampling": 0} if kind == "JPEG" else {}
    decoded = pixels.decode(encode(np.ascontiguousarray(stored), kind, exif=exif, **options))
    assert decoded.picture.shape == upright.shape
    assert (decoded.source_width, decoded.source_height) == (128, 96)
    assert np.abs(decoded.picture.astype(int) - upright).max() <= (6 if kind == "JPEG" else 0)


@pytest.mark.parametrize(
    ("encoded", "said"),
    [
        (b"", "empty"),
        (b"not a picture at all", "no JPEG, PNG or TIFF"),
        (b"\xff\xd8\xff", "no JPEG, PNG or TIFF"),
        (encode(np.zeros((1, 1, 3), np.uint8), "PNG"), "1×1 pixels"),
        (encode(colourful(), "PNG")[:200], "damaged or cut off"),
        (encode(colourful(), "TIFF", compression="tiff_lzw")[:-3000], "TIFF"),
        (encode(colourful(), "JPEG")[:900], "damaged or cut off"),
        (encode(np.zeros((64, 64, 4), np.uint8), "TIFF", save_all=True, append_images=[Pillow.new("RGBA", (64, 64))]),
         "2 pictures"),
    ],
    ids=["empty", "text", "three bytes", "1×1", "cut PNG", "cut TIFF", "cut JPEG", "two pages"],
)  # fmt: skip
def test_what_is_no_picture_is_refused_with_one_sentence(encoded: bytes, said: str) -> None:
    with pytest.raises(UnreadableImage, match=said) as caught:
        pixels.preprocess(encoded, PLAIN)
    assert "\n" not in str(caught.value)


def test_a_decompression_bomb_is_refused_before_it_is_decoded() -> None:
    bomb = encode_bomb(20_000)
    assert len(bomb) < 200_000
    with pytest.raises(UnreadableImage, match="pixels"):
        pixels.preprocess(bomb, PLAIN)


def test_a_picture_that_is_too_large_is_refused_by_its_header_alone() -> None:
    """Below Pillow's own limit, above ours: the rest of the file is not even there."""
    with pytest.raises(UnreadableImage, match=r"8500×8500 pixels, more than 64,000,000"):
        pixels.preprocess(encode_bomb(8500)[:200], PLAIN)


def encode_bomb(side: int) -> bytes:
    stream = io.BytesIO()
    Pillow.new("1", (side, side)).save(stream, "PNG")
    return stream.getvalue()


def test_a_printing_colour_jpeg_is_refused() -> None:
    stream = io.BytesIO()
    Pillow.new("CMYK", (64, 64)).save(stream, "JPEG")
    with pytest.raises(UnreadableImage, match="CMYK"):
        pixels.decode(stream.getvalue())


def test_floating_point_pixels_are_refused() -> None:
    with pytest.raises(UnreadableImage, match="'F'"):
        pixels.decode(encode(np.zeros((64, 64), np.float32), "TIFF"))


def test_a_black_picture_has_no_field_of_view() -> None:
    with pytest.raises(UnreadableImage, match="black"):
        pixels.preprocess(encode(np.zeros((64, 64, 3), np.uint8), "PNG"), replace(PLAIN, crop="field_of_view"))


def test_any_prefix_and_any_flipped_byte_is_a_picture_or_an_unreadable_image(photograph: bytes) -> None:
    generator = np.random.default_rng(5)
    small = encode(cv2.resize(pixels.decode(photograph).picture, (64, 64)), "JPEG")
    for source in (small, encode(colourful(), "PNG"), encode(colourful(), "TIFF", compression="tiff_lzw")):
        for _ in range(150):
            broken = bytearray(source[: generator.integers(1, len(source) + 1)])
            broken[generator.integers(len(broken))] ^= int(generator.integers(1, 256))
            try:
                picture, _ = pixels.preprocess(bytes(broken), PLAIN)
            except UnreadableImage:
                continue
            assert picture.shape == (64, 64, 3)


@pytest.mark.parametrize("task", TASKS.values(), ids=str)
def test_every_task_sees_its_declared_picture(task: object, photograph: bytes) -> None:
    image = task.image  # type: ignore[attr-defined]
    picture, frame = pixels.preprocess(photograph, image)
    assert picture.shape == (image.side, image.side, 3)
    assert picture.dtype == np.uint8
    assert frame.width == frame.height


def test_the_frame_shows_where_the_picture_came_from() -> None:
    """A white square in the source lands where the frame says."""
    source = np.full((300, 500, 3), 60, np.uint8)
    source[100:140, 300:340] = 255
    picture, frame = pixels.preprocess(encode(source, "PNG"), Image(side=128))
    rows, columns = np.nonzero(picture[..., 0] > 200)
    scale = frame.width / 128
    assert frame == (0, -100, 500, 500)
    assert abs((columns.min()) * scale + frame.left - 300) <= scale
    assert abs((rows.min()) * scale + frame.top - 100) <= scale


def test_a_large_jpeg_decoded_at_a_fraction_keeps_its_frame() -> None:
    phantom = phantoms.fundus(1)
    large = cv2.resize(phantom.picture, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    image = Image(side=128, crop="field_of_view")
    _, small_frame = pixels.preprocess(phantom.encoded("png"), image)
    picture, frame = pixels.preprocess(encode(large, "JPEG", quality=95), image)
    assert pixels.decode(encode(large, "JPEG"), at_least=256).picture.shape[0] < large.shape[0]
    assert picture.shape == (128, 128, 3)
    assert np.allclose(frame, np.array(small_frame) * 4, atol=24)


@pytest.mark.parametrize("equalisation", ["histogram", "clahe"])
def test_equalisation_spreads_the_greys_of_a_flat_picture(equalisation: str) -> None:
    flat = (colourful() // 4 + 90).astype(np.uint8)
    image = replace(PLAIN, equalisation=equalisation)  # type: ignore[arg-type]
    plain, _ = pixels.preprocess(encode(flat, "PNG"), PLAIN)
    spread, _ = pixels.preprocess(encode(flat, "PNG"), image)
    assert spread.std() > plain.std()


@pytest.mark.data
def test_the_field_of_view_agrees_with_the_published_masks(data: Path) -> None:
    """Intersection over union of the bounding boxes, on every HRF and CHASE_DB1 photograph that has a mask."""
    pairs = [
        *((m.parent.parent / "images" / m.name.replace("_mask", ""), m) for m in data.glob("HRF*/mask/*")),
        *((m.parent.parent / m.name, m) for m in data.glob("CHASE_DB1/fov_masks_lwnet/*")),
    ]
    overlaps = []
    for stem, mask in pairs:
        photograph = next(p for p in stem.parent.glob(f"{stem.stem}.*") if p.suffix.lower() == ".jpg")
        rows, columns = np.nonzero(pixels.decode(mask.read_bytes()).picture[..., 0] > 127)
        truth = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        overlaps.append(overlap(pixels.field_of_view(pixels.decode(photograph.read_bytes()).picture), truth))
    assert len(overlaps) == 40
    assert min(overlaps) >= 0.99


def overlap(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    area = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(area) - width * height)


def test_the_brightness_percentile_is_numpys(photographs: list[bytes]) -> None:
    for photograph in photographs:
        picture = pixels.decode(photograph).picture
        brightness, bright = pixels._brightness(picture)
        assert np.array_equal(brightness, cv2.medianBlur(picture.max(axis=2), 5))
        assert bright == pytest.approx(float(np.percentile(brightness, 99)), abs=1e-9)


def test_the_largest_component_by_outlines_is_the_one_by_labels() -> None:
    noise = np.random.default_rng(0)
    compared = 0
    for _ in range(400):
        height, width = (int(side) for side in noise.integers(5, 80, 2))
        field = cv2.GaussianBlur(noise.random((height, width)).astype(np.float32), (0, 0), noise.integers(1, 9) / 2)
        lit = (field > np.quantile(field, 0.98 * noise.random())).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(lit, connectivity=8)
        areas = stats[1:, 4].tolist()
        if areas.count(max(areas)) == 1:
            assert pixels._largest(lit) == tuple(stats[1 + int(np.argmax(areas)), :4])
            compared += 1
    assert compared > 300


def test_a_large_component_inside_a_thin_ring_is_the_largest() -> None:
    lit = np.zeros((60, 60), np.uint8)
    cv2.rectangle(lit, (1, 1), (58, 58), 1, 1)
    cv2.rectangle(lit, (10, 12), (49, 47), 1, -1)
    assert pixels._largest(lit) == (10, 12, 40, 36)
