"""Where the time goes inside the server: Triton's own counters of every step, between two moments."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

import tritonclient.grpc.aio as grpc_client
from tritonclient.utils import InferenceServerException

from fovea.transport import translate

PHASES = ("queue", "compute_input", "compute_infer", "compute_output")

SETTLING = 50
"""So often, at most, counters are read until they stand still: somebody else may be asking the server as well."""

Counters = dict[str, Counter[str]]
"""Model → what it has counted since it was loaded: requests, executions, pictures, failures and nanoseconds a phase."""


@dataclass(frozen=True)
class Step:
    """One model between two moments; times in ms of one request, on average. An ensemble itself only has requests.

    Attributes:
        batch: pictures in one execution, on average.
        queue_ms: waiting for an instance.
        input_ms, output_ms: handing the tensors in and out.
        infer_ms: in the backend; for ours that includes the way to the Python process and back.
    """

    requests: int
    failed: int
    executions: int
    batch: float
    queue_ms: float
    input_ms: float
    infer_ms: float
    output_ms: float


@asynccontextmanager
async def counting(url: str, models: Sequence[str]) -> AsyncIterator[dict[str, Any]]:
    """What every model did meanwhile, as a run stores it: the dictionary is filled when the block has ended well.

    `url` is grpc://host:port.

    Raises:
        RequestError: the server cannot be asked.
    """
    steps: dict[str, Any] = {}
    before = await counters(url, models)
    yield steps
    steps.update(between(before, await _settled(url, models)))


async def _settled(url: str, models: Sequence[str]) -> Counters:
    """The counters once they stand still: Triton counts a request only after its answer has gone out."""
    last = await counters(url, models)
    for _ in range(SETTLING):
        await asyncio.sleep(0.01)
        now = await counters(url, models)
        if now == last:
            break
        last = now
    return last


async def counters(url: str, models: Sequence[str]) -> Counters:
    """What the server has counted so far."""
    found: Counters = {}
    async with grpc_client.InferenceServerClient(url.removeprefix("grpc://")) as client:
        for model in models:
            found[model] = Counter()
            try:
                told = await client.get_inference_statistics(model)
            except InferenceServerException as error:
                raise translate(url, model, error.status() or "", error.message() or "") from None
            for version in told.model_stats:  # one, or two while a release is being switched
                found[model].update(_counted(version))
    return found


def _counted(model: Any) -> dict[str, int]:
    stats = model.inference_stats
    return {
        "requests": stats.success.count,
        "failed": stats.fail.count,
        "executions": model.execution_count,
        "pictures": model.inference_count,
    } | {phase: getattr(stats, phase).ns for phase in PHASES}


def between(before: Mapping[str, Mapping[str, int]], after: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """Every model's `Step`, as a dictionary."""
    steps = {}
    for model, now in after.items():
        counted = {name: value - before.get(model, {}).get(name, 0) for name, value in now.items()}
        requests, executions = counted["requests"], counted["executions"]
        times = [round(counted[phase] / 1e6 / requests, 3) if requests else 0.0 for phase in PHASES]
        batch = round(counted["pictures"] / executions, 3) if executions else 0.0
        steps[model] = asdict(Step(requests, counted["failed"], executions, batch, *times))
    return steps
