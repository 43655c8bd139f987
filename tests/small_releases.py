"""Releases for tests: repositories of cheap graphs whose every answer says which release it comes from."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from conftest import REPOSITORY
from google.protobuf import text_format
from onnx import TensorProto, helper, numpy_helper
from tritonclient.grpc import model_config_pb2 as pb

from fovea import releases
from fovea.answers import Answer
from fovea.repository import graph_path
from fovea.spec import Network, Task
from fovea.tasks import TASKS

Command = Callable[..., tuple[int, str, str]]
KINDS: dict[str, tuple[int, Any]] = {"UINT8": (TensorProto.UINT8, np.uint8), "FP32": (TensorProto.FLOAT, np.float32)}
POINT = "balanced"


def repository(folder: Path, task: Task, value: int) -> Path:
    """A model repository of the task whose networks, and whose operating point, answer `value` and nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in (task.name, f"{task.name}_preprocess", *(network.name for network in task.networks)):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for network in task.networks:
        for path in graph_path(folder, network).parent.glob("model*.onnx"):  # whatever precision is served
            path.write_bytes(graph(task, network, value))
    path = folder / task.name / "config.pbtxt"
    config = text_format.Parse(path.read_text(encoding="utf-8"), pb.ModelConfig())
    config.parameters["operating_points"].string_value = json.dumps({POINT: value / 256})
    path.write_text(text_format.MessageToString(config), encoding="utf-8")
    return folder


def graph(task: Task, network: Network, value: int) -> bytes:
    """Every output is `value` throughout, but the first probability: that is the first value of what was read."""
    read = helper.make_tensor_value_info(network.reads, TensorProto.UINT8, ["N", *task.input_shape(network)])
    nodes = [
        helper.make_node("Shape", [network.reads], ["n"], start=0, end=1),
        helper.make_node("Flatten", [network.reads], ["flat"]),
        helper.make_node("Slice", ["flat", "zero", "one", "one"], ["first"]),
        helper.make_node("Cast", ["first"], ["seen"], to=TensorProto.FLOAT),
    ]
    constants = {"zero": np.array([0], np.int64), "one": np.array([1], np.int64)}
    outputs = []
    for tensor in task.graph_outputs(network):
        kind, dtype = KINDS[tensor.dtype]
        seen = tensor.name == "probabilities"
        shape = (tensor.shape[0] - 1,) if seen else tensor.shape
        constants |= {f"{tensor.name}_is": np.full((1, *shape), value, dtype), f"{tensor.name}_of": np.array(shape)}
        nodes.append(helper.make_node("Concat", ["n", f"{tensor.name}_of"], [f"{tensor.name}_shape"], axis=0))
        same = f"{tensor.name}_rest" if seen else tensor.name
        nodes.append(helper.make_node("Expand", [f"{tensor.name}_is", f"{tensor.name}_shape"], [same]))
        if seen:
            nodes.append(helper.make_node("Concat", ["seen", same], [tensor.name], axis=1))
        outputs.append(helper.make_tensor_value_info(tensor.name, kind, ["N", *tensor.shape]))
    held = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    made = helper.make_model(
        helper.make_graph(nodes, "constant", [read], outputs, held), opset_imports=[helper.make_opsetid("", 18)]
    )
    made.ir_version = 10
    onnx.checker.check_model(made, full_check=True)
    return bytes(made.SerializeToString())


def told(answer: Answer) -> set[int]:
    """Every value that an answer of such a network holds: one, unless it comes of two releases."""
    assert answer.probabilities is not None
    assert answer.heatmap is not None
    planes: list[npt.NDArray[Any]] = [answer.heatmap, *answer.masks.values(), answer.probabilities[1:]]
    values = {int(value) for plane in planes for value in (plane.min(), plane.max())}
    if answer.masks:  # … and what the classifier read is the mask
        values.add(int(answer.probabilities[0]))
    if answer.operating_point is not None:
        values.add(int(256 * answer.operating_point[1]))
    return values


def everything(folder: Path) -> dict[str, bytes | str | None]:
    """Files, links and folders below, but not the locks."""
    return {
        path.relative_to(folder).as_posix(): str(path.readlink())
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in folder.rglob("*")
        if ".control" not in path.parts
    }


def line(folder: Path, task: Task) -> list[str]:
    """The published releases, oldest first."""
    return [entry.release for entry in releases.history(folder, task.name)]


def publish(export: Command, folder: Path, source: Path, task: Task = TASKS["fundus"]) -> str:
    """Release by the command line; returns the number."""
    code, out, err = export("release", task.name, "--releases", folder, "--repository", source, "--json")
    assert code == 0, err
    number = str(json.loads(out)["release"])
    assert releases.current(folder, task.name) == number
    return number


def cut(path: Path) -> None:
    overwrite(path, path.read_bytes()[: path.stat().st_size // 2])


def overwrite(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)
