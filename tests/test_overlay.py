"""What is drawn on a photograph is where it belongs, and the rest of it is untouched."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from client import overlay
from fovea import pixels
from fovea.answers import Answer
from fovea.errors import UsageError
from fovea.pixels import Frame
from fovea.tasks import TASKS

RETINA = TASKS["retina"]


def png(height: int, width: int) -> bytes:
    """A picture in one colour."""
    stream = io.BytesIO()
    Pillow.new("RGB", (width, height), (90, 60, 40)).save(stream, "PNG")
    return stream.getvalue()


def mask(left: int, top: int, side: int) -> dict[str, "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]"]:
    plane = np.zeros((512, 512), np.uint8)
    plane[top : top + side, left : left + side] = 255
    return {"vessels": plane}


def changed(drawn: pixels.Picture, height: int) -> tuple[int, int, int, int]:
    """Bounding box of what differs from the plain photograph."""
    rows, columns = np.nonzero((drawn[:height] != (90, 60, 40)).any(axis=-1))
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def test_a_mask_is_outlined_where_its_frame_puts_it() -> None:
    answer = Answer(RETINA, masks=mask(128, 256, 64), frame=Frame(-100, 0, 1024, 1024))
    drawn = overlay.draw(png(900, 800), answer)
    box = changed(drawn, 900)
    assert np.abs(np.array(box) - (156, 512, 284, 640)).max() <= 2
    assert (drawn[512:514, 200] != (90, 60, 40)).any()
    assert (drawn[560:600, 200:240] == (90, 60, 40)).all()  # an outline, not a stain


def test_on_a_large_photograph_the_outline_shrinks_with_it() -> None:
    answer = Answer(RETINA, masks=mask(0, 0, 256), frame=Frame(0, 0, 4096, 4096))
    drawn = overlay.draw(png(2048, 4096), answer)
    assert drawn.shape[1] == overlay.LONGEST == 1600
    box = changed(drawn, 800)
    assert np.abs(np.array(box) - (0, 0, 800, 800)).max() <= 3


def test_heat_is_drawn_where_it_is_and_nowhere_else() -> None:
    heat = np.zeros((16, 16), np.float32)
    heat[2, 13] = 1e-6  # its own maximum, however small
    answer = Answer(RETINA, heatmap=heat, frame=Frame(0, 0, 640, 640))
    left, top, right, bottom = changed(overlay.draw(png(640, 640), answer), 640)
    centre = (left + right) / 2, (top + bottom) / 2
    assert np.abs(np.array(centre) - (13.5 * 40, 2.5 * 40)).max() <= 2
    assert max(right - left, bottom - top) <= 2 * 40


@pytest.mark.parametrize("answer", [
    Answer(RETINA),
    Answer(RETINA, masks=mask(0, 0, 0), frame=Frame(0, 0, 64, 64)),
    Answer(RETINA, heatmap=np.zeros((16, 16), np.float32), frame=Frame(0, 0, 64, 64)),
], ids=["nothing asked", "an empty mask", "no heat"])  # fmt: skip
def test_without_anything_to_show_the_photograph_is_untouched(answer: Answer) -> None:
    drawn = overlay.draw(png(64, 64), answer)
    assert (drawn[:64] == (90, 60, 40)).all()
    assert drawn.shape[0] > 64


@pytest.mark.parametrize(("height", "width"), [(32, 32), (40, 3000), (3000, 40), (33, 200_000), (1600, 1601)])
def test_every_shape_of_photograph_is_drawn_in_its_own_aspect(height: int, width: int) -> None:
    answer = Answer(
        RETINA,
        probabilities=np.array([0.1, 0.2, 0.3, 0.4], np.float32),
        heatmap=np.ones((16, 16), np.float32),
        masks=mask(100, 100, 300),
        frame=Frame(0, (height - width) // 2, width, width),
    )
    drawn = overlay.draw(png(height, width), answer)
    scale = min(1, overlay.LONGEST / max(height, width))
    assert drawn.shape[1] == max(1, round(width * scale))
    assert drawn.shape[0] > max(1, round(height * scale))


def test_a_picture_is_saved_whole_or_not_at_all(tmp_path: Path) -> None:
    picture = np.full((40, 50, 3), (10, 200, 30), np.uint8)
    overlay.save(tmp_path / "new" / "eye.v2.png", picture)
    assert np.array_equal(pixels.decode((tmp_path / "new" / "eye.v2.png").read_bytes()).picture, picture)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["eye.v2.png"]
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match="cannot be written"):
        overlay.save(tmp_path / "file" / "eye.png", picture)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UsageError, match="cannot be written"):
        overlay.save(tmp_path / "folder.png", picture)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png", "new"]
