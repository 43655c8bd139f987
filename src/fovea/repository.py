"""Task → Triton model repository: one folder per step and one for the ensemble, config.pbtxt written by protobuf.

    <task>/              the ensemble: one encoded picture in, every answer and `frame` out
    <task>_preprocess/   fovea.pixels, in Triton's Python backend
    <network>/           1/model.onnx (fp32) and the graphs of other precisions beside it; configs/<hardware>.pbtxt

    cpu       backend `onnxruntime`: NVIDIA's native one, or ours on its Python backend; also the plain config.pbtxt
    openvino  backend `openvino`, likewise, with the arithmetic of its floats always stated
    gpu       backend `onnxruntime` on the CUDA execution provider
    tensorrt  backend `tensorrt`: 1/model.plan, built on the machine that serves it
    onnxruntime_tensorrt
              backend `onnxruntime` on its TensorRT execution provider, which builds from 1/model.tensorrt.onnx

The last two are for NVIDIA's container: the embedded server has no such backend, and says so.

On a CPU every step has as many instances as there are cores, one thread each, and no dynamic batching: batching
queued requests onto one instance idles the other cores. On a GPU there is one instance with dynamic batching.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from fovea import plan
from fovea.errors import ServerError
from fovea.spec import FRAME, Classes, Network, Task, Tensor

Hardware = Literal["cpu", "openvino", "gpu", "tensorrt", "onnxruntime_tensorrt"]
HARDWARE: tuple[Hardware, ...] = get_args(Hardware)
ON_GPU = ("gpu", "tensorrt", "onnxruntime_tensorrt")
WORKSPACE = 2**30
"""Bytes of scratch memory that TensorRT may use: what ONNX Runtime's provider takes by default, said for all routes."""
ENGINE_CACHE = "/var/cache/fovea-tensorrt"
"""Where ONNX Runtime keeps its engines in the container: a folder it makes itself, or a volume mounted there."""
WAITING = 32
"""Requests that wait for each core at most; more are refused at once (`ServerBusy`). They wait a second or two."""
CORES = 2
"""What the committed configs are fitted to; `python -m export <task> --cores N` fits them to another machine."""

PREPROCESS_MODEL = '''\
"""Preprocessing of the ensemble: see fovea.backend."""

from fovea.backend import Preprocess as TritonPythonModel  # noqa: F401  (Triton looks for this name)
'''


@dataclass(frozen=True)
class Choice:
    """The graph that a network is served with on one hardware, as export measured it: fp32 where it did not.

    `hint` is OpenVINO's arithmetic for floats; `latency_ms` is one picture on one thread of the machine that exported.
    """

    graph: str = "model.onnx"
    hint: Literal["f32", "bf16"] = "f32"
    latency_ms: float | None = None


FUSED_MODEL = '''\
"""The whole task in one hop: see fovea.fused."""

from fovea.fused import Fused as TritonPythonModel  # noqa: F401  (Triton looks for this name)
'''

Choices = Mapping[str, Mapping[Hardware, Choice]]
"""By network; hardware that is not named serves fp32."""


def preprocess_name(task: Task) -> str:
    return f"{task.name}_preprocess"


def fused_name(task: Task) -> str:
    return f"{task.name}_fused"


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
    _admit(config, cores, instances=cores)
    return config


def _admit(config: pb.ModelConfig, cores: int, instances: int) -> None:
    """For the model by which requests enter: its instances, and an end to the queue.

    Without an end, a server that is asked for more than it can do answers nobody in time, and works off what nobody
    waits for any more. Triton's limit is the dynamic batcher's, which is told not to batch: on a CPU that costs.
    """
    config.instance_group.add(count=instances, kind=pb.ModelInstanceGroup.KIND_CPU)
    config.dynamic_batching.preferred_batch_size.append(1)
    config.dynamic_batching.default_queue_policy.max_queue_size = WAITING * cores


