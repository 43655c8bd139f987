"""The model card beside each exported network: what it is, what it was trained on, how well it does, what it is not."""

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx

from export import graph
from export.parity import Line
from export.precision import Ladder
from fovea.spec import Network, Task

PACKAGES = (  # as pip calls them
    "torch",
    "tensorflow-cpu",
    "keras",
    "tf2onnx",
    "onnx",
    "onnxruntime",
    "openvino",
    "numpy",
    "opencv-python-headless",
)
NORMALISATION = "inside the graph: inputs are uint8, 0 to 255"
USE = "Research use. Not a medical device: no decision about a person may rest on it."


def facts(
    task: Task,
    network: Network,
    model: onnx.ModelProto,
    contents: Mapping[str, bytes],
    lines: Sequence[Line],
    measured: Ladder | None,
    weights: Path,
    reports: Path,
) -> dict[str, Any]:
    """Everything the card says, as plain values; training and evaluation are left out where they left no record.

    `contents` are the graphs by file name, `model.onnx` the fp32 one that all others were made of.
    """
    training = _read(weights / f"{network.name}.json")
    report = _read(reports / task.name / "report.json") or {}
    judged = [
        entry
        for kind in ("segmenters", "classifiers")
        for entry in report.get(kind, [])
        if entry["network"] == network.name
    ]
    digest = hashlib.sha256((weights / network.file).read_bytes()).hexdigest()
    current = judged[0] if judged and judged[0]["weights_sha256"] == digest else None
    return {
        "network": network.name,
        "task": task.name,
        "question": task.question,
        "use": USE,
        "sha256": hashlib.sha256(contents["model.onnx"]).hexdigest(),
        "bytes": len(contents["model.onnx"]),
        "parameters": sum(_size(tensor) for tensor in model.graph.initializer),
        "opset": max(entry.version for entry in model.opset_import if entry.domain == ""),
        "ir_version": model.ir_version,
        "tensors": {name: [kind, list(shape)] for name, (kind, shape) in graph.declared(task, network).items()},
        "normalisation": NORMALISATION,
        "preprocessing": asdict(task.image),
        "temperature": (training or {}).get("temperature"),
        "operating_points": (training or {}).get("operating_points", []),
        "training": training,
        "evaluation": current and current | {name: report[name] for name in ("judged", "resamples")},
        "confounds": report.get("confounds") if current and not network.masks else None,
        "shared_patients": report.get("shared_patients") if current else None,
        "parity": [
            {"output": x.output, "pictures": x.pictures, "count": x.count, "batch": x.batch, "largest": x.worst}
            for x in lines
        ],
        "tolerance": {"atol": network.tolerance.atol, "rtol": network.tolerance.rtol},
        "precision": precision(contents, measured) if measured else {},
        "made_with": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def precision(contents: Mapping[str, bytes], measured: Ladder) -> dict[str, Any]:
    """The graph served on each hardware, every file's hash, and the table that the choice rests on."""
    return {
        "choices": {hardware: asdict(choice) for hardware, choice in measured.choices.items()},
        "graphs": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
        "measured_on": _processor(),
        "candidates": [
            {name: None if value != value else value for name, value in asdict(row).items()} for row in measured.rows
        ],
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def essentials(task: Task, network: Network, weights: Path) -> dict[str, str]:
    """What a graph says of itself (`metadata_props`), for whoever meets the file without its card."""
    training = _read(weights.with_suffix(".json")) or {}
    sets = training.get("data", {}).get("sets", {})
    return {
        "fovea.task": task.name,
        "fovea.network": network.name,
        "fovea.question": task.question,
        "fovea.use": USE,
        "fovea.weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "fovea.normalisation": NORMALISATION,
        "fovea.preprocessing": json.dumps(asdict(task.image)),
        **({"fovea.labels": ",".join(task.labels)} if not network.masks else {}),
        "fovea.training_data": "; ".join(f"{name} ({each['licence']})" for name, each in sets.items())
        or "not recorded",
        "fovea.operating_points": json.dumps(
            {point["name"]: point["threshold"] for point in training.get("operating_points", ())}
        ),
    }


def as_json(card: dict[str, Any]) -> bytes:
    return (json.dumps(card, indent=1) + "\n").encode()


def _size(tensor: onnx.TensorProto) -> int:
    size = 1
    for side in tensor.dims:
        size *= side
    return size


def _read(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value
