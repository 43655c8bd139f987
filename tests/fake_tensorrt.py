"""A `tensorrt` package and a CUDA driver without a GPU: they record what is called, and answer through ONNX Runtime.

Two faces, TensorRT 10 and 11, which differ as NVIDIA's migration guide says: 11 has no precision flags, and every
network is strongly typed. A plan is the graph it was built from and its profile; device memory is this process's own.
"""

import ctypes
import importlib.machinery
import json
import types
from collections.abc import Callable
from enum import Enum, IntEnum
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

MAGIC = b"fake plan\n"
DTYPES: dict[int, Any] = {onnx.TensorProto.UINT8: np.uint8, onnx.TensorProto.FLOAT: np.float32}


class Severity(Enum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class CreationFlag(IntEnum):
    STRONGLY_TYPED = 1


class Flags10(Enum):
    FP16, INT8, TF32, REFIT = range(4)


class Flags11(Enum):
    TF32, REFIT = range(2)


class Pool(Enum):
    WORKSPACE = 0


class ILogger:
    Severity = Severity


class IProgressMonitor:
    pass


class Fake:
    """One TensorRT: `calls` in order; what goes wrong is set on it before."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.calls: list[tuple[Any, ...]] = []
        self.refuses_graph = self.refuses_build = self.refuses_timings = False
        self.error = 0.0
        self.during: Callable[[IProgressMonitor], bool] = steps

    def note(self, *call: Any) -> None:
        self.calls.append(call)

    def called(self, name: str) -> list[tuple[Any, ...]]:
        return [call[1:] for call in self.calls if call[0] == name]

    def module(self) -> types.ModuleType:
        made: Any = types.ModuleType("tensorrt")
        made.__spec__ = importlib.machinery.ModuleSpec("tensorrt", None)
        made.__version__ = self.version
        made.ILogger, made.IProgressMonitor = ILogger, IProgressMonitor
        made.NetworkDefinitionCreationFlag = CreationFlag
        made.BuilderFlag = Flags10 if self.version.startswith("10.") else Flags11
        made.MemoryPoolType = Pool
        made.nptype = lambda dtype: dtype
        made.Builder = lambda log: Builder(self, log)
        made.OnnxParser = lambda network, log: Parser(self, network, log)
        made.Runtime = lambda log: Runtime(self, log)
        return made  # type: ignore[no-any-return]


def steps(monitor: Any) -> bool:
    """Two phases, one inside the other, as a build reports them."""
    monitor.phase_start("Building", None, 2)
    monitor.phase_start("Timing", "Building", 3)
    going = all([monitor.step_complete("Timing", step) for step in range(2)])
    monitor.phase_finish("Timing")  # before all its steps, which TensorRT may do
    going &= monitor.step_complete("Building", 0) and monitor.step_complete("Building", 1)
    monitor.phase_finish("Building")
    return bool(going)


class Builder:
    def __init__(self, fake: Fake, log: Any) -> None:
        self.fake, self.log = fake, log

    def create_network(self, flags: int) -> types.SimpleNamespace:
        self.fake.note("create_network", flags)
        return types.SimpleNamespace(graph=b"")

    def create_builder_config(self) -> "Config":
        return Config(self.fake)

    def create_optimization_profile(self) -> "Profile":
        return Profile(self.fake)

    def build_serialized_network(self, network: Any, config: "Config") -> bytes | None:
        self.fake.note("build_serialized_network")
        assert config.timings is not None
        if self.fake.refuses_build:
            self.log.log(Severity.WARNING, "something that does not matter")
            self.log.log(Severity.ERROR, "Could not find any implementation\nfor node Conv_1")
            return None
        if not self.fake.during(config.progress_monitor):
            return None
        config.timings.content += b"+timed"
        return MAGIC + json.dumps(config.profile.shapes).encode() + b"\n" + bytes(network.graph)


class Parser:
    def __init__(self, fake: Fake, network: Any, log: Any) -> None:
        self.fake, self.network, self.num_errors = fake, network, 0

    def parse(self, content: bytes) -> bool:
        self.fake.note("parse", content)
        self.network.graph = content
        self.num_errors = int(self.fake.refuses_graph)
        return not self.fake.refuses_graph

    def get_error(self, place: int) -> types.SimpleNamespace:
        return types.SimpleNamespace(desc=lambda: "Assertion failed:\n  no such operator")


class Profile:
    def __init__(self, fake: Fake) -> None:
        self.fake = fake
        self.shapes: dict[str, list[Any]] = {}

    def set_shape(self, name: str, least: Any, typical: Any, largest: Any) -> None:
        self.fake.note("set_shape", name, least, typical, largest)
        self.shapes[name] = [least, typical, largest]


class Timings:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content


class Config:
    def __init__(self, fake: Fake) -> None:
        self.fake = fake
        self.progress_monitor: Any = None
        self.timings: Timings | None = None
        self.profile = Profile(fake)

    def set_memory_pool_limit(self, pool: Enum, size: int) -> None:
        self.fake.note("set_memory_pool_limit", pool.name, size)

    def set_flag(self, flag: Enum) -> None:
        self.fake.note("set_flag", flag.name)

    def clear_flag(self, flag: Enum) -> None:
        self.fake.note("clear_flag", flag.name)

    def add_optimization_profile(self, profile: Profile) -> int:
        self.fake.note("add_optimization_profile")
        self.profile = profile
        return 0

    def create_timing_cache(self, content: bytes) -> Timings | None:
        self.fake.note("create_timing_cache", content)
        return Timings(content) if content.endswith(b"+timed") or not content else None

    def set_timing_cache(self, timings: Timings, ignore_mismatch: bool) -> bool:
        self.fake.note("set_timing_cache", ignore_mismatch)
        if self.fake.refuses_timings and timings.content:
            return False
        self.timings = timings
        return True

    def get_timing_cache(self) -> Timings | None:
        return self.timings


class Runtime:
    def __init__(self, fake: Fake, log: Any) -> None:
        self.fake, self.log = fake, log

    def deserialize_cuda_engine(self, plan: bytes) -> "Engine | None":
        if plan.startswith(MAGIC):
            return Engine(self.fake, plan)
        self.log.log(Severity.ERROR, "magic tag does not match")
        return None


class Engine:
    def __init__(self, fake: Fake, plan: bytes) -> None:
        _, shapes, graph = plan.split(b"\n", 2)
        self.fake, self.shapes = fake, json.loads(shapes)
        model = onnx.load_from_string(graph)
        self.tensors = {value.name: value.type.tensor_type for value in (*model.graph.input, *model.graph.output)}
        self.reads = model.graph.input[0].name
        self.session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, place: int) -> str:
        return list(self.tensors)[place]

    def get_tensor_dtype(self, name: str) -> Any:
        return DTYPES[self.tensors[name].elem_type]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, *(axis.dim_value for axis in self.tensors[name].shape.dim[1:]))

    def create_execution_context(self) -> "Context":
        return Context(self)


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.addresses: dict[str, int] = {}
        self.shape: tuple[int, ...] = ()

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, largest = self.engine.shapes[name]
        self.shape = tuple(shape)
        self.engine.fake.note("run", shape[0])
        return all(low <= size <= high for low, size, high in zip(least, shape, largest, strict=True))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.shape[0], *self.engine.get_tensor_shape(name)[1:])

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        engine = self.engine
        picture = np.empty(self.shape, np.uint8)
        ctypes.memmove(picture.ctypes.data, self.addresses[engine.reads], picture.nbytes)
        names = [value.name for value in engine.session.get_outputs()]
        for name, answer in zip(names, engine.session.run(names, {engine.reads: picture}), strict=True):
            # Whole levels bear no such error.
            harmed = answer if answer.dtype == np.uint8 else answer + np.float32(engine.fake.error)
            harmed = np.ascontiguousarray(harmed)
            ctypes.memmove(self.addresses[name], harmed.ctypes.data, harmed.nbytes)
        return True


class Driver:
    """libcuda.so.1, as `ctypes.CDLL` would give it; `left` is what was never freed."""

    def __init__(self, refuses: str = "") -> None:
        self.left: dict[int, Any] = {}
        self.refuses = refuses

    def __getitem__(self, name: str) -> Callable[..., int]:
        if name == self.refuses:
            return lambda *_: 2  # CUDA_ERROR_OUT_OF_MEMORY
        known: dict[str, Callable[..., int]] = {
            "cuMemAlloc_v2": self.allocate,
            "cuMemFree_v2": lambda address: self.left.pop(address.value) and 0,
            "cuMemcpyHtoD_v2": lambda to, source, size: 0 * ctypes.memmove(to.value, source, size.value),
            "cuMemcpyDtoH_v2": lambda to, source, size: 0 * ctypes.memmove(to, source.value, size.value),
        }
        return known.get(name, lambda *_: 0)

    def allocate(self, address: Any, size: ctypes.c_size_t) -> int:
        memory = ctypes.create_string_buffer(max(size.value, 1))
        address._obj.value = ctypes.addressof(memory)
        self.left[address._obj.value] = memory
        return 0
