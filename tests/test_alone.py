"""All cores for a lone request, its own share under load, and the same answer from both."""

import multiprocessing
import os
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY

from fovea import alone, engines
from fovea.alone import COMPUTING, FREE, IDLE, LONE, PLACES, VARIABLE, Elastic, Mark
from fovea.repository import Hardware, graph_path, hint
from fovea.spec import Network, Task
from fovea.tasks import TASKS

NETWORKS = [(task, network) for task in TASKS.values() for network in task.networks]


@pytest.fixture
def marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "marks"
    file.write_bytes(bytes(PLACES))
    monkeypatch.setenv(VARIABLE, str(file))
    return file


def test_whoever_computes_by_itself_is_alone() -> None:
    shared = bytearray(3)
    first, second = Mark(shared), Mark(shared)
    assert not first.alone
    with first:
        assert first.alone
        with second:
            assert not first.alone
            assert not second.alone
        assert first.alone
    assert bytes(shared) == IDLE + IDLE + FREE


def test_one_more_than_there_are_places_is_never_alone() -> None:
    shared = bytearray(1)
    Mark(shared)
    late = Mark(shared)
    with late:
        assert not late.alone
    assert bytes(shared) == IDLE


def test_a_place_that_was_left_is_taken_again() -> None:
    shared = bytearray(1)
    Mark(shared).leave()
    with Mark(shared) as mark:
        assert mark.alone


def test_without_a_servers_file_nobody_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with alone.claim() as mark:
        assert not mark.alone


def _compute(file: str, told: Connection) -> None:
    os.environ[VARIABLE] = file
    with alone.claim():
        told.send("computing")
        told.recv()
    told.send("done")
    told.recv()


def test_processes_see_one_another(marks: Path) -> None:
    ours, theirs = multiprocessing.Pipe()
    other = multiprocessing.get_context("spawn").Process(target=_compute, args=(str(marks), theirs))
    with alone.claim() as mark:
        assert mark.alone
        other.start()
        assert ours.recv() == "computing"
        assert not mark.alone
        ours.send("stop")
        assert ours.recv() == "done"
        assert mark.alone
    ours.send("end")
    other.join()
    assert marks.read_bytes()[:3] == IDLE + IDLE + FREE


def test_a_lone_request_gets_the_wide_engine_and_no_other_does() -> None:
    shared = bytearray(2)
    mark, other = Mark(shared), Mark(shared)
    elastic = Elastic(mark, 1, 4, make=lambda threads: threads, probe=lambda engine: b"same")
    assert elastic.wait()
    with mark:
        assert [elastic.engine for _ in range(LONE + 2)] == [1] * LONE + [4, 4]
        with other:
            assert elastic.engine == 1
        assert [elastic.engine for _ in range(LONE + 1)] == [1] * LONE + [4]
    assert elastic.engine == 1


def test_an_engine_that_answers_otherwise_on_all_cores_is_never_used() -> None:
    mark = Mark(bytearray(1))
    elastic = Elastic(mark, 1, 4, make=lambda threads: threads, probe=lambda engine: bytes([engine]))
    assert not elastic.wait()
    with mark:
        assert [elastic.engine for _ in range(LONE + 2)] == [1] * (LONE + 2)


def test_the_wide_engine_is_made_only_for_what_is_asked_alone() -> None:
    mark = Mark(bytearray(1))
    elastic = Elastic(mark, 1, 4, make=lambda threads: threads, probe=lambda engine: b"same")
    with mark:
        assert [elastic.engine for _ in range(LONE)] == [1] * LONE
        assert elastic._making is None
        assert elastic.engine in (1, 4)
        elastic.close()
        assert elastic.engine == 4


def test_on_one_core_there_is_one_engine() -> None:
    made: list[int] = []
    elastic = Elastic(Mark(bytearray(1)), 1, 1, make=made.append, probe=lambda engine: b"")
    assert not elastic.wait()
    assert made == [1]


@pytest.mark.parametrize("hardware", ["cpu", "openvino"])
@pytest.mark.parametrize(("task", "network"), NETWORKS, ids=[network.name for _, network in NETWORKS])
def test_every_network_answers_alike_on_one_thread_and_on_several(
    task: Task, network: Network, hardware: Hardware
) -> None:
    graph, arithmetic = graph_path(REPOSITORY, network, hardware).read_bytes(), hint(REPOSITORY, network, hardware)
    narrow, wide = (engines.engine(hardware, graph, arithmetic, network.reads, threads) for threads in (1, 3))
    shape = task.input_shape(network)
    pictures = [alone.noise((1, *shape)), np.zeros((1, *shape), np.uint8)]
    pictures += [np.repeat(np.linspace(0, 255, shape[0]).astype(np.uint8), shape[1] * shape[2]).reshape(1, *shape)]
    for picture in pictures:
        expected, found = narrow(picture), wide(picture)
        assert all(np.array_equal(expected[name], found[name]) for name in expected)


def test_what_computes_is_marked_in_the_servers_file(marks: Path) -> None:
    with alone.claim():
        assert marks.read_bytes()[:1] == COMPUTING
    assert marks.read_bytes()[:1] == IDLE
