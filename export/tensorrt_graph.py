"""A network's graph as TensorRT takes it: the same answers bit for bit, uint8 only where TensorRT has it.

"All UINT8 inputs must directly feed into a cast layer in TensorRT. No other layers support UINT8 inputs, even just
data-movement ops" (https://github.com/NVIDIA/TensorRT/issues/3985 and the notes on UINT8 in
https://docs.nvidia.com/deeplearning/tensorrt/api/python_api/infer/FoundationalTypes/DataType.html): a picture that is
transposed first and cast then is cast first and transposed then, and a mask's twin gets a cast of its own.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from export import parity, quantise
from fovea import plan
from fovea.errors import ExportError, ParityError
from fovea.spec import Network, Task

Precision = Literal["fp32", "fp16", "int8"]
FILES: dict[Precision, str] = {"fp32": plan.GRAPH, "fp16": "model.fp16.onnx", "int8": quantise.AROUND_ZERO}
QUANTISERS = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class Source:
    """What TensorRT is given, `content`, and the repository's files that it was made from, with their SHA-256.

    `reference` is the graph that answers are compared with: fp32, or, for int8, the very graph, whose own accuracy is
    judged where it is made.
    """

    precision: Precision
    content: bytes = field(repr=False)
    reference: onnx.ModelProto = field(repr=False)
    graphs: Mapping[str, str]

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def source(task: Task, network: Network, repository: Path, precision: Precision) -> Source:
    """The graph of that precision from the repository alone; fp16 is made from fp32 where it is not there.

    Raises:
        ExportError: a graph is missing, damaged, or not one that TensorRT takes.
    """
    folder = repository / network.name / "1"
    plain = folder / plan.GRAPH
    if not plain.exists():
        raise ExportError(f"{plain} is missing: python -m export {task.name} writes it.")
    files, chosen = [plain], folder / FILES[precision]
    if chosen != plain and chosen.exists():
        files.append(chosen)
    elif precision == "int8":
        raise ExportError(
            f"{chosen} is missing: python -m export {task.name} --precision auto writes it where int8 around zero, as "
            "TensorRT takes it, keeps what it must; the card's table of precisions says so. Or take --precision fp16."
        )
    models = [_load(file) for file in files]
    model = models[-1]
    if precision == "fp16" and len(models) == 1:
        model = quantise.fp16(model)
    if precision == "int8":
        _check_symmetric(chosen, model)
    content = prepared(network, model).SerializeToString(deterministic=True)
    graphs = {file.name: plan.sha256(file) for file in files}
    return Source(precision, content, model if precision == "int8" else models[0], graphs)


def stamped(origin: Source) -> bytes:
    """The graph with the fp32 graph's SHA-256 in its metadata, by which it is known to be stale."""
    model = onnx.load_from_string(origin.content)
    known = {entry.key: entry.value for entry in model.metadata_props}
    helper.set_model_props(model, known | {"fovea.onnx_sha256": origin.graphs[plan.GRAPH]})
    return model.SerializeToString(deterministic=True)


def _load(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load_from_string(path.read_bytes())
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError) as error:
        said = " ".join(str(error).split())[:200]
        raise ExportError(f"{path} cannot be read as an ONNX graph ({said}): restore it, or export it again.") from None
    return model


def prepared(network: Network, model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` whose uint8 tensors meet only casts, answering the same bit for bit.

    Raises:
        ExportError: a uint8 tensor meets another operator, which TensorRT would refuse.
        ParityError: the copy answers otherwise.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _cast_pictures_first(copy.graph)
    _cast_twins(copy.graph)
    _check_uint8(network, copy.graph)
    onnx.checker.check_model(copy, full_check=True)
    if copy.graph != model.graph:
        _check_same(network, model, copy)
    return copy


def _cast_pictures_first(graph: onnx.GraphProto) -> None:
    """Transpose, then cast: becomes cast, then transpose. The tensor between them changes its type, none its name."""
    pictures = {value.name for value in graph.input if value.type.tensor_type.elem_type == TensorProto.UINT8}
    for move in [node for node in graph.node if node.op_type == "Transpose" and node.input[0] in pictures]:
        readers = [node for node in graph.node if move.output[0] in node.input]
        if len(readers) != 1 or readers[0].op_type != "Cast":
            continue
        (cast,) = readers
        picture, between, result = move.input[0], move.output[0], cast.output[0]
        cast.input[0], cast.output[0] = picture, between
        move.input[0], move.output[0] = between, result
        first = onnx.NodeProto()
        first.CopyFrom(move)
        move.CopyFrom(cast)
        cast.CopyFrom(first)
        for value in [value for value in graph.value_info if value.name == between]:
            graph.value_info.remove(value)


def _cast_twins(graph: onnx.GraphProto) -> None:
    """The identity of a cast's answer becomes a second cast: TensorRT may give uint8 out, but read it only in casts."""
    made_by = {name: node for node in graph.node for name in node.output}
    for twin in [node for node in graph.node if node.op_type == "Identity"]:
        cast = made_by.get(twin.input[0])
        if cast is not None and cast.op_type == "Cast":
            twin.CopyFrom(helper.make_node("Cast", cast.input, twin.output, to=helper.get_node_attr_value(cast, "to")))


def _check_uint8(network: Network, graph: onnx.GraphProto) -> None:
    pictures = {value.name for value in graph.input if value.type.tensor_type.elem_type == TensorProto.UINT8}
    levels = {
        node.output[0]
        for node in graph.node
        if node.op_type == "Cast" and helper.get_node_attr_value(node, "to") == TensorProto.UINT8
    }
    for node in graph.node:
        meets = (pictures | levels) & set(node.input)
        if meets and node.op_type != "Cast":
            raise ExportError(
                f"{network.name}: {node.op_type} reads {', '.join(sorted(meets))} as uint8, and TensorRT takes uint8 "
                "only into a Cast: cast it to float first, in the network."
            )
    masks = {value.name for value in graph.output if value.type.tensor_type.elem_type == TensorProto.UINT8}
    if masks - levels:
        raise ExportError(
            f"{network.name}: {', '.join(sorted(masks - levels))} is not made by a Cast to uint8, the only way in "
            "which TensorRT gives uint8: end the network in one."
        )


def _check_symmetric(path: Path, model: onnx.ModelProto) -> None:
    """TensorRT quantises around zero, to int8: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-with-quantized-types.html."""
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    pairs = [node for node in model.graph.node if node.op_type in QUANTISERS]
    zeros = [values.get(node.input[2]) for node in pairs if len(node.input) > 2]
    if not pairs or any(z is None or z.data_type != TensorProto.INT8 or numpy_helper.to_array(z).any() for z in zeros):
        raise ExportError(
            f"{path} is not quantised around zero to int8, which is all that TensorRT takes: make it with "
            "export.quantise.int8 and symmetric=True, or take --precision fp16."
        )


def _check_same(network: Network, model: onnx.ModelProto, copy: onnx.ModelProto) -> None:
    """Answers of both, in ONNX Runtime, to two pictures of noise."""
    shape = [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim][1:]
    noise = np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)
    expected, found = (parity.session(graph).run(None, {network.reads: noise}) for graph in (model, copy))
    if not all(np.array_equal(one, other) for one, other in zip(expected, found, strict=True)):
        raise ParityError(
            f"{network.name}: its graph, rewritten for TensorRT, answers otherwise; nothing was exported."
        )
