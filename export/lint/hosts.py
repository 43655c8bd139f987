"""What a model asks of the machine that serves it.

Measured on a CPU: threads beyond the cores only wait for one another; a dynamic batch joins queued requests on one
instance, leaves a core idle, and doubles the 95th percentile and the memory.
"""

from collections.abc import Iterator
from typing import Any

from tritonclient.grpc import model_config_pb2 as pb

from export.lint.configs import threads
from export.lint.finding import Finding
from export.lint.models import Config, Model

INTRA = "intra_op_thread_count"
ONNX_INSTANCES = 2
"""What Triton starts of an ONNX model on a CPU where `count` is left out (SetDefaultInstanceCount)."""


def check(model: Model, config: Config, cores: int) -> Iterator[Finding]:
    if model.backend(config) != "onnxruntime":
        return
    message = config.message
    instances = sum(_count(group) for group in message.instance_group)
    shared = _parameter(message, "share_session_between_instances").lower() in ("1", "true")
    sessions = min(instances, len(message.instance_group)) if shared else instances
    asked = threads(_parameter(message, INTRA) or "0")
    place = f'parameters["{INTRA}"]' if INTRA in message.parameters else "instance_group"
    if asked and sessions * asked > cores:
        said = f"{sessions} instances × {asked} threads = {sessions * asked}, more than cores ({cores})."
        cure = f"Make it {cores} together, such as count: {max(cores // asked, 1)}; --cores N judges another machine."
        yield config.finding("threads", place, said, cure)
    if asked == 0 and sessions > 1 and cores > 1:
        said = f"{sessions} instances take {cores} threads each, for {INTRA} is not set: they wait for one another."
        cure = f'Write parameters {{ key: "{INTRA}" value {{ string_value: "{max(cores // sessions, 1)}" }} }}.'
        yield config.finding("threads-unset", place, said, cure)
    if message.HasField("dynamic_batching") and instances:
        said = "On a CPU a dynamic batch joins requests on one instance while other cores idle, and slows them."
        cure = "Take dynamic_batching out here, and keep it in the GPU's variant."
        yield config.finding("cpu-batching", "dynamic_batching", said, cure)


def _count(group: Any) -> int:
    """Instances on the CPU; what is left to Triton (KIND_AUTO) depends on the machine, and is not counted."""
    return (group.count or ONNX_INSTANCES) if group.kind == pb.ModelInstanceGroup.KIND_CPU else 0


def _parameter(message: Any, name: str) -> str:
    return str(message.parameters[name].string_value) if name in message.parameters else ""
