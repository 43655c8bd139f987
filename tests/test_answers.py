"""From a response's tensors to labels, shares, JSON, and the source's own pixels."""

import io
import json
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image as Pillow

from fovea import phantoms, pixels
from fovea.answers import Answer, from_outputs, share, to_source
from fovea.pixels import Frame
from fovea.spec import THRESHOLD, Image
from fovea.tasks import TASKS

RETINA = TASKS["retina"]
Mask = npt.NDArray[np.uint8]


def answer(*probabilities: float) -> Answer:
    return Answer(RETINA, probabilities=np.array(probabilities, np.float32))


def outputs(batch: int) -> dict[str, "np.ndarray[tuple[int, ...], np.dtype[np.generic]]"]:
    """A response in which every number tells its row."""
    rows = np.arange(batch)
    return {
        "probabilities": np.eye(len(RETINA.labels), dtype=np.float32)[rows],
        "heatmap": np.broadcast_to(rows[:, None, None], (batch, 16, 16)).astype(np.float32),
        "vessels": np.broadcast_to(rows[:, None, None, None], (batch, 512, 512, 1)).astype(np.uint8),
        "frame": np.stack([rows, -rows, rows + 100, rows + 100], axis=1).astype(np.int32),
    }


def png(picture: Mask) -> bytes:
    stream = io.BytesIO()
    Pillow.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()


def box(inside: "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]") -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(inside)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def test_the_label_is_the_class_with_the_largest_probability() -> None:
    for index, label in enumerate(RETINA.labels):
        probabilities = [0.1] * len(RETINA.labels)
        probabilities[index] = 0.7
        assert answer(*probabilities).label == label
        assert answer(*probabilities).probability == pytest.approx(0.7)


def test_of_equal_classes_the_first_is_the_label() -> None:
    assert answer(0.1, 0.4, 0.4, 0.1).label == RETINA.labels[1]


def test_what_was_not_asked_for_is_none_and_absent_from_json() -> None:
    bare = Answer(RETINA)
    assert (bare.label, bare.probability, bare.heatmap, bare.frame, dict(bare.masks)) == (None, None, None, None, {})
    assert bare.json() == {"task": "retina"}


def test_json_is_made_of_plain_values_that_survive_a_round_trip() -> None:
    full = from_outputs(RETINA, outputs(1))
    value = full.json()
    assert json.loads(json.dumps(value, allow_nan=False)) == value
    assert value == {
        "task": "retina",
        "label": RETINA.labels[0],
        "probability": 1.0,
        "probabilities": dict(zip(RETINA.labels, (1.0, 0.0, 0.0, 0.0), strict=True)),
        "frame": {"left": 0, "top": 0, "width": 100, "height": 100},
    }


@pytest.mark.parametrize("row", [0, 1, 3])
def test_a_row_of_a_batch_gets_its_own_answer_and_no_other(row: int) -> None:
    found = from_outputs(RETINA, outputs(4), row=row, latency_ms=12.5)
    assert found.label == RETINA.labels[row]
    assert found.frame == Frame(row, -row, 100 + row, 100 + row)
    assert found.heatmap is not None
    assert found.heatmap.shape == (16, 16)
    assert (found.heatmap == row).all()
    assert found.masks["vessels"].shape == (512, 512)
    assert (found.masks["vessels"] == row).all()
    assert found.latency_ms == 12.5


def test_any_subset_of_the_outputs_makes_an_answer() -> None:
    everything = outputs(1)
    for name in everything:
        found = from_outputs(RETINA, {name: everything[name]})
        given = {
            "probabilities": found.probabilities is not None,
            "heatmap": found.heatmap is not None,
            "vessels": "vessels" in found.masks,
            "frame": found.frame is not None,
        }
        assert given == {other: other == name for other in everything}


def test_the_second_copy_of_a_mask_for_the_next_network_is_no_mask_of_the_answer() -> None:
    both = outputs(1) | {"vessels_onward": outputs(1)["vessels"]}
    assert list(from_outputs(RETINA, both).masks) == ["vessels"]


