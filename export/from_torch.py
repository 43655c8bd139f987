"""PyTorch → ONNX: a torch.export program that answers a probability becomes a graph that answers a uint8 mask."""

from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper

from export import graph
from fovea.errors import ExportError
from fovea.spec import Network, Task

PROBABILITY = "probability"
"""The tensor before rounding, float32 `[batch, side, side, 1]`: parity is judged on it."""


def load(path: Path) -> torch.nn.Module:
    """The trained program, as a module: uint8 `[batch, side, side, 3]` → float32 `[batch, side, side, 1]`."""
    module: torch.nn.Module = _program(path).module()
    return module


def _program(path: Path) -> torch.export.ExportedProgram:
    if not path.exists():
        raise ExportError(f"{path} does not exist: train the network first, or give its folder with --weights.")
    try:
        return torch.export.load(path)
    except Exception as error:  # a damaged archive raises whatever its reader meets first
        raise ExportError(
            f"{path} cannot be read as a torch.export program ({type(error).__name__}): train it again."
        ) from None


def convert(task: Task, network: Network, path: Path) -> onnx.ModelProto:
    """The ONNX graph of a segmenter; each mask is round(255 · probability), with a twin if a later network reads it."""
    (mask,) = network.masks
    exported = torch.onnx.export(_program(path), dynamo=True, opset_version=graph.OPSET, verbose=False)
    if exported is None:
        raise ExportError(f"PyTorch made no ONNX graph of {path}: see its messages above.")
    model = exported.model_proto
    names = {model.graph.input[0].name: network.reads, model.graph.output[0].name: PROBABILITY}
    graph.rename(model, names)
    graph.free_batch([*model.graph.input, *model.graph.output])
    del model.graph.output[:]
    model.graph.initializer.append(helper.make_tensor("levels", TensorProto.FLOAT, [], [255.0]))
    model.graph.node.extend(
        [
            helper.make_node("Mul", [PROBABILITY, "levels"], ["scaled"]),
            helper.make_node("Round", ["scaled"], ["rounded"]),  # halves to even, like numpy.rint
            helper.make_node("Cast", ["rounded"], [mask.name], to=TensorProto.UINT8),
        ]
    )
    for tensor in task.graph_outputs(network):
        if tensor.name != mask.name:
            model.graph.node.append(helper.make_node("Identity", [mask.name], [tensor.name]))
        shape: list[str | int | None] = ["N", *tensor.shape]
        model.graph.output.append(helper.make_tensor_value_info(tensor.name, TensorProto.UINT8, shape))
    return model
