"""Releases published and rolled back under load: no request fails, and no answer comes of two releases."""

import asyncio
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime as ort
import psutil
import pytest
from small_releases import POINT, Command, graph, publish, repository, told

from fovea import control, releases
from fovea.answers import from_outputs
from fovea.client import AsyncClient
from fovea.errors import FoveaError
from fovea.server import Server
from fovea.tasks import TASKS

RETINA = TASKS["retina"]
CLIENTS = 2
"""On each wire."""
SETTLED_S = 60
GROWTH_BYTES = 64 * 2**20
"""What tritonserver itself may grow by after it has warmed up; one network's stub has more than that."""


class Load:
    """Clients that ask without pause over both wires, and keep what they were answered."""

    def __init__(self, server: Server, photograph: bytes) -> None:
        self.answers: Counter[tuple[str | None, int]] = Counter()
        self.failed: list[str] = []
        self.mixed: list[str] = []
        self.ended = threading.Event()
        self._urls = [server.grpc_url, server.http_url] * CLIENTS
        self._photograph = photograph

    def run(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        await asyncio.gather(*(self._ask(url) for url in self._urls))

    async def _ask(self, url: str) -> None:
        async with AsyncClient(url) as client:
            while not self.ended.is_set():
                try:
                    answer = await client.ask("retina", self._photograph, operating_point=POINT)
                except FoveaError as error:
                    self.failed.append(str(error))
                    continue
                values = told(answer)
                if len(values) == 1:
                    self.answers[answer.release, values.pop()] += 1
                else:
                    self.mixed.append(f"{answer.release}: {values}")


@contextmanager
def loaded(server: Server, photograph: bytes) -> Iterator[Load]:
    load = Load(server, photograph)
    thread = threading.Thread(target=load.run)
    thread.start()
    try:
        yield load
    finally:
        load.ended.set()
        thread.join()


def settled_stubs(server: Server, folder: Path) -> int:
    """The Python processes, once they are those that the kept releases need."""
    deadline = time.monotonic() + SETTLED_S
    needed = {
        step for number in releases.kept(folder, "retina") for step in releases.read(folder, "retina", number).steps
    }
    count = sum(control.instances(server.http_url, step, 10) for step in needed)
    triton = psutil.Process(server.pid)
    while (found := len(triton.children())) != count:
        assert time.monotonic() < deadline, f"{found} Python processes, {count} are needed"
        psutil.wait_procs(triton.children(), timeout=0.1)
    return count


def regions(server: Server) -> int:
    """Of shared memory."""
    return len(list(Path("/dev/shm").glob(f"{server.log.parent.name}*")))


def test_an_answer_that_comes_of_two_releases_would_be_seen() -> None:
    unet, classifier = RETINA.networks
    first = ort.InferenceSession(graph(RETINA, unet, 1), providers=["CPUExecutionProvider"])
    second = ort.InferenceSession(graph(RETINA, classifier, 2), providers=["CPUExecutionProvider"])
    vessels, onward = first.run(["vessels", "vessels_onward"], {"image": np.zeros((1, 512, 512, 3), np.uint8)})
    probabilities, heatmap = second.run(["probabilities", "heatmap"], {"vessels": onward})
    whole = {"vessels": vessels, "probabilities": probabilities, "heatmap": heatmap}
    assert told(from_outputs(RETINA, whole)) == {1, 2}
    assert told(from_outputs(RETINA, {**whole, "vessels": vessels + 1})) == {1, 2}
    assert told(from_outputs(RETINA, whole, operating_point=(POINT, 3 / 256))) == {1, 2, 3}


@pytest.mark.parametrize(
    "cycles", [4, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])], ids=lambda n: f"{n} cycles"
)
def test_publishing_and_rolling_back_under_load_fails_no_request_and_mixes_no_answer(
    cycles: int, export: Command, tmp_path: Path, photograph: bytes
) -> None:
    """The first release stays; the second and the third are published, loaded anew, and taken back by turns."""
    folder = tmp_path / "releases"
    sources = [repository(tmp_path / f"r{value}", RETINA, value) for value in (1, 2, 3)]
    numbers = {publish(export, folder, sources[0], RETINA): 1}
    switches, roll_backs = [], []
    with Server(folder, released=True) as server, loaded(server, photograph) as load:
        triton = psutil.Process(server.pid)
        for cycle in range(cycles):
            value = 2 + cycle % 2
            started = time.monotonic()
            numbers[publish(export, folder, sources[value - 1], RETINA)] = value
            switches.append(time.monotonic() - started)
            wait_for(load, value)
            started = time.monotonic()
            assert export("rollback", "retina", "--releases", folder)[0] == 0
            roll_backs.append(time.monotonic() - started)
            wait_for(load, 1)
            server.check()
            if cycle == min(cycles // 2, 10):
                before = settled_stubs(server, folder), regions(server), triton.memory_info().rss
        after = settled_stubs(server, folder), regions(server), triton.memory_info().rss
    print(
        f"{cycles} cycles, {sum(load.answers.values())} answers, {len(load.failed)} failed, {len(load.mixed)} mixed; "
        f"at most {max(switches):.2f} s for publishing, {max(roll_backs):.2f} s for rolling back; "
        f"processes, regions, bytes {before} → {after}",
        file=sys.stderr,
    )
    assert load.failed == []
    assert load.mixed == []
    assert set(load.answers) == {(number, value) for number, value in numbers.items()}
    assert max(roll_backs) < 5
    assert after[:2] == before[:2]
    assert after[2] < before[2] + GROWTH_BYTES


def wait_for(load: Load, value: int) -> None:
    """Until another answer of that release has come."""

    def count() -> int:
        return sum(number for (_, told_value), number in load.answers.items() if told_value == value)

    deadline, before = time.monotonic() + SETTLED_S, count()
    while count() == before:
        assert time.monotonic() < deadline, load.failed[-1:]
        load.ended.wait(0.01)
