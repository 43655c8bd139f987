"""The benchmark's own honesty: it counts what was sent, checks what came back, and says no more than samples allow."""

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY

from benchmarks import environment, results
from benchmarks.contenders import InProcess, Served, digest
from benchmarks.load import WrongAnswer, closed_loop
from benchmarks.scenarios import multi
from benchmarks.statistics import SAMPLES_NEEDED, median_interval, percentile
from fovea.errors import UsageError
from fovea.repository import fused_name
from fovea.server import Server
from fovea.tasks import TASKS


@pytest.mark.parametrize(("p", "needed"), [(90, 44), (95, 90), (99, 459)])
def test_a_percentile_needs_so_many_samples_that_one_probably_lies_above_it(p: int, needed: int) -> None:
    assert SAMPLES_NEEDED[p] == needed
    assert (p / 100) ** needed <= 0.01 < (p / 100) ** (needed - 1)
    assert percentile([1.0] * (needed - 1), p) is None
    assert percentile([1.0] * needed, p) == 1.0


def test_a_median_interval_holds_the_median_and_grows_with_the_spread() -> None:
    median, low, high = median_interval([1, 2, 3, 4, 100])
    assert (median, low >= 1, high <= 100) == (3, True, True)
    assert low < median < high
    _, low, high = median_interval([3, 3, 3, 3, 3])
    assert (low, high) == (3, 3)


def test_every_request_is_sent_once_and_never_more_than_allowed_at_a_time() -> None:
    flying, most, seen = 0, 0, []

    async def ask(picture: bytes) -> str:
        nonlocal flying, most
        flying += 1
        most = max(most, flying)
        await asyncio.sleep(0)
        flying -= 1
        seen.append(picture)
        return picture.decode()

    seconds, latencies = asyncio.run(closed_loop(ask, [b"a", b"b", b"c"], ["a", "b", "c"], 4, 20))
    assert most == 4
    assert sorted(seen) == sorted([b"a", b"b", b"c"] * 6 + [b"a", b"b"])
    assert len(latencies) == 20
    assert 0 < max(latencies) <= 1e3 * seconds


def test_one_wrong_answer_ends_the_measurement() -> None:
    async def ask(picture: bytes) -> str:
        return "right" if picture == b"a" else "wrong"

    with pytest.raises(WrongAnswer, match="Picture 1"):
        asyncio.run(closed_loop(ask, [b"a", b"b"], ["right", "right"], 2, 8))


def test_the_digest_sees_a_single_changed_bit() -> None:
    arrays = {"x": np.zeros(4, np.float32)}
    changed = {"x": np.array([0, 0, 0, np.float32(1e-45)], np.float32)}
    assert digest(arrays) != digest(changed)


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_all_ways_give_the_same_digest(task: object, server: Server, photographs: list[bytes]) -> None:
    async def digests() -> list[set[str]]:
        async with (
            InProcess(task, REPOSITORY, server.hardware) as limit,  # type: ignore[arg-type]
            Served(task, server.grpc_url) as grpc,  # type: ignore[arg-type]
            Served(task, server.http_url) as http,  # type: ignore[arg-type]
        ):
            return [{await way.ask(picture) for way in (limit, grpc, http)} for picture in photographs[:3]]

    assert [len(found) for found in asyncio.run(digests())] == [1, 1, 1]


def test_the_environment_names_the_machine_and_every_measured_file() -> None:
    found = environment.describe(REPOSITORY, TASKS["retina"], "cpu")
    assert found["cores"] >= 1
    assert found["packages"]["onnxruntime"]
    assert {"retina/config.pbtxt", "retina_unet/configs/cpu.pbtxt"} <= set(found["sha256"])
    assert any(name.startswith("retina_unet/1/model") for name in found["sha256"])
    assert json.dumps(found)


def test_results_of_another_schema_or_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="benchmarks multi"):
        results.load(tmp_path, "multi")
    (tmp_path / "multi").mkdir()
    (tmp_path / "multi" / "x.json").write_text('{"schema": 99}')
    with pytest.raises(UsageError, match="schema 99"):
        results.load(tmp_path, "multi")


def test_committed_results_are_complete_and_answer_for_the_committed_graphs() -> None:
    for result in results.load(results.FOLDER, "multi"):
        task = TASKS[result["task"]]
        fused = {"gRPC, fused"} if (REPOSITORY / fused_name(task)).is_dir() else set()
        assert {run["contender"] for run in result["runs"]} == {"in process", "gRPC", "HTTP"} | fused
        assert {1, 2, 4} <= {run["concurrency"] for run in result["runs"]}
        now = environment.describe(REPOSITORY, task, result["settings"]["hardware"])["sha256"]
        assert result["environment"]["sha256"] == now, "the networks or configs changed: make bench"


@pytest.mark.xfail(
    strict=True, reason="0.89: in process became faster by more than the server did; see docs/benchmarks.md"
)
def test_retina_over_grpc_reaches_nine_tenths_of_in_process() -> None:
    """The committed measurement, each at the concurrency that is best for it. `fundus` does not: see the README."""
    best = _best()
    assert best["gRPC"] >= 0.9 * best["in process"]


def test_a_picture_over_grpc_costs_at_most_five_milliseconds_more_of_the_cores_than_in_process() -> None:
    best, cores = _best(), results.load(results.FOLDER, "multi")[0]["environment"]["cores"]
    assert 1e3 * cores * (1 / best["gRPC"] - 1 / best["in process"]) <= 5
    assert 1e3 * cores * (1 / best["gRPC, fused"] - 1 / best["in process"]) <= 4.5


def _best() -> dict[str, float]:
    """Images per second of `retina` for every way, at the concurrency that is best for it."""
    found = {result["task"]: result for result in results.load(results.FOLDER, "multi")}
    return {each.contender: each.images_per_s for each in multi.best(found["retina"])}
