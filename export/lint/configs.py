"""What a config says by itself, as Triton's core checks it when it loads a model (model_config_utils.cc)."""

import math
from collections.abc import Iterator
from typing import Any

from tritonclient.grpc import model_config_pb2 as pb

from export.lint.finding import Finding
from export.lint.models import Config, Model
from export.lint.triton import FIELDS_SINCE, Triton

COMPLETED = ("onnxruntime", "openvino", "ensemble")
"""Backends that complete whole lists of inputs or outputs or none, never a part of one."""
NUMBERS = ("intra_op_thread_count", "inter_op_thread_count", "execution_mode")


def check(model: Model, config: Config, triton: Triton) -> Iterator[Finding]:
    message = config.message
    for name, since in FIELDS_SINCE.items():
        if name in config.lines and triton.minor < since:
            said = f"{name} came with Triton 2.{since}, and {triton} refuses the config."
            yield config.finding("field-too-new", name, said, "Take it out, or serve with that release or a later one.")
    if message.name and message.name != model.name:
        said = f"The folder is {model.name}, and the config says {message.name}."
        yield config.finding("name-mismatch", "name", said, f'Write name: "{model.name}", or rename the folder.')
    if not model.backend(config) and (model.versions or config.lines):
        said = "Neither backend nor platform is given, and no file says which backend is meant."
        yield config.finding("backend-unknown", "backend", said, 'Write it: backend: "onnxruntime", for example.')
    yield from _batches(config)
    yield from _tensors(config, "input", message.input, model.backend(config))
    yield from _tensors(config, "output", message.output, model.backend(config))
    yield from _instances(model, config)
    sequence = message.HasField("sequence_batching")
    if message.response_cache.enable and (sequence or message.model_transaction_policy.decoupled):
        kind = "a sequence model" if sequence else "a decoupled model"
        said = f"Triton has no response cache for {kind}."
        yield config.finding("response-cache", "response_cache", said, "Take response_cache out.")
    if model.backend(config) == "onnxruntime":
        yield from _parameters(config)


def _batches(config: Config) -> Iterator[Finding]:
    message = config.message
    if message.max_batch_size < 0:
        said = f"max_batch_size is {message.max_batch_size}."
        yield config.finding("batch-size", "max_batch_size", said, "Write 0 for a model that is not batched.")
    preferred = (
        ("dynamic_batching", message.dynamic_batching.preferred_batch_size),
        ("sequence_batching.oldest", message.sequence_batching.oldest.preferred_batch_size),
    )
    for name, sizes in preferred:
        for size in sizes:
            if not 0 < size <= message.max_batch_size:
                said = f"A preferred size is {size}, and max_batch_size is {message.max_batch_size}."
                cure = "Take preferred_batch_size out: most models need none."
                yield config.finding("batch-size", f"{name}.preferred_batch_size", said, cure)
    levels = message.dynamic_batching.priority_levels
    default = message.dynamic_batching.default_priority_level
    if levels and not 0 < default <= levels:
        said = f"There are {levels} priority levels, and default_priority_level is {default}."
        cure = f"Write default_priority_level: {levels}."
        yield config.finding("priority-level", "dynamic_batching.priority_levels", said, cure)


def _tensors(config: Config, side: str, tensors: Any, backend: str) -> Iterator[Finding]:
    names: set[str] = set()
    for i, tensor in enumerate(tensors):
        place = f"{side}[{i}]"
        label = tensor.name or f"the {side} at position {i + 1}"
        missing = [name for name in ("name", "data_type", "dims") if not getattr(tensor, name)]
        if missing and (backend in COMPLETED or "name" in missing):
            said = f"{label} has no {' and no '.join(missing)}."
            yield config.finding("tensor-incomplete", place, said, f"Write {missing[0]}, or take the {side} out.")
        if tensor.name and tensor.name in names:
            said = f"{tensor.name} is declared twice among the {side}s."
            yield config.finding("tensor-duplicate", f"{place}.name", said, "Take one of them out.")
        names.add(tensor.name)
        yield from _dims(config, place, tensor)
        if side == "input" and tensor.format != pb.ModelInput.FORMAT_NONE and len(tensor.dims) != 3:
            said = f"{label} has a format of three dims, and {len(tensor.dims)} dims."
            yield config.finding("dims-invalid", f"{place}.format", said, "Take format out, or give three dims.")


def _dims(config: Config, place: str, tensor: Any) -> Iterator[Finding]:
    wrong = [size for size in (*tensor.dims, *tensor.reshape.shape) if size < 1 and size != -1]
    if wrong:
        said = f"{tensor.name} has a dim of {wrong[0]}."
        yield config.finding("dims-invalid", f"{place}.dims", said, "Write -1 for a size that varies.")
    elif tensor.HasField("reshape"):
        shape = list(tensor.reshape.shape)
        if not shape and not config.message.max_batch_size:
            said = f"{tensor.name} is reshaped to nothing, which only a batched model can have."
            yield config.finding("reshape-mismatch", f"{place}.reshape", said, "Take reshape out, or batch the model.")
        elif tensor.dims and _elements(tensor.dims) != _elements(shape):
            said = f"{tensor.name} has dims {list(tensor.dims)} and is reshaped to {shape}, another number of elements."
            yield config.finding("reshape-mismatch", f"{place}.reshape", said, "Give both the same number of elements.")


def _elements(dims: Any) -> list[int]:
    """Element counts between the sizes that vary: both sides of a reshape have the same."""
    counts = [1]
    for size in dims:
        counts = [*counts, 1] if size == -1 else [*counts[:-1], counts[-1] * size]
    return counts


def _instances(model: Model, config: Config) -> Iterator[Finding]:
    for i, group in enumerate(config.message.instance_group):
        kind = pb.ModelInstanceGroup.Kind.Name(group.kind)
        if group.gpus and group.kind in (pb.ModelInstanceGroup.KIND_CPU, pb.ModelInstanceGroup.KIND_MODEL):
            said = f"The group is {kind} and names GPUs {list(group.gpus)}."
            yield config.finding("instance-group", f"instance_group[{i}].gpus", said, "Take gpus out.")
        if group.profile and model.backend(config) != "tensorrt":
            said = "A profile is TensorRT's, and this model has another backend."
            yield config.finding("instance-group", f"instance_group[{i}].profile", said, "Take profile out.")


def _parameters(config: Config) -> Iterator[Finding]:
    for name in NUMBERS:
        text = config.message.parameters[name].string_value if name in config.message.parameters else "0"
        allowed = "0 or 1" if name == "execution_mode" else "a number, 0 for ONNX Runtime's choice"
        if threads(text) is None or (name == "execution_mode" and text not in ("0", "1")):
            said = f"{name} is {text!r}; expected {allowed}."
            cure = f'Write parameters {{ key: "{name}" value {{ string_value: "1" }} }}.'
            yield config.finding("parameter-invalid", f'parameters["{name}"]', said, cure)


def threads(text: str) -> int | None:
    """The number that a parameter says, None where it says none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else None


def count(dims: Any) -> int | None:
    """The number of elements, None where it varies."""
    return None if -1 in dims else math.prod(dims)