def network_config(task: Task, network: Network, hardware: Hardware, cores: int, choice: Choice) -> pb.ModelConfig:
    config = pb.ModelConfig(name=network.name, max_batch_size=network.max_batch)
    config.input.add(name=network.reads, data_type=pb.TYPE_UINT8, dims=task.input_shape(network))
    for tensor in task.graph_outputs(network):
        labels = "labels.txt" if tensor.name == "probabilities" else ""
        config.output.add(name=tensor.name, data_type=_kind(tensor), dims=tensor.shape, label_filename=labels)
    config.backend = {"openvino": "openvino", "tensorrt": "tensorrt"}.get(hardware, "onnxruntime")
    built = {"tensorrt": plan.FILE, "onnxruntime_tensorrt": plan.TENSORRT_GRAPH}
    config.default_model_filename = built.get(hardware, choice.graph)
    if hardware in ON_GPU:
        config.instance_group.add(count=1, kind=pb.ModelInstanceGroup.KIND_GPU)
        config.dynamic_batching.SetInParent()
        if hardware == "onnxruntime_tensorrt":
            _accelerate(config, task, network)
        return config
    config.instance_group.add(count=cores, kind=pb.ModelInstanceGroup.KIND_CPU)
    settings = {"intra_op_thread_count": "1", "inter_op_thread_count": "1"}
    if hardware == "openvino":
        settings = {"INFERENCE_PRECISION_HINT": choice.hint, "INFERENCE_NUM_THREADS": "1", "NUM_STREAMS": "1"}
    for name, value in settings.items():
        config.parameters[name].string_value = value
    return config


def _accelerate(config: pb.ModelConfig, task: Task, network: Network) -> None:
    """ONNX Runtime's TensorRT provider: one engine for all batches, kept between starts, precision as in the graph.

    Names: https://github.com/triton-inference-server/onnxruntime_backend/blob/013d274504599ff36f0a9518322adb5b760c03d1/README.md
    """
    accelerator = config.optimization.execution_accelerators.gpu_execution_accelerator.add(name="tensorrt")
    shapes = [f"{network.reads}:{'x'.join(map(str, shape))}" for shape in task.profile(network)]
    settings = {f"trt_profile_{end}_shapes": shape for end, shape in zip(("min", "opt", "max"), shapes, strict=True)}
    settings |= {"precision_mode": "FP32", "max_workspace_size_bytes": str(WORKSPACE)}
    settings |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": ENGINE_CACHE}
    settings |= {"trt_timing_cache_enable": "1", "trt_timing_cache_path": ENGINE_CACHE}
    for name, value in settings.items():
        accelerator.parameters[name] = value


@dataclass(frozen=True)
class Part:
    """A graph of the fused variant: its file, its input, the tensor that feeds it, and OpenVINO's arithmetic."""

    file: str
    reads: str
    source: str
    arithmetic: str


def fused_config(
    task: Task, hardware: Hardware, cores: int, parts: Sequence[Part], points: Mapping[str, float]
) -> pb.ModelConfig:
    """The ensemble's inputs, outputs and parameters, behind one Python model that runs `parts` one after another."""
    config = ensemble_config(task, points)
    config.ClearField("platform")
    config.ClearField("ensemble_scheduling")
    config.name, config.backend = fused_name(task), "python"
    graphs = json.dumps([astuple(part) for part in parts])
    settings = {"task": task.name, "hardware": hardware, "graphs": graphs, "cores": str(cores)}
    for name, value in settings.items():
        config.parameters[name].string_value = value
    # One more than cores: while one's answer leaves and its next picture comes, another computes.
    _admit(config, cores, instances=cores + 1)
    return config


def fused_files(
    task: Task, cores: int, parts: Mapping[Hardware, Sequence[Part]], points: Mapping[str, float]
) -> dict[str, str]:
    """Every text file of the fused variant, for the hardware named in `parts`; "cpu" must be."""
    folder = fused_name(task)
    written = {
        f"{folder}/configs/{hardware}.pbtxt": str(
            text_format.MessageToString(fused_config(task, hardware, cores, own, points))
        )
        for hardware, own in parts.items()
    }
    return written | {
        f"{folder}/config.pbtxt": written[f"{folder}/configs/cpu.pbtxt"],
        f"{folder}/1/model.py": FUSED_MODEL,
    }


