"""Which hardware serves the tasks best on this machine, and the sentence that says why."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

from fovea import plan
from fovea.errors import ServerError
from fovea.repository import Choice, Hardware, choices_in
from fovea.spec import Task

BF16 = {"avx512_bf16", "amx_bf16"}
"""Flags of processors that compute in bf16; the others would be asked for what they do not have."""


def choose(networks: Sequence[Path]) -> tuple[Hardware, str]:
    """A GPU if there is one; else what export measured as faster, where this machine can serve it; else the CPU.

    `networks` are the folders of the networks to be served, in a repository or among releases.
    """
    if Path("/proc/driver/nvidia/gpus").exists() or Path("/dev/nvidia0").exists():
        return "gpu", "this machine has an NVIDIA GPU"
    measured = [choices_in(folder) for folder in networks]
    if importlib.util.find_spec("openvino") is None:
        return "cpu", "this machine has no NVIDIA GPU, and OpenVINO is not installed"
    plain, other = _total(measured, "cpu"), _total(measured, "openvino")
    if plain is None or other is None:
        return "cpu", "this machine has no NVIDIA GPU, and export has not measured OpenVINO (--precision auto does)"
    if other >= plain:
        return "cpu", f"this machine has no NVIDIA GPU, and OpenVINO was no faster ({_compared(other, plain)})"
    if any(choices["openvino"].hint == "bf16" for choices in measured) and not BF16 & flags():
        return "cpu", "this processor has no bf16, which the networks' OpenVINO configs ask for"
    return "openvino", f"no NVIDIA GPU here, and OpenVINO was the faster ({_compared(other, plain)})"


def permit(hardware: Hardware, tasks: Sequence[Task], repository: Path) -> None:
    """Raise `ServerError` for hardware that only NVIDIA's container serves; first of all where its files are not fit.

    nvidia-pytriton 0.7.0 carries Triton's Python backend and no other, and ours on top of it know no TensorRT.
    """
    if hardware not in plan.MADE_HERE:
        return
    plan.check(hardware, tasks, repository)
    backend = "tensorrt" if hardware == "tensorrt" else "onnxruntime"
    raise ServerError(
        f"configs/{hardware}.pbtxt needs Triton's own {backend} backend, which the embedded server does not carry: "
        "serve this repository with NVIDIA's tritonserver container (docs/tensorrt.md), or here with HARDWARE=gpu."
    )


def _total(measured: Sequence[Mapping[Hardware, Choice]], hardware: Hardware) -> float | None:
    """Milliseconds of one picture through every network, or None if one was not measured."""
    taken = [choices[hardware].latency_ms if hardware in choices else None for choices in measured]
    return None if None in taken else sum(ms for ms in taken if ms is not None)


def _compared(openvino: float, onnxruntime: float) -> str:
    return f"{openvino:.0f} ms against {onnxruntime:.0f} of ONNX Runtime for one picture through all networks at export"


def flags() -> set[str]:
    """Of the processor, as Linux names them."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return set(next((line.split(":")[1].split() for line in lines if line.startswith("flags")), []))
