"""`--fuse`: a task's networks as one graph, from the uint8 picture to every output, served in one hop.

The ensemble stays the reference: the fused graph holds the very graphs that it serves, joined where it passes a mask
on, and answers bit for bit the same. What it saves are hops; what it gives up is the ensemble's freedom to share, scale
and replace networks one by one.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import compose, helper

from export import graph
from fovea import engines, phantoms
from fovea import repository as served
from fovea.errors import ExportError, ParityError
from fovea.repository import Hardware, Part
from fovea.spec import Task

PHANTOMS = 4
"""Pictures on which the fused graph must answer as the networks do, bit for bit."""


def fuse(task: Task, models: Mapping[str, onnx.ModelProto]) -> onnx.ModelProto:
    """One graph of all networks of `task`, given theirs by name; outputs are those a client can ask for."""
    first, *later = task.networks
    joined = _named_apart(models[first.name], first.name, keep={"image"})
    for network in later:
        own = _named_apart(models[network.name], network.name, keep=set())
        source, target = _inner(task, network.reads), f"{network.name}/{network.reads}"
        if network.reads == "image":
            raise ExportError(f"{network.name} reads the picture as {first.name} does: only a chain can be fused.")
        joined.ir_version = own.ir_version = max(joined.ir_version, own.ir_version)
        kept = [value.name for value in joined.graph.output] + [value.name for value in own.graph.output]
        joined = compose.merge_models(joined, own, io_map=[(source, target)], outputs=kept)
    wanted = [tensor for network in task.networks for tensor in network.answers]
    names = {_inner(task, answer.tensor.name): answer.tensor.name for answer in wanted}
    outputs = [value for value in joined.graph.output if value.name in names]
    del joined.graph.output[:]
    joined.graph.output.extend(outputs)
    graph.rename(joined, names)
    joined.producer_name, joined.doc_string = "fovea", task.question
    del joined.metadata_props[:]
    helper.set_model_props(joined, _properties(models[first.name]) | {"fovea.network": f"{task.name}_fused"})
    onnx.checker.check_model(joined, full_check=True)
    return joined


def _inner(task: Task, tensor: str) -> str:
    """The name that an output got when its network was named apart."""
    network = next(n for n in task.networks if tensor in {answer.tensor.name for answer in n.answers})
    return f"{network.name}/{tensor}"


def _named_apart(model: onnx.ModelProto, name: str, keep: set[str]) -> onnx.ModelProto:
    """A copy in which every tensor and node begins with the network's name, so that no two networks share one."""
    apart: onnx.ModelProto = compose.add_prefix(model, f"{name}/")
    graph.rename(apart, {f"{name}/{tensor}": tensor for tensor in keep})
    del apart.metadata_props[:]  # two networks' metadata contradict each other
    return apart


def _properties(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def files(task: Task, repository: Path, cores: int) -> dict[str, bytes]:
    """The fused variant of what `repository` serves, by path below it.

    On ONNX Runtime it is one graph. OpenVINO would lay a joined graph out anew, and its last bits would differ: there
    the networks' own graphs run one after another in the one process.

    Raises:
        ExportError: the networks are no chain, or are not in the repository.
        ParityError: the fused graph does not answer bit for bit as the networks one by one.
    """
    folder = f"{served.fused_name(task)}/1"
    contents: dict[str, bytes] = {}
    parts: dict[Hardware, list[Part]] = {}
    plain = {network.name: _read(task, served.graph_path(repository, network, "cpu")) for network in task.networks}
    joined = fuse(task, {name: onnx.load_from_string(content) for name, content in plain.items()}).SerializeToString()
    _check(task, repository, joined)
    contents[f"{folder}/model.onnx"] = joined
    parts["cpu"] = [Part("model.onnx", "image", "pixels", "f32")]
    parts["openvino"] = []
    for network in task.networks:
        file = f"{network.name}.openvino.onnx"
        contents[f"{folder}/{file}"] = _read(task, served.graph_path(repository, network, "openvino"))
        arithmetic = served.hint(repository, network, "openvino")
        parts["openvino"].append(Part(file, network.reads, task.source(network), arithmetic))
    texts = served.fused_files(task, cores, parts, served.operating_points(task, repository))
    return contents | {name: text.encode() for name, text in texts.items()}


def _read(task: Task, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ExportError(f"{path} is missing: python -m export {task.name} writes it.") from None


def _check(task: Task, repository: Path, content: bytes) -> None:
    """Answers of both to phantoms, in a batch and one by one."""
    encoded = [phantoms.encoded(task.modalities[0], seed) for seed in range(PHANTOMS)]
    pipeline = engines.Pipeline(task, repository, "cpu")
    run = engines.engine("cpu", content, "f32", "image")
    for pictures in (encoded, *([picture] for picture in encoded)):
        expected = pipeline.answer(pictures)
        for name, found in run(expected["pixels"].astype(np.uint8)).items():
            if not np.array_equal(found, expected[name]):
                worst = np.abs(found.astype(float) - expected[name].astype(float)).max()
                raise ParityError(
                    f"{task.name}, fused, answers {name} otherwise than its networks one by one (by {worst:.2g}): "
                    "nothing was exported."
                )
