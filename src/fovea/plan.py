"""TensorRT engines of a repository: `1/model.plan` and, beside it, `model.plan.json`: what it was built from and for.

An engine belongs to the compute capability of the GPU and the TensorRT release that built it ("Engine Portability",
https://docs.nvidia.com/deeplearning/tensorrt/11.1.0/getting-started/support-matrix.html), and to the graph and the
batches it was built from. Triton itself notices some of that, late; the rest it serves without a word.

As a program, `python -m fovea.plan [TASK…]` says whether the engines of a repository are fit for this machine: to be
run in NVIDIA's container before tritonserver.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fovea import program
from fovea.errors import ServerError
from fovea.spec import Network, Task
from fovea.tasks import TASKS, task_named

FILE, NOTE = "model.plan", "model.plan.json"
GRAPH = "model.onnx"
TENSORRT_GRAPH = "model.tensorrt.onnx"
"""A network's graph as TensorRT takes it; `python -m export <task> --to onnxruntime_tensorrt` writes it."""
MADE_HERE = ("tensorrt", "onnxruntime_tensorrt")
"""The hardware whose files are made by its users."""
QUERY = ("nvidia-smi", "--query-gpu=compute_cap,name", "--format=csv,noheader")


@dataclass(frozen=True)
class Gpu:
    capability: str  # "9.0"
    name: str

    def __str__(self) -> str:
        return f"compute capability {self.capability} ({self.name})"


@dataclass(frozen=True)
class Plan:
    """`model.plan.json`. `graphs` are the files it was built from, each with its SHA-256; "model.onnx" is always there.

    `profile` is the least, typical and largest batch; `sha256` and `size_bytes` are the engine's own; `parity` is empty
    where it was not measured, which is so for engines that trtexec built.
    """

    network: str
    precision: str
    capability: str
    gpu: str
    tensorrt: str
    graphs: dict[str, str]
    profile: tuple[int, int, int]
    settings: dict[str, int | bool]
    sha256: str
    size_bytes: int
    built: str
    built_by: str
    parity: list[dict[str, Any]]

    def to_json(self) -> bytes:
        return (json.dumps(asdict(self), indent=1) + "\n").encode()


def read(note: Path) -> Plan:
    """The engine's note.

    Raises:
        ValueError: it is none that this version wrote.
    """
    try:
        fields = json.loads(note.read_text(encoding="utf-8"))
        made = Plan(**fields | {"profile": tuple(fields["profile"])})
        whole = isinstance(made.graphs, dict) and GRAPH in made.graphs and len(made.profile) == 3
    except (TypeError, KeyError) as error:
        raise ValueError(str(error)) from None
    if not whole:
        raise ValueError(f"graphs {made.graphs}, profile {made.profile}")
    return made


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def gpu() -> Gpu:
    """The GPU of this machine; of several of one kind, the first.

    Raises:
        ServerError: there is none, nvidia-smi does not say, or there are several kinds.
    """
    cure = "install NVIDIA's driver, or, in a container, give it the GPU (docker run --gpus all)"
    try:
        asked = subprocess.run(QUERY, capture_output=True, text=True, errors="replace", timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        said = "was not found" if isinstance(error, FileNotFoundError) else f"did not run ({error})"
        raise ServerError(f"No NVIDIA GPU can be used here, because nvidia-smi {said}: {cure}.") from None
    found = re.findall(r"^(\d+\.\d+), (.+)$", asked.stdout, re.MULTILINE)
    if asked.returncode or not found:
        said = " ".join((asked.stdout or asked.stderr).split()) or f"exit code {asked.returncode}"
        raise ServerError(f"No NVIDIA GPU can be used here, because nvidia-smi says: {said[:200]}: {cure}.")
    kinds: dict[str, Gpu] = {}
    for capability, name in found:
        kinds.setdefault(capability, Gpu(capability, name))
    if len(kinds) > 1:
        raise ServerError(
            f"This machine has GPUs of several kinds, {' and '.join(map(str, kinds.values()))}, and an engine is for "
            "one: run in a container that is given one kind (docker run --gpus device=0)."
        )
    return kinds[found[0][0]]


def check(hardware: str, tasks: Sequence[Task], repository: Path) -> None:
    """Raise `ServerError`, with the cure, where a file that was made for `hardware` is missing, stale or foreign."""
    of_one = _check_engine if hardware == "tensorrt" else _check_graph
    for task in tasks:
        for network in task.networks:
            of_one(task, network, repository / network.name / "1")


def _check_engine(task: Task, network: Network, folder: Path) -> None:
    file, note = folder / FILE, folder / NOTE
    cure = f"python -m export {task.name} --to tensorrt builds it anew, on the machine that serves it"
    if not file.exists():
        raise ServerError(f"{file} is missing: {cure}.")
    if not note.exists():
        raise ServerError(f"{note} is missing, and nobody knows what {file} was built from and for: {cure}.")
    try:
        made = read(note)
    except (ValueError, OSError) as error:
        raise ServerError(f"{note} cannot be read ({str(error)[:200]}): {cure}.") from None
    if (made.network, made.sha256) != (network.name, sha256(file)):
        raise ServerError(f"{file} is not the engine that {note.name} describes, one of {made.network}: {cure}.")
    for name, digest in made.graphs.items():
        graph = folder / name
        now = sha256(graph) if graph.exists() else "missing"
        if now != digest:
            raise ServerError(f"{file} was built from another {name} ({digest[:12]}; here it is {now[:12]}): {cure}.")
    if made.profile != network.batches:
        raise ServerError(
            f"{file} was built for batches of {_listed(made.profile)}, and {network.name} now declares "
            f"{_listed(network.batches)}: {cure}."
        )
    here = gpu()
    if made.capability != here.capability:
        raise ServerError(f"{file} was built for {Gpu(made.capability, made.gpu)}, and here is {here}: {cure}.")


def _listed(batches: tuple[int, ...]) -> str:
    return ", ".join(map(str, batches))


def _check_graph(task: Task, network: Network, folder: Path) -> None:
    graph = folder / TENSORRT_GRAPH
    cure = f"python -m export {task.name} --to onnxruntime_tensorrt writes it anew, on any machine"
    if not graph.exists():
        raise ServerError(f"{graph} is missing: {cure}.")
    if sha256(folder / GRAPH).encode() not in graph.read_bytes():  # export writes it into the graph's metadata
        raise ServerError(f"{graph} was made from another {GRAPH} than is there now: {cure}.")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fovea.plan", description="Are the engines fit for this machine?")
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"which of {', '.join(TASKS)} (all)")
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--hardware", choices=MADE_HERE, default="tensorrt")
    options = parser.parse_args()
    return program.run(lambda: report(options))


def report(options: argparse.Namespace) -> int:
    tasks = [task_named(name) for name in options.tasks or TASKS]
    check(options.hardware, tasks, options.repository)
    print(f"Every network of {', '.join(task.name for task in tasks)} is fit for configs/{options.hardware}.pbtxt.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
