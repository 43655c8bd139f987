"""Everything about this machine and this build that a figure depends on."""

import hashlib
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from fovea.repository import Hardware, fused_name, graph_path, preprocess_name
from fovea.spec import Task

PACKAGES = (
    "nvidia-pytriton",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tritonclient",
    "grpcio",
    "numpy",
    "simplejpeg",
)
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")


def describe(repository: Path, task: Task, hardware: Hardware) -> dict[str, Any]:
    """The machine, the versions, the commit, and the SHA-256 of every graph and config that is measured."""
    cpu = _cpu()
    return {
        "cpu": cpu.get("model name", platform.processor()),
        "cpu_flags": [flag for flag in FLAGS if flag in cpu.get("flags", "").split()],
        "cores": len(os.sched_getaffinity(0)),
        "cgroup_cpu_max": _first_line(Path("/sys/fs/cgroup/cpu.max")),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": _first_line(Path("/proc/driver/nvidia/version")) or "none",
        "system": platform.platform(),
        "python": platform.python_version(),
        "triton": "2.51.0",
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "thread_variables": {name: os.environ.get(name, "unset") for name in THREAD_VARIABLES},
        "commit": _commit(),
        "sha256": {
            str(path.relative_to(repository)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in served_files(repository, task, hardware)
        },
    }


def served_files(repository: Path, task: Task, hardware: Hardware) -> list[Path]:
    """The graphs and configs that `hardware` serves the task with, the fused variant's too where there is one."""
    found = [repository / name / "config.pbtxt" for name in (task.name, preprocess_name(task))]
    for network in task.networks:
        found.append(repository / network.name / "configs" / f"{hardware}.pbtxt")
        found.append(graph_path(repository, network, hardware))
    fused = repository / fused_name(task)
    return [*found, *sorted(fused.glob(f"configs/{hardware}.pbtxt")), *sorted(fused.glob("1/*.onnx"))]


def _cpu() -> dict[str, str]:
    lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _first_line(path: Path) -> str:
    return path.read_text().splitlines()[0] if path.exists() else ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _commit() -> str:
    """The commit, with a + where files differ from it; empty outside a checkout."""
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
