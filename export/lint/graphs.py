"""A config against its ONNX graph, as Triton's ONNX Runtime backend compares them (ValidateInputs, ValidateOutputs)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tritonclient.grpc import model_config_pb2 as pb

from export.lint.finding import Finding, listed, shaped
from export.lint.graph_file import FREE, Graph, Value
from export.lint.models import Config

KINDS: dict[int, int] = {
    1: pb.TYPE_FP32,
    2: pb.TYPE_UINT8,
    3: pb.TYPE_INT8,
    4: pb.TYPE_UINT16,
    5: pb.TYPE_INT16,
    6: pb.TYPE_INT32,
    7: pb.TYPE_INT64,
    8: pb.TYPE_STRING,
    9: pb.TYPE_BOOL,
    10: pb.TYPE_FP16,
    11: pb.TYPE_FP64,
    12: pb.TYPE_UINT32,
    13: pb.TYPE_UINT64,
    16: pb.TYPE_BF16,
}
"""ONNX's `TensorProto.DataType` → Triton's `DataType`."""


@dataclass(frozen=True)
class Declared:
    """A tensor of the config, where it stands; `dims` after its reshape, None where the config says none."""

    place: str
    name: str
    kind: int
    dims: tuple[int, ...] | None
    optional: bool = False


def check(config: Config, graph: Graph, path: str, *, native: bool) -> Iterator[Finding]:
    """`path` is the graph's, below the repository; `native`: ONNX Runtime is what reads it."""
    message = config.message
    initializers = set(graph.initializers)
    inputs = {value.name: value for value in graph.inputs}
    outputs = {value.name: value for value in graph.outputs}
    required = [name for name in inputs if name not in initializers]
    named = list(_inputs(message))
    for tensor in named:
        if tensor.name and tensor.name not in inputs and tensor.name not in initializers:
            yield _unknown(config, "input", tensor, list(inputs), path)
        elif tensor.optional and (tensor.name in required or message.max_batch_size > 0):
            why = "the graph needs it" if tensor.name in required else "the model is batched"
            said = f"Input {tensor.name} is optional, but {why}."
            cure = "Take optional out." if tensor.name in required else "Take optional out, or set max_batch_size: 0."
            yield config.finding("input-optional", f"{tensor.place}.optional", said, cure)
    missing = [name for name in required if name not in {tensor.name for tensor in named}]
    if message.input and missing:  # a config without inputs is completed from the graph
        said = f"The graph needs {listed(missing)} too, which the config does not have."
        yield config.finding("input-missing", "input", said, f"Declare {missing[0]}, as {path} has it.")
    for tensor in named:
        if tensor.name in inputs:
            yield from _compare(config, "input", tensor, inputs[tensor.name], path)
    for tensor in _outputs(message):
        if tensor.name in outputs:
            findings = _compare(config, "output", tensor, outputs[tensor.name], path)
            yield from (finding for finding in findings if native or finding.rule != "dims-free")
        elif tensor.name:
            yield _unknown(config, "output", tensor, list(outputs), path)


def _inputs(message: Any) -> Iterator[Declared]:
    """Those of requests, and those that Triton makes: sequence controls, states, batch inputs."""
    for i, tensor in enumerate(message.input):
        dims = None if tensor.allow_ragged_batch else shape(tensor)
        yield Declared(f"input[{i}]", tensor.name, tensor.data_type, dims, tensor.optional)
    for i, control in enumerate(message.sequence_batching.control_input):
        yield Declared(f"sequence_batching.control_input[{i}]", control.name, pb.TYPE_INVALID, None)
    for i, state in enumerate(message.sequence_batching.state):
        place = f"sequence_batching.state[{i}]"
        yield Declared(place, state.input_name, state.data_type, tuple(state.dims) or None)
    for i, made in enumerate(message.batch_input):
        for name in made.target_name:
            yield Declared(f"batch_input[{i}]", name, made.data_type, None)


def _outputs(message: Any) -> Iterator[Declared]:
    scattered = {name for made in message.batch_output for name in made.target_name}
    for i, tensor in enumerate(message.output):
        dims = None if tensor.name in scattered else shape(tensor)
        yield Declared(f"output[{i}]", tensor.name, tensor.data_type, dims)
    for i, state in enumerate(message.sequence_batching.state):
        yield Declared(f"sequence_batching.state[{i}]", state.output_name, state.data_type, None)


