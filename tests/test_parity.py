"""What parity lets through and what it must not: numbers, shapes, and the rounding of masks."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from small_runs import RETINA, SIDE

from export import from_torch, parity
from fovea.errors import ParityError
from fovea.spec import Tolerance

UNET = RETINA.networks[0]


def test_nan_and_other_shapes_are_never_within_the_tolerance() -> None:
    loose = Tolerance(atol=1e9, rtol=1e9)
    one, nan = np.ones((2, 3), np.float32), np.full((2, 3), np.nan, np.float32)
    infinite = np.full((2, 3), np.inf, np.float32)
    assert parity.compare(one, one, Tolerance(0, 0)) == (0, True)
    for found, expected in ((nan, one), (one, nan), (nan, nan), (infinite,) * 2, (infinite, one), (one, infinite)):
        worst, holds = parity.compare(found, expected, loose)
        assert not holds
        assert worst > 1e30
    for other in (one[:1], one.T, one[..., None]):
        assert parity.compare(other, one, loose) == (float("inf"), False)


def test_the_tolerance_is_absolute_plus_relative_and_every_element_counts() -> None:
    expected = np.array([0, 100], np.float32)
    tolerance = Tolerance(atol=0.5, rtol=0.01)
    assert parity.compare(np.array([0.5, 101.5], np.float32), expected, tolerance)[1]
    assert not parity.compare(np.array([0.6, 100], np.float32), expected, tolerance)[1]
    assert not parity.compare(np.array([0, 98], np.float32), expected, tolerance)[1]


def test_the_worst_of_several_broken_lines_is_the_one_that_is_named() -> None:
    def line(output: str, worst: float, holds: bool) -> parity.Line:
        return parity.Line("n", output, "phantoms", 8, 2, worst, Tolerance(1e-5, 0), holds)

    parity.enforce([line("probabilities", 1e-6, True)])
    with pytest.raises(ParityError, match=r"n: heatmap differs from its framework by 0\.5 on phantoms at batch 2"):
        parity.enforce([line("probabilities", 1e-3, False), line("heatmap", 0.5, False)])


class Halves(torch.nn.Module):
    """Answers (value + ½) / 255 for the red channel: 255 times that lies on a half wherever float32 allows."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return (image[..., :1].float() + 0.5) / 255


@pytest.fixture
def halves(tmp_path: Path) -> onnx.ModelProto:
    """The exported graph of `Halves`."""
    example = torch.zeros((2, SIDE, SIDE, 3), dtype=torch.uint8)
    shapes = {"image": {0: torch.export.Dim("batch", min=1, max=64)}}
    torch.export.save(torch.export.export(Halves(), (example,), dynamic_shapes=shapes), tmp_path / "halves.pt2")
    return from_torch.convert(RETINA, UNET, tmp_path / "halves.pt2")


VALUES = np.arange(255, dtype=np.uint8)
PICTURE = np.zeros((1, SIDE, SIDE, 3), np.uint8)
PICTURE[0].reshape(-1, 3)[:255, 0] = VALUES


@pytest.mark.filterwarnings("ignore")
def test_a_mask_is_the_probability_times_255_rounded_with_halves_to_even(halves: onnx.ModelProto) -> None:
    vessels, onward = parity.session(halves).run(["vessels", "vessels_onward"], {"image": PICTURE})
    assert np.array_equal(vessels, onward)
    scaled = (VALUES.astype(np.float32) + np.float32(0.5)) / np.float32(255) * np.float32(255)
    exact = scaled == VALUES + 0.5
    assert exact.sum() > 100
    found = vessels[0].reshape(-1)[:255]
    assert np.array_equal(found[exact], VALUES[exact] + VALUES[exact] % 2)
    assert np.array_equal(found, np.rint(scaled).astype(np.uint8))
    parity.check_rounding(UNET, halves, from_torch.PROBABILITY, PICTURE)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("output", ["vessels", "vessels_onward"])
def test_a_mask_that_is_rounded_down_is_refused_and_so_is_its_twin(output: str, halves: onnx.ModelProto) -> None:
    (maker,) = [node for node in halves.graph.node if output in node.output]
    place = list(halves.graph.node).index(maker)
    halves.graph.node.insert(place, helper.make_node("Floor", ["scaled"], ["floored"]))
    maker.CopyFrom(helper.make_node("Cast", ["floored"], [output], to=TensorProto.UINT8))
    with pytest.raises(ParityError, match=f"output {output} is not round"):
        parity.check_rounding(UNET, halves, from_torch.PROBABILITY, PICTURE)
