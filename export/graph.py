"""What all exported graphs share: names from the task, a free batch axis, metadata, a format old enough to load."""

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from onnx import TensorProto, helper

from fovea.errors import ExportError
from fovea.spec import Network, Task

OPSET = 18
IR_VERSION = 10
"""The newest format that Triton 2.51's native ONNX Runtime (1.19) reads."""


def finish(model: onnx.ModelProto, task: Task, network: Network, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """Check the graph against the declaration, stamp it, and return it.

    Raises:
        ExportError: an input or output is not what the task declares, the format is too new, or the graph is invalid.
    """
    model.ir_version = min(model.ir_version, IR_VERSION)
    model.producer_name = "fovea"
    used = {node.domain for node in model.graph.node}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    model.doc_string = task.question
    del model.metadata_props[:]
    helper.set_model_props(model, dict(metadata))
    _forget_origin(model.graph)
    opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset > OPSET:
        raise ExportError(f"{network.name} needs opset {opset}; at most {OPSET} is served: use older operators.")
    expected = declared(task, network)
    found = {value.name: describe(value) for value in (*model.graph.input, *model.graph.output)}
    if found != expected:
        raise ExportError(f"{network.name} should have inputs and outputs {expected}, but the graph has {found}.")
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"{network.name} is no valid graph: {' '.join(str(error).split())}") from None
    return model


def _forget_origin(inner: onnx.GraphProto) -> None:
    """Exporters leave source paths and stack traces of the machine they ran on: no business of the network's users."""
    notes: list[Any] = [*inner.node, *inner.value_info, *inner.initializer, *inner.input, *inner.output, inner]
    for note in notes:
        note.doc_string = ""
        del note.metadata_props[:]


def declared(task: Task, network: Network) -> dict[str, tuple[str, tuple[int | str, ...]]]:
    """Name → (element type, shape) of every input and output; the batch axis is written "N"."""
    shapes: dict[str, tuple[str, tuple[int | str, ...]]] = {network.reads: ("UINT8", ("N", *task.input_shape(network)))}
    for tensor in task.graph_outputs(network):
        shapes[tensor.name] = {"FP32": "FLOAT"}.get(tensor.dtype, tensor.dtype), ("N", *tensor.shape)
    return shapes


def describe(value: onnx.ValueInfoProto) -> tuple[str, tuple[int | str, ...]]:
    """(element type, shape) of a graph input or output; free axes become "N"."""
    kind = value.type.tensor_type
    shape = tuple(axis.dim_value if axis.HasField("dim_value") else "N" for axis in kind.shape.dim)
    return TensorProto.DataType.Name(kind.elem_type), shape


def rename(model: onnx.ModelProto, names: Mapping[str, str]) -> None:
    """Rename tensors throughout the main graph."""
    graph = model.graph
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    named: list[Any] = [*graph.input, *graph.output, *graph.value_info, *graph.initializer]
    for value in named:
        value.name = names.get(value.name, value.name)


def free_batch(values: Sequence[onnx.ValueInfoProto]) -> None:
    """Name the first axis of every tensor N."""
    for value in values:
        value.type.tensor_type.shape.dim[0].dim_param = "N"