def shape(tensor: Any) -> tuple[int, ...] | None:
    """The dims that the model itself sees, without the batch; None where the config leaves them to the graph."""
    if tensor.HasField("reshape"):
        return tuple(tensor.reshape.shape)
    return tuple(tensor.dims) or None


def _unknown(config: Config, side: str, tensor: Declared, names: list[str], path: str) -> Finding:
    said = f"{path} has no {side} {tensor.name}; it has {listed(names)}."
    cure = f"Write {names[0]}." if len(names) == 1 else "Write one of those names, or export the graph that is meant."
    return config.finding(f"{side}-unknown", f"{tensor.place}.name", said, cure)


def _compare(config: Config, side: str, tensor: Declared, value: Value, path: str) -> Iterator[Finding]:
    if value.kind not in KINDS:
        said = f"{path} has {side} {value.name} as a sequence, a map or a type that Triton does not have."
        yield config.finding("graph-type", tensor.place, said, "Export it as a tensor of another type.")
        return
    if tensor.kind not in (KINDS[value.kind], pb.TYPE_INVALID):
        graphs = pb.DataType.Name(KINDS[value.kind])
        said = f"{tensor.name} is {pb.DataType.Name(tensor.kind)} here, and {graphs} in {path}."
        yield config.finding("data-type", f"{tensor.place}.data_type", said, f"Write {graphs}.")
    if tensor.dims is None or value.shape is None:
        return
    if not value.shape:  # a scalar may be declared as any number of ones
        if any(size != 1 for size in tensor.dims):
            said = f"{tensor.name} has dims {shaped(tensor.dims)} here, and is a scalar in {path}."
            yield config.finding("dims", f"{tensor.place}.dims", said, "Write dims: [ 1 ].")
        return
    yield from _dims(config, side, tensor, value.shape, path)


def _dims(config: Config, side: str, tensor: Declared, graphs: tuple[int, ...], path: str) -> Iterator[Finding]:
    assert tensor.dims is not None
    batch = config.message.max_batch_size
    place = f"{tensor.place}.dims"
    if batch > 0 and graphs[0] != FREE:
        said = f"max_batch_size is {batch}, and the first axis of {tensor.name} is {graphs[0]} in {path}, not free."
        cure = f"Export with a free batch axis, or write max_batch_size: 0 and dims: {shaped(graphs)}."
        yield config.finding("batch-axis", place, said, cure)
        return
    here = (FREE, *tensor.dims) if batch > 0 else tensor.dims
    if batch > 0 and len(graphs) == len(tensor.dims):
        said = (
            f"{tensor.name} has {len(graphs)} axes in {path}; dims {shaped(tensor.dims)} with the batch make one more."
        )
        cure = f"Leave the batch out of dims: {shaped(graphs[1:])}, for max_batch_size is {batch}."
        yield config.finding("batch-axis", place, said, cure)
    elif batch == 0 and len(graphs) == len(tensor.dims) + 1 and graphs[0] == FREE:
        said = f"{tensor.name} has a free first axis in {path}, and here neither dims nor max_batch_size has it."
        cure = f"Write max_batch_size: 8, say, or dims: {shaped(graphs)}."
        yield config.finding("batch-axis", place, said, cure)
    elif len(here) != len(graphs) or any(g not in (FREE, h) for h, g in zip(here, graphs, strict=True)):
        said = f"{tensor.name} has dims {shaped(tensor.dims)} here, and {shaped(graphs[batch > 0 :])} in {path}."
        yield config.finding("dims", place, said, f"Write dims: {shaped(graphs[batch > 0 :])}.")
    elif side == "output" and here != graphs:
        said = f"{tensor.name} has dims {shaped(tensor.dims)} here, and {path} leaves some of them free"
        cure = f"Write dims: {shaped(graphs[batch > 0 :])}, or export with those sizes fixed."
        known = "Triton refuses that unless ONNX Runtime can infer them when it loads the graph."
        yield config.finding("dims-free", place, f"{said}; {known}", cure)
