"""What each step that makes a graph fast is worth: the U-Net with the step undone, against the U-Net as it is.

`pytest -m slow -s tests/test_graph_steps.py` prints the table of docs/precision.md.
"""

import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import REPOSITORY
from onnx import helper, numpy_helper

from export import quantise
from fovea import engines, phantoms, pixels
from fovea.repository import Hardware, graph_path
from fovea.tasks import TASKS

RETINA = TASKS["retina"]
UNET = RETINA.networks[0]
ROUNDS = 15
CONSTANT = {"Constant", "Shape", "Range", "ConstantOfShape"}


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def with_batch_norms(model: onnx.ModelProto) -> onnx.ModelProto:
    """A batch norm that changes nothing after every convolution, as training has one."""
    made = copied(model)
    sizes = {tensor.name: tensor.dims[0] for tensor in made.graph.initializer if tensor.dims}
    for node in [node for node in made.graph.node if node.op_type == "Conv"]:
        size, name = sizes[node.input[1]], node.output[0]
        node.output[0] = f"{name}_raw"
        for part, value in (("scale", 1), ("shift", 0), ("mean", 0), ("variance", 1 - 1e-5)):
            array = np.full(size, value, np.float32)
            made.graph.initializer.append(numpy_helper.from_array(array, f"{name}_{part}"))
        inputs = [f"{name}_raw", *(f"{name}_{part}" for part in ("scale", "shift", "mean", "variance"))]
        place = list(made.graph.node).index(node) + 1
        made.graph.node.insert(place, helper.make_node("BatchNormalization", inputs, [name]))
    return made


def with_computed_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every bias as a sum of two constants."""
    made = copied(model)
    values = {tensor.name: tensor for tensor in made.graph.initializer if tensor.dims}
    for node in [node for node in made.graph.node if node.op_type == "Conv"]:
        half = numpy_helper.to_array(values[node.input[2]]) / 2
        made.graph.initializer.append(numpy_helper.from_array(half, f"{node.input[2]}_half"))
        total = f"{node.input[2]}_total"
        made.graph.node.insert(0, helper.make_node("Add", [f"{node.input[2]}_half"] * 2, [total]))
        node.input[2] = total
    return made


def with_transposes(model: onnx.ModelProto) -> onnx.ModelProto:
    """To channels last and back after every ReLU, as a careless export of a channels-last network has it."""
    made = copied(model)
    for node in [node for node in made.graph.node if node.op_type == "Relu"]:
        name = node.output[0]
        node.output[0] = f"{name}_first"
        place = list(made.graph.node).index(node) + 1
        there = helper.make_node("Transpose", [f"{name}_first"], [f"{name}_last"], perm=[0, 2, 3, 1])
        back = helper.make_node("Transpose", [f"{name}_last"], [name], perm=[0, 3, 1, 2])
        made.graph.node.insert(place, back)
        made.graph.node.insert(place, there)
    return made


def with_float_picture(model: onnx.ModelProto) -> onnx.ModelProto:
    """The picture transposed as floats, not as bytes."""
    made = copied(model)
    turn, cast = made.graph.node[0], made.graph.node[1]
    assert (turn.op_type, cast.op_type) == ("Transpose", "Cast")
    cast.input[0], turn.input[0] = turn.input[0], "picture_as_floats"
    after = cast.output[0]
    cast.output[0], turn.output[0] = "picture_as_floats", after
    made.graph.node.remove(cast)
    made.graph.node.insert(0, cast)
    return made


@pytest.mark.slow
def test_no_step_that_makes_the_graph_fast_makes_it_slower_or_answers_otherwise() -> None:
    picture = pixels.preprocess(phantoms.encoded("fundus", 1), RETINA.image)[0]
    plain = onnx.load(graph_path(REPOSITORY, UNET))
    undone = {
        "batch norms folded": with_batch_norms(plain),
        "constants folded": with_computed_constants(plain),
        "transposes cancelled": with_transposes(plain),
        "the picture turned as bytes": with_float_picture(plain),
    }
    found = quantise.ranges(plain, "image", picture[None], "min-max")
    fused = quantise.int8(plain, "min-max", found)
    wide = quantise.int8(plain, "min-max", found, fuse=False)
    for hardware in ("cpu", "openvino"):
        print(f"\n{hardware}")
        for name, model in undone.items():
            gain = ratio(hardware, model, plain, picture, levels=1)
            print(f"  {name:28} {gain:.2f} ×")
            assert gain > 0.9
        gain = ratio(hardware, wide, fused, picture, levels=255)  # another quantisation of the same network
        print(f"  {'int8: mask rounded in one step':28} {gain:.2f} ×")
        assert gain > 0.9


def ratio(
    hardware: Hardware, slow: onnx.ModelProto, fast: onnx.ModelProto, picture: pixels.Picture, levels: int
) -> float:
    """Median of the paired ratios of latency, in interleaved rounds; no pixel may differ by more than `levels`."""
    runs = [engines.engine(hardware, model.SerializeToString(), "f32", "image") for model in (slow, fast)]
    one, other = (run(picture[None])["vessels"].astype(int) for run in runs)
    assert np.abs(one - other).max() <= levels
    times = np.zeros((ROUNDS, 2))
    for turn in range(ROUNDS):
        for place in (0, 1) if turn % 2 else (1, 0):
            began = time.perf_counter()
            runs[place](picture[None])
            times[turn, place] = time.perf_counter() - began
    return float(np.median(times[:, 0] / times[:, 1]))


@pytest.mark.parametrize("network", [n for task in TASKS.values() for n in task.networks], ids=lambda n: n.name)
def test_a_committed_graph_has_no_batch_norm_no_computed_constant_and_two_transposes_at_most(network: object) -> None:
    model = onnx.load(graph_path(REPOSITORY, network))  # type: ignore[arg-type]
    operators = [node.op_type for node in model.graph.node]
    assert "BatchNormalization" not in operators
    assert operators.count("Transpose") <= 2  # the picture in, a map out
    assert not CONSTANT & set(operators)
    constants = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        assert not set(node.input) <= constants, f"{node.op_type} of constants only"


def test_every_graph_in_the_repository_is_old_enough_for_triton() -> None:
    for path in Path(REPOSITORY).glob("*/1/*.onnx"):
        model = onnx.load(path)
        assert model.ir_version <= 10, path
        assert all(entry.version <= 18 for entry in model.opset_import if entry.domain == ""), path
