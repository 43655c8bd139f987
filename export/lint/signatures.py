"""What a model takes and gives, as an ensemble sees it: declared in its config, or completed from its graph."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tritonclient.grpc import model_config_pb2 as pb

from export.lint import scripts
from export.lint.graph_file import FREE, Graph, Value
from export.lint.graphs import KINDS
from export.lint.models import Config, Model

DEFAULT_BATCH = 4
"""What the ONNX Runtime backend takes where the config says none and every first axis is free."""


@dataclass(frozen=True)
class Tensor:
    """`kind` is a Triton `DataType`; `dims` leave out the batch, and are None where nothing says them."""

    kind: int
    dims: tuple[int, ...] | None
    optional: bool = False


@dataclass(frozen=True)
class Signature:
    """`path` is that of the config that says it; inputs or outputs that only the model itself knows are None."""

    path: str
    batch: int
    inputs: Mapping[str, Tensor] | None
    outputs: Mapping[str, Tensor] | None


def signature(model: Model, config: Config, graph: Graph | None) -> Signature:
    """`graph` is the model's, if it has one that can be read."""
    message, backend = config.message, model.backend(config)
    inputs, outputs, batch = _tensors(message.input), _tensors(message.output), message.max_batch_size
    if backend == "python" and any(scripts.completes(file) for file in sorted(model.folder.glob("*/model.py"))):
        return Signature(config.path, batch, None, None)
    if backend == "onnxruntime" and graph is not None and not (inputs and outputs):
        needed = [value for value in graph.inputs if value.name not in graph.initializers]
        if all(value.shape and value.shape[0] == FREE for value in (*needed, *graph.outputs)):
            batch = batch or DEFAULT_BATCH
        inputs = inputs or _values(needed, batch)
        outputs = outputs or _values(graph.outputs, batch)
    return Signature(config.path, batch, inputs or None, outputs or None)


def _tensors(declared: Any) -> dict[str, Tensor]:
    return {t.name: Tensor(t.data_type, tuple(t.dims) or None, getattr(t, "optional", False)) for t in declared}


def _values(values: list[Value], batch: int) -> dict[str, Tensor]:
    dims = {value.name: value.shape and (value.shape[batch > 0 :] or (1,)) for value in values}
    return {value.name: Tensor(KINDS.get(value.kind, pb.TYPE_INVALID), dims[value.name] or None) for value in values}