@pytest.mark.parametrize(("width", "height"), [(900, 600), (600, 900), (512, 512), (200, 140), (137, 401)])
@pytest.mark.parametrize("crop", ["none", "field_of_view"])
def test_a_bright_square_seen_by_the_network_lands_where_it_was_in_the_source(
    width: int, height: int, crop: str
) -> None:
    """Round trip: preprocess, threshold what the network sees, lay it back, compare with the source."""
    source = np.zeros((height, width, 3), np.uint8)
    if crop == "field_of_view":
        source[height // 10 : -height // 10, width // 5 : -width // 10] = 60
    else:
        source[:] = 60
    left, top, side = width // 2, height // 3, min(width, height) // 4
    source[top : top + side, left : left + side] = 255
    image = replace(RETINA.image, crop=crop)  # type: ignore[arg-type]
    picture, frame = pixels.preprocess(png(source), image)
    mask = np.where(picture[..., 0] > 157, np.uint8(255), np.uint8(0))  # halfway between 60 and 255
    laid = to_source(mask, frame, width, height)
    assert laid.shape == (height, width)
    assert laid.dtype == np.float32
    within = max(1, frame.width / image.side)
    found, true = box(laid >= THRESHOLD), (left, top, left + side, top + side)
    assert max(abs(a - b) for a, b in zip(found, true, strict=True)) <= within


def test_a_square_at_the_middle_of_a_negative_frame_lands_at_the_middle_of_the_source() -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[24:40, 24:40] = 255
    laid = to_source(mask, Frame(0, -150, 640, 640), 640, 340)
    assert laid.shape == (340, 640)
    assert box(laid >= THRESHOLD) == (240, 90, 400, 250)


def test_a_frame_beyond_every_border_fills_the_source_and_one_inside_leaves_the_rest_zero() -> None:
    full = np.full((16, 16), 200, np.uint8)
    assert (to_source(full, Frame(-50, -60, 400, 400), 200, 180) == 200).all()
    laid = to_source(full, Frame(40, 30, 100, 100), 200, 180)
    assert box(laid > 0) == (40, 30, 140, 130)
    assert laid[30:130, 40:140].min() == 200
    assert laid.sum() == 200 * 100 * 100


def test_a_full_mask_reaches_the_borders_of_its_frame() -> None:
    """The outermost half cell is extrapolated, not faded into the black outside."""
    laid = to_source(np.full((16, 16), 255, np.uint8), Frame(0, 0, 320, 320), 320, 320)
    assert (laid >= THRESHOLD).all()


def test_a_heat_map_keeps_its_scale_and_its_peak_its_place() -> None:
    heat = np.zeros((16, 16), np.float32)
    heat[4, 11] = 3.5
    laid = to_source(heat, Frame(10, 20, 320, 320), 400, 400)
    row, column = np.unravel_index(int(laid.argmax()), laid.shape)
    assert laid.max() == pytest.approx(3.5, rel=0.07)  # the cell's centre lies between two pixels
    assert abs(column - (10 + 11.5 * 20 - 0.5)) <= 1
    assert abs(row - (20 + 4.5 * 20 - 0.5)) <= 1


def test_the_share_of_a_known_mask_is_that_of_the_field_of_view_it_covers() -> None:
    phantom = phantoms.fundus(2)
    encoded = phantom.encoded("png")
    picture, _ = pixels.preprocess(encoded, RETINA.image)
    lit = pixels.lit_disc(picture) == 1
    left_half = np.zeros(lit.shape, np.uint8)
    left_half[:, : lit.shape[1] // 2] = 255
    assert share(np.full(lit.shape, 255, np.uint8), encoded, RETINA) == 1
    assert share(np.zeros(lit.shape, np.uint8), encoded, RETINA) == 0
    assert share(left_half, encoded, RETINA) == pytest.approx(0.5, abs=0.02)
    assert share(np.where(lit, np.uint8(0), np.uint8(255)), encoded, RETINA) == 0  # what is outside does not count


def test_a_share_counts_from_the_threshold_on() -> None:
    encoded, shape = phantoms.fundus(2).encoded(), (512, 512)
    assert share(np.full(shape, THRESHOLD, np.uint8), encoded, RETINA) == 1
    assert share(np.full(shape, THRESHOLD - 1, np.uint8), encoded, RETINA) == 0


def test_a_mask_of_another_resolution_than_the_picture_has_the_same_share() -> None:
    encoded = phantoms.fundus(2).encoded()
    small = np.zeros((128, 128), np.uint8)
    small[:64] = 255
    task = replace(RETINA, image=Image(side=512, crop="field_of_view"))
    assert share(small, encoded, task) == pytest.approx(share(small.repeat(4, 0).repeat(4, 1), encoded, task), abs=0.01)


POINT = ("screening", 0.4)


def at(point: tuple[str, float] | None, *probabilities: float) -> Answer:
    return replace(answer(*probabilities), operating_point=point)


def test_an_operating_point_decides_between_healthy_and_the_likeliest_finding() -> None:
    """The labels are DiabeticRetinopathy, Glaucoma, Myopia, Normal."""
    found = at(POINT, 0.1, 0.25, 0.1, 0.55)
    assert found.label == "Glaucoma"
    assert found.probability == pytest.approx(0.25)
    assert at(None, 0.1, 0.25, 0.1, 0.55).label == "Normal"
    healthy = at(("confirmation", 0.9), 0.1, 0.45, 0.2, 0.25)
    assert healthy.label == "Normal"
    assert healthy.probability == pytest.approx(0.25)
    assert at(None, 0.1, 0.45, 0.2, 0.25).label == "Glaucoma"


def test_a_score_on_the_threshold_is_a_finding_and_json_says_what_decided() -> None:
    edge = replace(answer(0.25, 0.0, 0.0, 0.75), operating_point=("balanced", 0.25))
    assert edge.label == "DiabeticRetinopathy"
    value = json.loads(json.dumps(edge.json()))
    assert (value["operating_point"], value["threshold"], value["score"]) == ("balanced", 0.25, 0.25)
    assert "operating_point" not in answer(0.25, 0.0, 0.0, 0.75).json()


def test_without_probabilities_an_operating_point_decides_nothing() -> None:
    bare = Answer(RETINA, operating_point=POINT)
    assert (bare.label, bare.probability, bare.score) == (None, None, None)
