"""`--to tensorrt`: an engine for every network of a task, built here, judged here, placed all together.

Engines are kept in `STORE` as `<network>-<sm>-<TensorRT version>-<hash of the graph>.plan`, each with its note, and
taken from there while they fit; timings, which make the next build shorter, in one file for each GPU and TensorRT.
`--to onnxruntime_tensorrt` writes the graphs from which ONNX Runtime, or trtexec, builds engines elsewhere.
"""

import argparse
import hashlib
import importlib.util
import os
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from export import parity, pictures, tensorrt_graph, tensorrt_parity
from export.tensorrt_graph import Source
from fovea import plan
from fovea.errors import ExportError, ServerError
from fovea.plan import Gpu, Plan
from fovea.repository import WORKSPACE
from fovea.spec import Network, Task, Tensor

if TYPE_CHECKING:
    from export.tensorrt_engine import Phases

MESSAGES = Console(stderr=True, highlight=False, soft_wrap=True)
STORE = Path("out/tensorrt")
SETTINGS: dict[str, int | bool] = {"workspace_bytes": WORKSPACE, "tf32": False, "strongly_typed": True}
REDRAW_S = 0.5
Stack = npt.NDArray[np.uint8]
T = TypeVar("T")


@dataclass(frozen=True)
class Machine:
    gpu: Gpu
    tensorrt: str

    @property
    def sm(self) -> str:
        return f"sm{self.gpu.capability.replace('.', '')}"

    def engine(self, network: Network, source: Source) -> Path:
        return STORE / f"{network.name}-{self.sm}-{self.tensorrt}-{source.digest[:12]}.plan"

    @property
    def timings(self) -> Path:
        name = re.sub(r"\W+", "-", self.gpu.name).strip("-").lower()
        return STORE / f"{self.sm}-{name}-{self.tensorrt}.timings"


def machine() -> Machine:
    """The GPU and the TensorRT of this machine.

    Raises:
        ExportError: one of them is missing; nothing was changed.
    """
    if importlib.util.find_spec("tensorrt") is None:
        raise ExportError(
            "TensorRT is not installed here, so nothing was built and nothing was changed: install NVIDIA's Python "
            "package tensorrt, 10 or 11, or export inside NVIDIA's TensorRT container (docs/tensorrt.md)."
        )
    try:
        gpu = plan.gpu()
    except ServerError as error:
        raise ExportError(f"{error} An engine is built on the GPU that serves it; nothing was changed.") from None
    from export import tensorrt_engine  # TensorRT itself, which few machines have

    return Machine(gpu, tensorrt_engine.version())


def graphs(task: Task, options: argparse.Namespace) -> dict[str, bytes]:
    """`1/model.tensorrt.onnx` of every network, by path below the repository; any machine can do it."""
    return {
        f"{network.name}/1/{plan.TENSORRT_GRAPH}": tensorrt_graph.stamped(
            tensorrt_graph.source(task, network, options.repository, options.precision)
        )
        for network in task.networks
    }


def engines(task: Task, options: argparse.Namespace) -> dict[str, bytes]:
    """`1/model.plan` and its note, of every network, by path below the repository.

    Raises:
        ExportError: TensorRT or a GPU is missing, a graph cannot be had or built, or there is no room to keep engines.
        ParityError: an engine answers otherwise than ONNX Runtime.
    """
    here = machine()
    sources = [tensorrt_graph.source(task, network, options.repository, options.precision) for network in task.networks]
    seen = {"image": pictures.stacks(task, options.pictures)}
    files: dict[str, bytes] = {}
    for network, source in zip(task.networks, sources, strict=True):
        content, note = _kept(here, network, source) or _built(here, task, network, source)
        judged = _judged(task, network, source, content, seen[network.reads])
        note = replace(note, parity=tensorrt_parity.notes(judged))
        _keep({here.engine(network, source): content, _note(here.engine(network, source)): note.to_json()})
        files[f"{network.name}/1/{plan.FILE}"], files[f"{network.name}/1/{plan.NOTE}"] = content, note.to_json()
        for mask in network.masks:  # what the next network is shown, as fp32 answers it
            probe = parity.session(source.reference)
            seen[mask.name] = {
                name: np.concatenate([probe.run([mask.name], {network.reads: row[None]})[0] for row in stack])
                for name, stack in seen[network.reads].items()
            }
    return files


def _note(engine: Path) -> Path:
    return engine.with_suffix(".plan.json")


