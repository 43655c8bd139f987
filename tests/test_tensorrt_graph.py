"""The graph that TensorRT is given: the same answers, uint8 only where TensorRT takes it; refused here, not there."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import REPOSITORY
from onnx import TensorProto, helper, numpy_helper
from small_graphs import CLASSIFIER, RETINA, SIDE, UNET, classifier, unet, write_repository

from export import parity, quantise, tensorrt_graph
from fovea import plan
from fovea.errors import ExportError, ParityError
from fovea.spec import Network, Task
from fovea.tasks import TASKS

PAIRS = [(task, network) for task in TASKS.values() for network in task.networks]
every_network = pytest.mark.parametrize(("task", "network"), [pytest.param(*pair, id=pair[1].name) for pair in PAIRS])


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return write_repository(tmp_path / "repository")


def readers(model: onnx.ModelProto, name: str) -> list[str]:
    return [node.op_type for node in model.graph.node if name in node.input]


def makers(model: onnx.ModelProto) -> Mapping[str, onnx.NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}


def noise(count: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    return np.random.default_rng(3).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


def symmetric() -> onnx.ModelProto:
    return quantise.int8(unet(), "min-max", quantise.ranges(unet(), "image", noise(3), "min-max"), symmetric=True)


@every_network
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_served_graph_meets_uint8_with_casts_only(
    task: Task, network: Network, precision: tensorrt_graph.Precision
) -> None:
    source = tensorrt_graph.source(task, network, REPOSITORY, precision)
    model = onnx.load_from_string(source.content)
    onnx.checker.check_model(model, full_check=True)
    assert set(readers(model, network.reads)) == {"Cast"}
    for tensor in task.graph_outputs(network):
        if tensor.dtype == "UINT8":
            assert makers(model)[tensor.name].op_type == "Cast"
            assert readers(model, tensor.name) == []
    assert source.graphs[plan.GRAPH] == plan.sha256(REPOSITORY / network.name / "1" / plan.GRAPH)
    halves = {tensor.data_type for tensor in model.graph.initializer} & {TensorProto.FLOAT16}
    assert bool(halves) == (precision == "fp16")


def test_a_picture_is_cast_before_it_is_transposed_and_a_twin_gets_a_cast_of_its_own() -> None:
    before, after = unet(), tensorrt_graph.prepared(UNET, unet())
    assert readers(before, "image") == ["Transpose"]
    assert [node.op_type for node in after.graph.node][:3] == ["Cast", "Transpose", "Mul"]
    assert makers(after)["vessels_onward"].input == makers(after)["vessels"].input
    assert [value.name for value in after.graph.output] == [value.name for value in before.graph.output]
    answers = [parity.session(model).run(None, {"image": noise(3)}) for model in (before, after)]
    for one, other in zip(*answers, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_graph_that_tensorrt_takes_as_it_is_stays_as_it_is() -> None:
    assert tensorrt_graph.prepared(CLASSIFIER, classifier()) == classifier()


def test_a_rewriting_that_answered_otherwise_would_be_refused() -> None:
    harmed = unet()
    kernel = next(tensor for tensor in harmed.graph.initializer if tensor.name == "kernel")
    kernel.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(kernel) * np.float32(1.5), "kernel"))
    with pytest.raises(ParityError, match=r"retina_unet.*nothing was exported"):
        tensorrt_graph._check_same(UNET, unet(), harmed)


@pytest.mark.parametrize("reader", ["Reshape", "Transpose"])
def test_uint8_that_meets_anything_else_is_refused_by_the_operators_name(reader: str) -> None:
    """A Reshape is not known; a Transpose that two casts read is left alone."""
    model = unet()
    cast = next(node for node in model.graph.node if node.op_type == "Cast")
    if reader == "Reshape":
        model.graph.node[0].CopyFrom(helper.make_node("Reshape", ["image", "shape"], ["permute"]))
        model.graph.initializer.append(numpy_helper.from_array(np.array([-1, 3, SIDE, SIDE], np.int64), "shape"))
    else:
        model.graph.node.insert(2, helper.make_node("Cast", ["permute"], ["again"], to=TensorProto.FLOAT))
    assert cast.input[0] == "permute"
    with pytest.raises(ExportError, match=rf"retina_unet: {reader} reads image as uint8"):
        tensorrt_graph.prepared(UNET, model)


def test_a_mask_that_no_cast_makes_is_refused() -> None:
    """As in the int8 graphs for CPUs, which end in QuantizeLinear."""
    model = unet()
    cast = next(node for node in model.graph.node if node.output[0] == "vessels")
    cast.CopyFrom(helper.make_node("QuantizeLinear", ["probability", "scale", "zero"], ["vessels"]))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((), np.uint8), "zero"))
    with pytest.raises(ExportError, match="vessels, vessels_onward is not made by a Cast to uint8"):
        tensorrt_graph.prepared(UNET, model)


def test_fp16_is_made_where_it_is_not_there_and_taken_where_it_is(repository: Path) -> None:
    folder = repository / UNET.name / "1"
    made = tensorrt_graph.source(RETINA, UNET, repository, "fp16")
    assert list(made.graphs) == ["model.onnx"]
    assert makers(onnx.load_from_string(made.content))["logits"].op_type == "Conv"
    (folder / "model.fp16.onnx").write_bytes(quantise.fp16(unet()).SerializeToString())
    taken = tensorrt_graph.source(RETINA, UNET, repository, "fp16")
    assert list(taken.graphs) == ["model.onnx", "model.fp16.onnx"]
    assert (taken.digest, taken.reference) == (made.digest, unet())
    assert tensorrt_graph.source(RETINA, UNET, repository, "fp32").digest != made.digest


def test_an_fp16_graph_is_sorted_although_inner_nodes_read_an_output() -> None:
    """ONNX Runtime's converter puts the casts of such outputs last."""
    model = classifier()
    model.graph.node.append(helper.make_node("Relu", ["probabilities"], ["again"]))
    model.graph.output.append(helper.make_tensor_value_info("again", TensorProto.FLOAT, ["N", 4]))
    onnx.checker.check_model(quantise.fp16(model), full_check=True)


