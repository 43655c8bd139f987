"""A task at a few pixels with graphs made by hand: a U-Net's edges and a classifier's outputs, in milliseconds."""

import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fovea import repository
from fovea.spec import Heatmap, Image, Mask, Network, Task
from fovea.tasks import TASKS

SIDE, COARSE = 32, 4


def _small(network: Network) -> Network:
    sides = {Mask: SIDE, Heatmap: COARSE}
    answers = tuple(replace(a, side=sides[type(a)]) if isinstance(a, (Mask, Heatmap)) else a for a in network.answers)
    return replace(network, answers=answers, max_batch=4)


RETINA = replace(TASKS["retina"], image=Image(SIDE), networks=tuple(map(_small, TASKS["retina"].networks)))
UNET, CLASSIFIER = RETINA.networks


def _model(task: Task, network: Network, nodes: list[onnx.NodeProto], values: dict[str, np.ndarray]) -> onnx.ModelProto:  # type: ignore[type-arg]
    kinds = {"UINT8": TensorProto.UINT8, "FP32": TensorProto.FLOAT}
    shape: list[str | int | None] = ["N", *task.input_shape(network)]
    graph = helper.make_graph(
        nodes,
        network.name,
        [helper.make_tensor_value_info(network.reads, TensorProto.UINT8, shape)],
        [
            helper.make_tensor_value_info(tensor.name, kinds[tensor.dtype], ["N", *tensor.shape])
            for tensor in task.graph_outputs(network)
        ],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def unet() -> onnx.ModelProto:
    """Transposed before it is cast, and a twin by identity: as PyTorch's exporter and `from_torch` leave it."""
    generator = np.random.default_rng(7)
    node = helper.make_node
    return _model(
        RETINA,
        UNET,
        [
            node("Transpose", ["image"], ["permute"], perm=[0, 3, 1, 2]),
            node("Cast", ["permute"], ["cast"], to=TensorProto.FLOAT),
            node("Mul", ["cast", "scale"], ["scaled"]),
            node("Conv", ["scaled", "kernel"], ["logits"], name="conv", pads=[1, 1, 1, 1]),
            node("Sigmoid", ["logits"], ["probability_nchw"]),
            node("Transpose", ["probability_nchw"], ["probability"], perm=[0, 2, 3, 1]),
            node("Mul", ["probability", "levels"], ["level"]),
            node("Round", ["level"], ["rounded"]),
            node("Cast", ["rounded"], ["vessels"], to=TensorProto.UINT8),
            node("Identity", ["vessels"], ["vessels_onward"]),
        ],
        {
            "scale": np.array(1 / 255, np.float32),
            "kernel": generator.normal(0, 1, (1, 3, 3, 3)).astype(np.float32),
            "levels": np.array(255, np.float32),
        },
    )


def classifier() -> onnx.ModelProto:
    generator = np.random.default_rng(8)
    node = helper.make_node
    shape = np.array([0, COARSE, COARSE], np.int64)
    return _model(
        RETINA,
        CLASSIFIER,
        [
            node("Cast", ["vessels"], ["cast"], to=TensorProto.FLOAT),
            node("Mul", ["cast", "scale"], ["seen"]),
            node("Transpose", ["seen"], ["nchw"], perm=[0, 3, 1, 2]),
            node("AveragePool", ["nchw"], ["pooled"], kernel_shape=[8, 8], strides=[8, 8]),
            node("Reshape", ["pooled", "coarse"], ["heatmap"]),
            node("Reshape", ["pooled", "flat"], ["features"]),
            node("MatMul", ["features", "weights"], ["logits"]),
            node("Softmax", ["logits"], ["probabilities"]),
        ],
        {
            "scale": np.array(1 / 255, np.float32),
            "coarse": shape,
            "flat": np.array([0, COARSE * COARSE], np.int64),
            "weights": generator.normal(0, 1, (COARSE * COARSE, 4)).astype(np.float32),
        },
    )


def write_repository(folder: Path) -> Path:
    """A repository that serves `RETINA` once it has engines."""
    contents = {name: text.encode() for name, text in repository.files(RETINA).items()}
    contents[f"{UNET.name}/1/model.onnx"] = unet().SerializeToString()
    contents[f"{CLASSIFIER.name}/1/model.onnx"] = classifier().SerializeToString()
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_program(folder: Path, name: str, script: str) -> Path:
    """An executable shell script in `folder`, to be put first on PATH."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def write_nvidia_smi(folder: Path, *gpus: str, code: int = 0) -> Path:
    """`nvidia-smi` that names these GPUs, each as "9.0, NVIDIA H200"."""
    lines = "\n".join(f"echo '{gpu}'" for gpu in gpus)
    return write_program(folder, "nvidia-smi", f"{lines}\nexit {code}")
