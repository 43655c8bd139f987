"""Open-loop load: every request is sent at its own instant, whether or not the earlier ones have been answered.

Latency counts from the scheduled instant: what a user waits who does not know that the server is busy. What counts
from the actual send leaves out the time that this process was late, and is shown beside it.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.contenders import Ask
from benchmarks.load import WrongAnswer
from fovea.errors import FoveaError, ServerBusy, ServerTimeout

Outcome = Literal["answered", "wrong", "refused", "timed out", "failed"]


class LoadError(FoveaError):
    """A request of the load failed for another reason than that the server was busy."""


LATE_MS = 1.0
"""A request that is sent so much after its instant counts as late: the timers of one process are finer."""


@dataclass(frozen=True)
class Request:
    """One request; the instants are seconds after the start of the run. `error` is the sentence that came instead."""

    scheduled_s: float
    sent_s: float
    ended_s: float
    outcome: Outcome
    error: str = ""

    @property
    def latency_ms(self) -> float:
        """From the scheduled instant."""
        return 1e3 * (self.ended_s - self.scheduled_s)

    @property
    def service_ms(self) -> float:
        """From the actual send."""
        return 1e3 * (self.ended_s - self.sent_s)

    @property
    def late(self) -> bool:
        return 1e3 * (self.sent_s - self.scheduled_s) > LATE_MS


async def open_loop(
    ask: Ask,
    pictures: Sequence[bytes],
    expected: Sequence[str],
    arrivals_s: Sequence[float],
    enough: Callable[[Request], bool] = lambda request: False,
) -> list[Request]:
    """Send a request at each instant, cycling through the pictures, and wait until the last has ended.

    Nothing more is sent once `enough` says so of a request that has ended, or once one has failed or was answered
    wrongly: then fewer requests come back than there are instants. Time is the event loop's, so that tests can
    simulate it.
    """
    loop = asyncio.get_running_loop()
    ended: dict[int, Request] = {}
    over = False
    started = loop.time()

    async def one(number: int) -> None:
        nonlocal over
        which = number % len(pictures)
        sent = loop.time() - started
        outcome, error = await _outcome(ask(pictures[which]), expected[which])
        request = Request(arrivals_s[number], sent, loop.time() - started, outcome, error)
        ended[number] = request
        over = over or enough(request) or outcome in ("wrong", "failed")

    async with asyncio.TaskGroup() as flying:
        for number, instant in enumerate(arrivals_s):
            await asyncio.sleep(max(0.0, started + instant - loop.time()))
            if over:
                break
            flying.create_task(one(number))
    return [ended[number] for number in sorted(ended)]


async def _outcome(answer: Awaitable[str], expected: str) -> tuple[Outcome, str]:
    try:
        digest = await answer
    except FoveaError as error:
        named = f"{type(error).__name__}: {error}"
        if isinstance(error, ServerBusy):
            return "refused", named
        return ("timed out" if isinstance(error, ServerTimeout) else "failed"), named
    return ("answered", "") if digest == expected else ("wrong", "WrongAnswer: another answer than beforehand")


def demand_answers(requests: Sequence[Request]) -> None:
    """Raise what makes figures worthless: an answer that was wrong, a request that failed. Refused ones are figures.

    Raises:
        WrongAnswer: an answer is not bit for bit the expected one.
        LoadError: the server is gone, or answered with another error than that it is busy.
    """
    for place, request in enumerate(requests, start=1):
        if request.outcome == "wrong":
            raise WrongAnswer(f"Request {place} was answered differently under load: the figures are worthless.")
        if request.outcome == "failed":
            raise LoadError(f"Request {place} of the load failed, and nothing was sent after it. {request.error}")


def counts(requests: Sequence[Request]) -> dict[str, int]:
    """How many ended in each way, and how many were sent late."""
    found = Counter(request.outcome for request in requests)
    return dict(found) | {"sent late": sum(request.late for request in requests)}


def columns(requests: Sequence[Request]) -> dict[str, Any]:
    """The requests as a run stores them: instants in seconds, and what ended otherwise than answered, by position."""
    return {
        "scheduled_s": [round(request.scheduled_s, 6) for request in requests],
        "sent_s": [round(request.sent_s, 6) for request in requests],
        "ended_s": [round(request.ended_s, 6) for request in requests],
        "unanswered": {
            str(place): [request.outcome, request.error]
            for place, request in enumerate(requests)
            if request.outcome != "answered"
        },
    }


def requests_of(run: Mapping[str, Any]) -> list[Request]:
    """The requests of a run that `columns` stored."""
    instants = zip(run["scheduled_s"], run["sent_s"], run["ended_s"], strict=True)
    return [
        Request(*three, *run["unanswered"].get(str(place), ("answered", ""))) for place, three in enumerate(instants)
    ]
