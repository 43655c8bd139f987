"""growth: what more costs — larger pictures, larger batches, more clients, more tasks."""

import argparse
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.table import Table

from benchmarks import progress, tables, target
from benchmarks.contenders import InProcess, Served, digest
from benchmarks.load import closed_loop
from benchmarks.processes import footprint
from benchmarks.results import Record, Result
from benchmarks.statistics import percentile
from benchmarks.target import Target
from benchmarks.wire import Wire
from fovea import phantoms
from fovea.client import AsyncClient
from fovea.errors import UsageError
from fovea.server import Server
from fovea.spec import Task
from fovea.tasks import TASKS

SIDES = (256, 512, 1024, 2048, 4096)
BATCHES = (1, 2, 4, 8, 16, 32)
CLIENTS = (1, 2, 4, 8, 16, 32, 64)
IN_FLIGHT = 4
DISTINCT = 8
"""Pictures of each size: 32 of 4096² would take a minute to draw, and the size is what counts here."""

Digests = tuple[str, ...]


def arguments(parser: argparse.ArgumentParser) -> None:
    target.arguments(parser)
    parser.add_argument("--requests", type=int, default=480, help="pictures for each step of a series (480)")


async def measure(task: Task, options: argparse.Namespace) -> Path:
    """Series by series; only the number of tasks needs servers of its own."""
    if options.requests < 1:
        raise UsageError("--requests must be at least 1.")
    if options.url:
        raise UsageError("growth looks at the memory of the server that it starts itself: leave --url out.")
    async with AsyncExitStack() as stack:
        async with target.opened(task, options) as found:
            settings = found.settings() | {
                "requests": options.requests,
                "in_flight": f"{IN_FLIGHT}, but for the series of clients",
                "warm_up_requests": IN_FLIGHT,
                "sizes": f"{DISTINCT} phantoms each, resized and saved as JPEG of quality 90",
                "load": "closed loop over gRPC; client and server share the cores",
            }
            record = stack.enter_context(Record(options.results, "growth", task.name, settings, found.environment()))
            with progress.bar(len(SIDES) + len(BATCHES) + len(CLIENTS) + len(TASKS)) as bar:
                await _sizes(found, options.requests, record, bar)
                await _batches(found, options.requests, record, bar)
                await _clients(found, options.requests, record, bar)
        with progress.bar(len(TASKS)) as bar:
            await _tasks(task, options, record, bar)
    return record.path


async def _sizes(found: Target, requests: int, record: Record, bar: progress.Bar) -> None:
    async with Served(found.task, found.grpc_url) as served:
        for side in SIDES:
            bar.now(f"{found.task.name}: pictures of {side}²")
            pictures = [_resized(picture, side) for picture in found.pictures[:DISTINCT]]
            expected = [await found.limit.ask(picture) for picture in pictures]
            extra = {"kilobytes": round(float(np.mean([len(picture) for picture in pictures])) / 1e3, 1)}
            await _step(record, "side", side, served.ask, pictures, expected, IN_FLIGHT, requests, extra)
            bar.advance()


def _resized(encoded: bytes, side: int) -> bytes:
    picture = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    larger = cv2.resize(picture, (side, side), interpolation=cv2.INTER_CUBIC)
    return bytes(cv2.imencode(".jpg", larger, [cv2.IMWRITE_JPEG_QUALITY, 90])[1])


async def _batches(found: Target, requests: int, record: Record, bar: progress.Bar) -> None:
    """One request at a time with so many pictures in it; more than the configs take at once go as several requests."""
    task = found.task
    async with Wire("gRPC", found.grpc_url, found.http_url) as wire:

        async def ask(batch: tuple[bytes, ...]) -> Digests:
            rows: list[str] = []
            for start in range(0, len(batch), task.max_batch):
                part = batch[start : start + task.max_batch]
                encoded = np.array([[picture] for picture in part], dtype=object)
                answer = await wire.ask(task.name, {"image": encoded}, task.outputs)
                rows += [
                    digest({name: array[row : row + 1] for name, array in answer.items()}) for row in range(len(part))
                ]
            return tuple(rows)

        for batch in BATCHES:
            bar.now(f"{task.name}: {batch} pictures a request")
            starts = range(0, len(found.pictures) - batch + 1, batch)
            batches = [tuple(found.pictures[start : start + batch]) for start in starts]
            expected = [tuple(found.expected[start : start + batch]) for start in starts]
            await _step(record, "batch", batch, ask, batches, expected, 1, max(requests // batch, 1), {})
            bar.advance()


async def _clients(found: Target, requests: int, record: Record, bar: progress.Bar) -> None:
    async with Served(found.task, found.grpc_url) as served:
        for clients in CLIENTS:
            bar.now(f"{found.task.name}: {clients} clients")
            await _step(record, "clients", clients, served.ask, found.pictures, found.expected, clients, requests, {})
            bar.advance()


async def _tasks(task: Task, options: argparse.Namespace, record: Record, bar: progress.Bar) -> None:
    """The task alone, then one more beside it at a time, each warm and otherwise idle."""
    names = [task.name, *(name for name in TASKS if name != task.name)]
    pictures = target.pictures(task)
    for count in range(1, len(names) + 1):
        bar.now(f"{count} tasks loaded")
        with Server(options.repository, names[:count], hardware=options.hardware) as server:
            async with InProcess(task, options.repository, server.hardware) as limit:
                expected = [await limit.ask(picture) for picture in pictures]
            async with AsyncClient(server.grpc_url) as client:
                for name in names[:count]:
                    for seed in range(DISTINCT):
                        await client.ask(name, phantoms.encoded(TASKS[name].modalities[0], seed))
            async with Served(task, server.grpc_url) as served:
                given = (served.ask, pictures, expected, IN_FLIGHT, options.requests)
                await _step(record, "tasks", count, *given, {"pss_mib": footprint(server).pss_mib})
        bar.advance()


async def _step(
    record: Record,
    series: str,
    value: int,
    ask: Callable[[Any], Awaitable[Any]],
    given: Sequence[Any],
    expected: Sequence[Any],
    in_flight: int,
    requests: int,
    extra: dict[str, float],
) -> None:
    await closed_loop(ask, given, expected, in_flight, IN_FLIGHT)
    seconds, latencies = await closed_loop(ask, given, expected, in_flight, requests)
    record.add(
        {
            "series": series,
            "value": value,
            **extra,
            "pictures": requests * (value if series == "batch" else 1),
            "seconds": round(seconds, 6),
            "latencies_ms": [round(latency, 3) for latency in latencies],
        }
    )


UNITS = {"side": "pixels a side", "batch": "pictures a request", "clients": "clients", "tasks": "tasks loaded"}
HEAD = ("task", "what grows", "to", "images/s", "p50 ms", "p99 ms", "memory MiB", "requests")


def table(results: Sequence[Result]) -> Table:
    return tables.table(HEAD, [row for result in results for row in rows(result)], ("what grows",))


def rows(result: Result) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for run in result["runs"]:
        rate = run["pictures"] / run["seconds"]
        p50, p99 = (tables.number(percentile(run["latencies_ms"], p)) for p in (50, 99))
        memory = tables.number(run.get("pss_mib"), 0)
        words = (result["task"], UNITS[run["series"]], str(run["value"]), f"{rate:.1f}", p50, p99, memory)
        found.append((*words, str(len(run["latencies_ms"]))))
    return found
