"""Closed-loop load: so many requests in flight, each answer checked, the next sent when one returns."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from fovea.errors import FoveaError

Given = TypeVar("Given")
Digest = TypeVar("Digest")


class WrongAnswer(FoveaError):
    """An answer under load differs from the one computed beforehand."""


async def closed_loop(
    ask: Callable[[Given], Awaitable[Digest]],
    pictures: Sequence[Given],
    expected: Sequence[Digest],
    concurrency: int,
    count: int,
) -> tuple[float, list[float]]:
    """Send `count` requests, `concurrency` at a time, cycling through the pictures.

    Returns:
        Seconds from the first request to the last answer, and each latency in ms in the order of sending.

    Raises:
        WrongAnswer: an answer is not bit for bit the expected one.
    """
    latencies = [0.0] * count
    numbers = iter(range(count))

    async def caller() -> None:
        for number in numbers:
            which = number % len(pictures)
            sent = time.perf_counter()
            answer = await ask(pictures[which])
            latencies[number] = 1e3 * (time.perf_counter() - sent)
            if answer != expected[which]:
                raise WrongAnswer(f"Picture {which} was answered differently under load: the figures are worthless.")

    started = time.perf_counter()
    try:
        async with asyncio.TaskGroup() as callers:
            for _ in range(min(concurrency, count)):
                callers.create_task(caller())
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return time.perf_counter() - started, latencies
