"""Task → Triton model repository: one folder per step and one for the ensemble, config.pbtxt written by protobuf.

    <task>/              the ensemble: one encoded picture in, every answer and `frame` out
    <task>_preprocess/   fovea.pixels, in Triton's Python backend
    <network>/           model.onnx, in the `onnxruntime` backend: NVIDIA's native one, or ours on its Python backend

On a CPU every step has as many instances as there are cores, one thread each, and no dynamic batching: batching
queued requests onto one instance idles the other cores. On a GPU there is one instance with dynamic batching.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from fovea.errors import ServerError
from fovea.spec import FRAME, Classes, Network, Task, Tensor

Hardware = Literal["cpu", "gpu"]
CORES = 2
"""What the committed configs are fitted to; `python -m export <task> --cores N` fits them to another machine."""

PREPROCESS_MODEL = '''\
"""Preprocessing of the ensemble: see fovea.backend."""

from fovea.backend import Preprocess as TritonPythonModel  # noqa: F401  (Triton looks for this name)
'''


def preprocess_name(task: Task) -> str:
    return f"{task.name}_preprocess"


def models(task: Task) -> tuple[str, ...]:
    """The names of all folders that serve `task`, the ensemble last."""
    return (preprocess_name(task), *(network.name for network in task.networks), task.name)


def _kind(tensor: Tensor) -> "pb.DataType.ValueType":
    return pb.DataType.Value(f"TYPE_{tensor.dtype}")


def ensemble_config(task: Task, points: Mapping[str, float]) -> pb.ModelConfig:
    config = pb.ModelConfig(name=task.name, platform="ensemble", max_batch_size=task.max_batch)
    config.input.add(name="image", data_type=pb.TYPE_STRING, dims=[1])
    for tensor in task.outputs:
        config.output.add(name=tensor.name, data_type=_kind(tensor), dims=tensor.shape)
    config.parameters["labels"].string_value = ",".join(task.labels)
    if points:
        config.parameters["operating_points"].string_value = json.dumps(dict(points))
    step = config.ensemble_scheduling.step.add(model_name=preprocess_name(task), model_version=-1)
    step.input_map["image"] = "image"
    step.output_map["pixels"] = "pixels"
    step.output_map["frame"] = "frame"
    for network in task.networks:
        step = config.ensemble_scheduling.step.add(model_name=network.name, model_version=-1)
        step.input_map[network.reads] = task.source(network)
        for tensor in task.graph_outputs(network):
            step.output_map[tensor.name] = tensor.name
    return config


def preprocess_config(task: Task, cores: int) -> pb.ModelConfig:
    config = pb.ModelConfig(name=preprocess_name(task), backend="python", max_batch_size=task.max_batch)
    config.input.add(name="image", data_type=pb.TYPE_STRING, dims=[1])
    config.output.add(name="pixels", data_type=pb.TYPE_UINT8, dims=[task.image.side, task.image.side, 3])
    config.output.add(name=FRAME.name, data_type=_kind(FRAME), dims=FRAME.shape)
    config.parameters["task"].string_value = task.name
    config.instance_group.add(count=cores, kind=pb.ModelInstanceGroup.KIND_CPU)
    return config


def network_config(task: Task, network: Network, hardware: Hardware, cores: int) -> pb.ModelConfig:
    config = pb.ModelConfig(name=network.name, backend="onnxruntime", max_batch_size=network.max_batch)
    config.input.add(name=network.reads, data_type=pb.TYPE_UINT8, dims=task.input_shape(network))
    for tensor in task.graph_outputs(network):
        labels = "labels.txt" if tensor.name == "probabilities" else ""
        config.output.add(name=tensor.name, data_type=_kind(tensor), dims=tensor.shape, label_filename=labels)
    if hardware == "gpu":
        config.instance_group.add(count=1, kind=pb.ModelInstanceGroup.KIND_GPU)
        config.dynamic_batching.SetInParent()
    else:
        config.instance_group.add(count=cores, kind=pb.ModelInstanceGroup.KIND_CPU)
        config.parameters["intra_op_thread_count"].string_value = "1"
        config.parameters["inter_op_thread_count"].string_value = "1"
    return config


def files(task: Task, cores: int = CORES, points: Mapping[str, float] = MappingProxyType({})) -> dict[str, str]:
    """Every text file that serves `task`: path below the repository → content. The graphs are export's to add.

    `points` are the thresholds stored with the task's classifier, by name; clients read them from the ensemble.
    """

    def text(config: pb.ModelConfig) -> str:
        return str(text_format.MessageToString(config))

    written = {
        f"{task.name}/config.pbtxt": text(ensemble_config(task, points)),
        f"{task.name}/1/.gitkeep": "",  # Triton wants a version folder, git keeps no empty one
        f"{preprocess_name(task)}/config.pbtxt": text(preprocess_config(task, cores)),
        f"{preprocess_name(task)}/1/model.py": PREPROCESS_MODEL,
    }
    for network in task.networks:
        written[f"{network.name}/config.pbtxt"] = text(network_config(task, network, "cpu", cores))
        written[f"{network.name}/configs/gpu.pbtxt"] = text(network_config(task, network, "gpu", cores))
        if any(isinstance(answer, Classes) for answer in network.answers):
            written[f"{network.name}/labels.txt"] = "".join(f"{label}\n" for label in task.labels)
    return written


def configured_cores(task: Task, repository: Path) -> int:
    """How many cores the task's CPU configs were fitted to: the instances of its first network."""
    text = (repository / task.networks[0].name / "config.pbtxt").read_text(encoding="utf-8")
    return sum(group.count for group in text_format.Parse(text, pb.ModelConfig()).instance_group)


def operating_points(task: Task, repository: Path) -> dict[str, float]:
    """The thresholds that the cards of the task's networks state, by name; none where there is no card."""
    cards = (repository / network.name / "card.json" for network in task.networks)
    read = [json.loads(card.read_text(encoding="utf-8")) for card in cards if card.exists()]
    return {point["name"]: point["threshold"] for card in read for point in card.get("operating_points", ())}


def graph_path(repository: Path, network: Network) -> Path:
    return repository / network.name / "1" / "model.onnx"


def check(task: Task, repository: Path) -> None:
    """Raise `ServerError`, naming the file and the cure, unless the repository holds all that `task` needs."""
    if not repository.is_dir():
        raise ServerError(f"{repository} is no folder: give a model repository, such as model_repository/.")
    for name in files(task):
        if not (repository / name).exists() and not name.endswith(".gitkeep"):
            raise ServerError(f"{repository / name} is missing: python -m export {task.name} writes it.")
    for network in task.networks:
        graph = graph_path(repository, network)
        if not graph.exists():
            raise ServerError(f"{graph} is missing: python -m export {task.name} writes it.")
        if graph.stat().st_size == 0:
            raise ServerError(f"{graph} is empty: restore it, or run python -m export {task.name}.")
