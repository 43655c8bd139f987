"""All that calls TensorRT. Imported only where TensorRT is: `export.tensorrt` looks first.

The calls are those that TensorRT 10 and 11 share: none is among the removed ones of
https://docs.nvidia.com/deeplearning/tensorrt/latest/api/migration/tensorrt-10x-to-11x-python-api-reference.html.
Networks are strongly typed: in 10 because the flag says so, in 11 always; there the flag is accepted and means nothing
(NVIDIA's own trt-strong-typing-migration, https://www.skills.sh/nvidia/tensorrt/trt-strong-typing-migration).
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorrt as trt

from export.cuda import Device
from fovea.errors import ExportError

Phases = dict[str, tuple[int, int]]
"""Name → (steps done, of how many), for every phase of a build that is under way."""
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Built:
    """An engine, the timings measured for it and before, and whether those given were of no use."""

    plan: bytes = field(repr=False)
    timings: bytes = field(repr=False)
    discarded: bool


class _Log(trt.ILogger):  # type: ignore[misc]
    """Errors, to be told as the reason; the rest is talk."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: list[str] = []

    def log(self, severity: object, message: str) -> None:
        if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
            self.errors.append(" ".join(message.split()))

    @property
    def reason(self) -> str:
        return self.errors[0][:300] if self.errors else "it gave no reason"


class _Monitor(trt.IProgressMonitor):  # type: ignore[misc]
    """Notes what is done, from whichever thread calls, and says whether to go on; others draw it.

    Drawing here made builds much longer and their engines slower: https://github.com/pytorch/TensorRT/issues/3215.
    """

    def __init__(self, phases: Phases, stop: threading.Event) -> None:
        trt.IProgressMonitor.__init__(self)
        self._phases, self._stop = phases, stop

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        self._phases[phase_name] = (0, num_steps)

    def step_complete(self, phase_name: str, step: int) -> bool:
        _, steps = self._phases.get(phase_name, (0, 0))
        self._phases[phase_name] = (step + 1, steps)
        return not self._stop.is_set()

    def phase_finish(self, phase_name: str) -> None:
        self._phases.pop(phase_name, None)


def version() -> str:
    return str(trt.__version__)


def build(
    graph: bytes,
    reads: str,
    profile: Sequence[Sequence[int]],
    settings: Mapping[str, int | bool],
    timings: bytes,
    phases: Phases,
    stop: threading.Event,
) -> Built | None:
    """An engine of `graph` for inputs of three shapes, least, typical and largest; None if `stop` was set meanwhile.

    Raises:
        ExportError: TensorRT cannot take the graph or cannot build it.
    """
    log = _Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(graph):
        said = parser.get_error(0).desc() if parser.num_errors else log.reason
        raise ExportError(f"TensorRT {version()} cannot take the graph: {' '.join(said.split())[:300]}.")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings["workspace_bytes"])
    if not settings["tf32"]:
        # On by default: float32 would be multiplied with 10 bits of mantissa, and fp32 be none.
        config.clear_flag(trt.BuilderFlag.TF32)
    shapes = builder.create_optimization_profile()
    shapes.set_shape(reads, *map(tuple, profile))
    config.add_optimization_profile(shapes)
    discarded = not _take(config, timings)
    if discarded:
        _take(config, b"")
    monitor = _Monitor(phases, stop)  # must outlive the build
    config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        if stop.is_set():
            return None
        raise ExportError(f"TensorRT {version()} could not build the engine: {log.reason}.")
    return Built(bytes(plan), bytes(config.get_timing_cache().serialize()), discarded)


def _take(config: Any, timings: bytes) -> bool:
    """Start from these timings; False if they are damaged, or of another GPU or TensorRT."""
    cache = config.create_timing_cache(timings)
    return cache is not None and bool(config.set_timing_cache(cache, ignore_mismatch=False))


class Engine:
    """A deserialised engine on the GPU; `run` takes any batch of its profile."""

    def __init__(self, plan: bytes) -> None:
        self._log = _Log()
        self._runtime = trt.Runtime(self._log)  # must outlive the engine
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise ExportError(f"TensorRT {version()} cannot read the engine it built: {self._log.reason}.")
        self._context = self._engine.create_execution_context()
        self._names = [self._engine.get_tensor_name(place) for place in range(self._engine.num_io_tensors)]

    def tensors(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Name → (numpy's name of the type, shape without the batch), of inputs and outputs."""
        return {name: (self._dtype(name).name, tuple(self._engine.get_tensor_shape(name))[1:]) for name in self._names}

    def _dtype(self, name: str) -> np.dtype[Any]:
        return np.dtype(trt.nptype(self._engine.get_tensor_dtype(name)))

    def run(self, reads: str, batch: npt.NDArray[np.uint8]) -> Arrays:
        """Every output, for a batch uint8 `[batch, height, width, channels]`."""
        if not self._context.set_input_shape(reads, batch.shape):
            raise ExportError(f"The engine does not take a batch of {len(batch)}: {self._log.reason}.")
        with Device() as device:
            answers: Arrays = {}
            addresses = {reads: device.upload(batch)}
            for name in self._names:
                if name != reads:
                    answers[name] = np.empty(tuple(self._context.get_tensor_shape(name)), self._dtype(name))
                    addresses[name] = device.allocate(answers[name].nbytes)
                self._context.set_tensor_address(name, addresses[name])
            if not self._context.execute_async_v3(device.stream):
                raise ExportError(f"The engine did not run on a batch of {len(batch)}: {self._log.reason}.")
            for name, answer in answers.items():
                device.download(addresses[name], answer)
        return answers
