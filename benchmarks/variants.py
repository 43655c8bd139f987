"""Repositories that serve one task otherwise than the committed one does: another engine, precision, thread count."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from fovea.hardware import BF16, flags
from fovea.repository import (
    Choice,
    Hardware,
    graph_path,
    hint,
    models,
    network_config,
    preprocess_config,
    preprocess_name,
)
from fovea.spec import Task

INT8 = "model.int8.onnx"


@dataclass(frozen=True)
class Variant:
    """How a task's networks are served.

    Attributes:
        name: engine and precision, as "openvino int8".
        choices: network name → its graph and OpenVINO's arithmetic for what is float in it.
        instances, threads: of each network; instances × threads are the cores, which preprocessing has one by one.
        delay_us: how long Triton waits for a batch to fill, in microseconds; None does not batch at all.
    """

    name: str
    hardware: Hardware
    choices: Mapping[str, Choice]
    instances: int
    threads: int = 1
    delay_us: int | None = None


def engines(task: Task, repository: Path, cores: int) -> list[Variant]:
    """Every engine and precision that there are graphs for, and that this processor computes."""
    fp32 = {network.name: Choice("model.onnx", "f32") for network in task.networks}
    bf16 = {network.name: Choice("model.onnx", "bf16") for network in task.networks}
    int8 = {
        network.name: Choice(INT8, "f32") if (repository / network.name / "1" / INT8).exists() else fp32[network.name]
        for network in task.networks
    }
    found = [Variant("onnxruntime fp32", "cpu", fp32, cores), Variant("openvino fp32", "openvino", fp32, cores)]
    if BF16 & flags():
        found.append(Variant("openvino bf16", "openvino", bf16, cores))
    if int8 != fp32:
        found += [Variant("onnxruntime int8", "cpu", int8, cores), Variant("openvino int8", "openvino", int8, cores)]
    return found


def committed(task: Task, repository: Path, hardware: Hardware, cores: int) -> Variant:
    """What the repository itself serves on `hardware`."""
    choices = {}
    for network in task.networks:
        bf16 = hint(repository, network, hardware) == "bf16"
        choices[network.name] = Choice(graph_path(repository, network, hardware).name, "bf16" if bf16 else "f32")
    return Variant(f"{hardware} as committed", hardware, choices, cores)


def write(variant: Variant, task: Task, repository: Path, folder: Path) -> Path:
    """`folder` becomes a repository of the task served so; all that `files` does not name is linked."""
    own = files(variant, task)
    for model in models(task):
        for part in [*(repository / model).glob("*"), *(repository / model).glob("configs/*")]:
            link = folder / part.relative_to(repository)
            link.parent.mkdir(parents=True, exist_ok=True)
            if part.name != "configs" and str(part.relative_to(repository)) not in own:
                link.symlink_to(part.resolve())
    for name, text in own.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def files(variant: Variant, task: Task) -> dict[str, str]:
    """The configs that make the variant: path below the repository → content."""
    cores = variant.instances * variant.threads
    configs = {f"{preprocess_name(task)}/config.pbtxt": preprocess_config(task, cores)}
    for network in task.networks:
        config = network_config(task, network, variant.hardware, variant.instances, variant.choices[network.name])
        adjust(config, variant)
        configs[f"{network.name}/configs/{variant.hardware}.pbtxt"] = config
    return {name: str(text_format.MessageToString(config)) for name, config in configs.items()}


def adjust(config: pb.ModelConfig, variant: Variant) -> None:
    """Threads and batching as the variant wants them; the rest is as export writes it."""
    threads = {"cpu": "intra_op_thread_count", "openvino": "INFERENCE_NUM_THREADS"}[variant.hardware]
    config.parameters[threads].string_value = str(variant.threads)
    if variant.delay_us is not None:
        config.dynamic_batching.max_queue_delay_microseconds = variant.delay_us
        config.dynamic_batching.SetInParent()
