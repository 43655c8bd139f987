"""The ways to get one answer, each behind the same call: encoded picture in, SHA-256 of all outputs out."""

import asyncio
import hashlib
import os
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from fovea.answers import Answer
from fovea.client import AsyncClient
from fovea.engines import Pipeline
from fovea.errors import FoveaError
from fovea.repository import Hardware
from fovea.spec import Task

Ask = Callable[[bytes], Awaitable[str]]
AskTogether = Callable[[tuple[bytes, ...]], Awaitable[tuple[str, ...]]]


def digest(arrays: Mapping[str, "np.ndarray[Any, Any]"]) -> str:
    """SHA-256 over the outputs, by name: answers are compared bit for bit in the very run that is timed."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        total.update(name.encode())
        total.update(np.ascontiguousarray(arrays[name]).tobytes())
    return total.hexdigest()


class InProcess:
    """The limit: the same preprocessing and graphs in this process, a thread a core, all cores for a lone request."""

    def __init__(self, task: Task, repository: Path, hardware: Hardware) -> None:
        self.task, self.repository, self.hardware = task, repository, hardware
        self.cores = len(os.sched_getaffinity(0))
        self._local = threading.local()
        self._marks = bytearray(self.cores)
        self._loading = threading.Lock()
        self._pool = ThreadPoolExecutor(self.cores, initializer=self._load)

    def _load(self) -> None:
        with self._loading:
            self._local.pipeline = Pipeline(self.task, self.repository, self.hardware, self._marks, self.cores)

    def _answer(self, encoded: Sequence[bytes]) -> dict[str, "np.ndarray[Any, Any]"]:
        tensors = self._local.pipeline.answer(encoded)
        return {tensor.name: tensors[tensor.name] for tensor in self.task.outputs}

    async def ask(self, encoded: bytes) -> str:
        return (await self.ask_together((encoded,)))[0]

    async def ask_together(self, encoded: tuple[bytes, ...]) -> tuple[str, ...]:
        found = await asyncio.get_running_loop().run_in_executor(self._pool, self._answer, encoded)
        rows = range(len(encoded))
        return tuple(digest({name: array[row : row + 1] for name, array in found.items()}) for row in rows)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()


class Served:
    """The ensemble, through the project's own client."""

    def __init__(self, task: Task, url: str, timeout_s: float = 60) -> None:
        self.task = task
        self.client = AsyncClient(url, timeout_s)

    async def ask(self, encoded: bytes) -> str:
        return digest(as_arrays(await self.client.ask(self.task, encoded)))

    async def ask_together(self, encoded: tuple[bytes, ...]) -> tuple[str, ...]:
        digests = []
        for outcome in await self.client.ask_together(self.task, encoded):
            if isinstance(outcome, FoveaError):
                raise outcome
            digests.append(digest(as_arrays(outcome)))
        return tuple(digests)

    async def __aenter__(self) -> Self:
        await self.client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.client.close()


def as_arrays(answer: Answer) -> dict[str, "np.ndarray[Any, Any]"]:
    """An answer's tensors with their batch axis again."""
    assert answer.frame is not None
    arrays: dict[str, np.ndarray[Any, Any]] = {"frame": np.array([answer.frame], np.int32)}
    arrays |= {name: mask[None, ..., None] for name, mask in answer.masks.items()}
    if answer.probabilities is not None:
        arrays["probabilities"] = answer.probabilities[None]
    if answer.heatmap is not None:
        arrays["heatmap"] = answer.heatmap[None]
    return arrays