def test_int8_is_taken_from_a_symmetric_graph_and_from_no_other(repository: Path) -> None:
    folder = repository / UNET.name / "1"
    with pytest.raises(ExportError, match=r"int8\.trt\.onnx is missing: .*--precision auto.*fp16"):
        tensorrt_graph.source(RETINA, UNET, repository, "int8")
    quantised = symmetric()
    (folder / "model.int8.trt.onnx").write_bytes(quantised.SerializeToString())
    source = tensorrt_graph.source(RETINA, UNET, repository, "int8")
    assert source.reference == quantised
    assert set(source.graphs) == {"model.onnx", "model.int8.trt.onnx"}
    kinds = {tensor.name: tensor.data_type for tensor in onnx.load_from_string(source.content).graph.initializer}
    scaled = [node for node in quantised.graph.node if node.op_type == "DequantizeLinear"]
    assert TensorProto.INT32 not in {kinds.get(node.input[0]) for node in scaled}  # TensorRT refuses such biases
    found = quantise.ranges(unet(), "image", noise(3), "min-max")
    for other in (unet(), quantise.int8(unet(), "min-max", found)):
        (folder / "model.int8.trt.onnx").write_bytes(other.SerializeToString())
        with pytest.raises(ExportError, match=r"int8\.trt\.onnx is not quantised around zero"):
            tensorrt_graph.source(RETINA, UNET, repository, "int8")


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x08\x07" * 50])
def test_a_damaged_or_missing_graph_is_named(repository: Path, content: bytes) -> None:
    graph = repository / UNET.name / "1" / "model.onnx"
    graph.write_bytes(content)
    with pytest.raises(ExportError, match=r"model\.onnx cannot be read as an ONNX graph.*restore it"):
        tensorrt_graph.source(RETINA, UNET, repository, "fp32")
    graph.unlink()
    with pytest.raises(ExportError, match=r"model\.onnx is missing: python -m export retina writes it"):
        tensorrt_graph.source(RETINA, UNET, repository, "fp32")


def test_a_truncated_graph_is_named(repository: Path) -> None:
    graph = repository / UNET.name / "1" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-40])
    with pytest.raises(ExportError, match="cannot be read as an ONNX graph"):
        tensorrt_graph.source(RETINA, UNET, repository, "fp32")


def test_a_stamped_graph_answers_the_same_and_says_what_it_was_made_from(repository: Path) -> None:
    source = tensorrt_graph.source(RETINA, UNET, repository, "fp32")
    content = tensorrt_graph.stamped(source)
    assert plan.sha256(repository / UNET.name / "1" / "model.onnx").encode() in content
    assert onnx.load_from_string(content).graph == onnx.load_from_string(source.content).graph
    assert tensorrt_graph.stamped(source) == content