def files(
    task: Task,
    cores: int = CORES,
    points: Mapping[str, float] = MappingProxyType({}),
    choices: Choices = MappingProxyType({}),
) -> dict[str, str]:
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
        for hardware in HARDWARE:
            choice = choices.get(network.name, {}).get(hardware, Choice())
            written[f"{network.name}/configs/{hardware}.pbtxt"] = text(
                network_config(task, network, hardware, cores, choice)
            )
        written[f"{network.name}/config.pbtxt"] = written[f"{network.name}/configs/cpu.pbtxt"]
        if any(isinstance(answer, Classes) for answer in network.answers):
            written[f"{network.name}/labels.txt"] = "".join(f"{label}\n" for label in task.labels)
    return written


def configured_cores(task: Task, repository: Path) -> int:
    """How many cores the task's CPU configs were fitted to: the instances of its first network."""
    text = (repository / task.networks[0].name / "config.pbtxt").read_text(encoding="utf-8")
    return sum(group.count for group in text_format.Parse(text, pb.ModelConfig()).instance_group)


def operating_points(task: Task, repository: Path) -> dict[str, float]:
    """The thresholds that the cards of the task's networks state, by name; none where there is no card."""
    cards = (_card(repository / network.name) for network in task.networks)
    return {point["name"]: point["threshold"] for card in cards for point in card.get("operating_points", ())}


def recorded_choices(task: Task, repository: Path) -> dict[str, dict[Hardware, Choice]]:
    """The graphs that the cards of the task's networks state; none, that is fp32, where there is no card."""
    return {network.name: choices_in(repository / network.name) for network in task.networks}


def choices_in(folder: Path) -> dict[Hardware, Choice]:
    """What the card in a network's folder states."""
    stated = _card(folder).get("precision", {}).get("choices", {})
    return {hardware: Choice(**choice) for hardware, choice in stated.items()}


def _card(folder: Path) -> dict[str, Any]:
    path = folder / "card.json"
    card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return card


def graph_path(repository: Path, network: Network, hardware: Hardware | None = None) -> Path:
    """The fp32 graph, or the one that is served on `hardware`."""
    name = "model.onnx" if hardware is None else str(_config(repository, network, hardware).default_model_filename)
    return repository / network.name / "1" / name


def hint(repository: Path, network: Network, hardware: Hardware) -> str:
    """The arithmetic that the network's config asks OpenVINO for; "f32" where another engine serves."""
    parameters = _config(repository, network, hardware).parameters
    name = "INFERENCE_PRECISION_HINT"
    return str(parameters[name].string_value) if name in parameters else "f32"


def _config(repository: Path, network: Network, hardware: Hardware) -> pb.ModelConfig:
    text = (repository / network.name / "configs" / f"{hardware}.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, pb.ModelConfig())


def check(task: Task, repository: Path, hardware: Hardware = "cpu") -> None:
    """Raise `ServerError`, naming the file and the cure, unless the repository holds all that `task` needs."""
    if not repository.is_dir():
        raise ServerError(f"{repository} is no folder: give a model repository, such as model_repository/.")
    for name in files(task):
        if not (repository / name).exists() and not name.endswith(".gitkeep"):
            raise ServerError(f"{repository / name} is missing: python -m export {task.name} writes it.")
    for network in task.networks:
        graph = graph_path(repository, network, hardware)
        if not graph.exists():
            how = f" --to {hardware}" if hardware in plan.MADE_HERE else ""
            raise ServerError(f"{graph} is missing: python -m export {task.name}{how} writes it.")
        if graph.stat().st_size == 0:
            raise ServerError(f"{graph} is empty: restore it, or run python -m export {task.name}.")