def _kept(here: Machine, network: Network, source: Source) -> tuple[bytes, Plan] | None:
    """The engine in the store, if it is whole and was built as it would be built now."""
    engine = here.engine(network, source)
    if not engine.exists() or not _note(engine).exists():
        return None
    content = engine.read_bytes()
    try:
        note = plan.read(_note(engine))
    except ValueError:
        note = None
    if note is None or note.sha256 != hashlib.sha256(content).hexdigest():
        MESSAGES.print(f"{engine} is damaged and was discarded; it is built anew.")
        return None
    if (note.graphs, note.profile, note.settings) != (dict(source.graphs), network.batches, SETTINGS):
        return None
    MESSAGES.print(f"{network.name}: {engine} fits and is taken.")
    return content, note


def _built(here: Machine, task: Task, network: Network, source: Source) -> tuple[bytes, Plan]:
    from export import tensorrt_engine

    timings = here.timings.read_bytes() if here.timings.exists() else b""
    MESSAGES.print(f"{network.name}: building for {here.gpu} with TensorRT {here.tensorrt}; Ctrl-C stops it.")

    def work(phases: "Phases", stop: threading.Event) -> "tensorrt_engine.Built | None":
        profile = task.profile(network)
        return tensorrt_engine.build(source.content, network.reads, profile, SETTINGS, timings, phases, stop)

    try:
        built = _watched(work)
    except ExportError as error:
        raise ExportError(f"{network.name}: {error} Nothing was changed.") from None
    assert built is not None  # only a build that was told to stop has none, and then Ctrl-C goes on its way
    if built.discarded:
        MESSAGES.print(f"{here.timings} was damaged, or of another GPU or TensorRT, and was discarded.")
    _keep({here.timings: built.timings})
    return built.plan, Plan(
        network=network.name,
        precision=source.precision,
        capability=here.gpu.capability,
        gpu=here.gpu.name,
        tensorrt=here.tensorrt,
        graphs=dict(source.graphs),
        profile=network.batches,
        settings=SETTINGS,
        sha256=hashlib.sha256(built.plan).hexdigest(),
        size_bytes=len(built.plan),
        built=datetime.now(UTC).isoformat(timespec="seconds"),
        built_by="python -m export",
        parity=[],
    )


def _watched(work: "Callable[[Phases, threading.Event], T]") -> T:
    """`work` in a thread of its own, its phases on the terminal; Ctrl-C lets it end at its next step.

    In a thread, because Python sees Ctrl-C in the main one only, which must then not be waiting inside TensorRT.
    """
    phases: Phases = {}
    stop = threading.Event()
    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with ThreadPoolExecutor(1) as thread:  # which waits at its end, so that `stop` must be set before
        try:
            running = thread.submit(work, phases, stop)
            with Progress(*columns, console=MESSAGES, auto_refresh=False, transient=True) as drawn:
                bars: dict[str, TaskID] = {}
                while wait([running], REDRAW_S).not_done:
                    _draw(drawn, bars, list(phases.items()))
        except KeyboardInterrupt:
            MESSAGES.print("Stopping TensorRT at its next step.")
            raise
        finally:
            stop.set()
    return running.result()


def _draw(drawn: Progress, bars: dict[str, TaskID], phases: Sequence[tuple[str, tuple[int, int]]]) -> None:
    """One bar for each phase that is under way, the outer ones first."""
    for name in set(bars) - {name for name, _ in phases}:
        drawn.remove_task(bars.pop(name))
    for name, (done, steps) in phases:
        if name not in bars:
            bars[name] = drawn.add_task(name, total=steps)
        drawn.update(bars[name], completed=done)
    drawn.refresh()


def _judged(
    task: Task, network: Network, source: Source, content: bytes, seen: dict[str, Stack]
) -> list[tensorrt_parity.Judged]:
    """The engine's tensors, then its answers, against what the task declares and ONNX Runtime answers."""
    from export import tensorrt_engine

    engine = tensorrt_engine.Engine(content)
    kinds = {"UINT8": "uint8", "FP32": "float32", "INT32": "int32"}
    tensors = (Tensor(network.reads, "UINT8", task.input_shape(network)), *task.graph_outputs(network))
    declared = {tensor.name: (kinds[tensor.dtype], tensor.shape) for tensor in tensors}
    if engine.tensors() != declared:
        raise ExportError(f"{network.name}: the engine has {engine.tensors()}, and the task declares {declared}.")
    with MESSAGES.status(f"{network.name}: measuring parity"):
        judged = tensorrt_parity.measure(
            network, source.precision, source.reference, lambda batch: engine.run(network.reads, batch), seen
        )
    Console().print(tensorrt_parity.table(judged))
    tensorrt_parity.enforce(judged)
    return judged


def _keep(files: dict[Path, bytes]) -> None:
    """Into the store, each file whole or not at all.

    Raises:
        ExportError: no room, or no permission.
    """
    for path, content in files.items():
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(content)
            os.replace(part, path)
        except OSError as error:
            with suppress(OSError):
                part.unlink()
            raise ExportError(
                f"{path} cannot be written ({error.strerror}): make room there; the repository is as it was."
            ) from None
