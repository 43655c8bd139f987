"""Other ways to serve a task, other ways to ask it, and the same answers from all of them."""

import asyncio
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from conftest import REPOSITORY

from benchmarks import __main__ as program
from benchmarks import results, target, variants
from benchmarks.results import Result
from benchmarks.scenarios import direct, growth, sweep
from benchmarks.wire import Way, Wire
from fovea import repository
from fovea.engines import Pipeline
from fovea.repository import CORES, Hardware
from fovea.server import Server
from fovea.spec import Task
from fovea.tasks import TASKS

Run = Callable[..., int]
every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """`python -m benchmarks …` with its results in `tmp_path`, and few pictures."""
    monkeypatch.setattr(target, "PICTURES", 4)

    def command(*arguments: object) -> int:
        monkeypatch.setattr("sys.argv", ["benchmarks", *map(str, arguments), "--results", str(tmp_path)])
        return program.main()

    return command


@every_task
@pytest.mark.parametrize("hardware", ["cpu", "openvino"])
def test_the_committed_way_is_a_variant_among_others(task: Task, hardware: Hardware) -> None:
    """Else the tuner would compare with something that nobody serves."""
    own = variants.files(variants.committed(task, REPOSITORY, hardware, CORES), task)
    assert own == {name: (REPOSITORY / name).read_text() for name in own}
    assert set(own) > {f"{repository.preprocess_name(task)}/config.pbtxt"}


@every_task
def test_a_variant_changes_its_own_configs_and_links_the_rest(task: Task, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in REPOSITORY.glob("*/configs/*")}
    for variant in variants.engines(task, REPOSITORY, 3):
        folder = variants.write(variant, task, REPOSITORY, tmp_path / variant.name)
        repository.check(task, folder, variant.hardware)
        for network in task.networks:
            text = (folder / network.name / "configs" / f"{variant.hardware}.pbtxt").read_text()
            assert "count: 3" in text
            assert variant.choices[network.name].graph in text
            assert (folder / network.name / "1").is_symlink()
    assert {path: path.read_bytes() for path in REPOSITORY.glob("*/configs/*")} == before


@pytest.mark.parametrize("way", get_args(Way))
def test_a_batch_over_any_wire_is_answered_as_in_process(way: Way, server: Server, photographs: list[bytes]) -> None:
    task = TASKS["retina"]
    expected = Pipeline(task, REPOSITORY, server.hardware).answer(photographs[:3])

    async def ask() -> tuple[dict[str, "np.ndarray[tuple[int, ...], np.dtype[np.generic]]"], list[SharedMemory]]:
        encoded = np.array([[picture] for picture in photographs[:3]], dtype=object)
        async with Wire(way, server.grpc_url, server.http_url) as wire:
            await wire.ask(task.name, {"image": encoded}, task.outputs)
            return await wire.ask(task.name, {"image": encoded}, task.outputs), wire._regions

    found, regions = asyncio.run(ask())
    assert all(np.array_equal(found[tensor.name], expected[tensor.name]) for tensor in task.outputs)
    assert len(regions) == (1 if way == "shared memory" else 0)
    for region in regions:
        with pytest.raises(FileNotFoundError):
            SharedMemory(region.name)


def test_direct_asks_every_network_by_itself(run: Run, server: Server, tmp_path: Path) -> None:
    at = ("--url", server.grpc_url, "--hardware", server.hardware)
    assert run("direct", "retina", *at, "--rounds", 1, "--requests", 4, "--concurrency", 1, 2) == 0
    (result,) = results.load(tmp_path, "direct")
    seen = {(run["network"], run["contender"], run["concurrency"]) for run in result["runs"]}
    assert len(seen) == len(result["runs"]) == 2 * 2 * 2
    assert [row[1] for row in direct.rows(result)] == ["retina_unet", "retina_unet"] + 2 * ["retina_classifier"]


def test_wrong_numbers_are_refused_before_anything_starts(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("sweep", "fundus", "--batch", 9) == 2
    assert "--batch is at most 8" in capsys.readouterr().err
    assert run("sweep", "fundus", "--requests", 0) == 2
    assert run("direct", "fundus", "--rounds", 0) == 2
    assert run("growth", "fundus", "--requests", 0) == 2
    assert run("sweep", "fundus", "--url", "grpc://127.0.0.1:1") == 2
    assert run("growth", "fundus", "--url", "grpc://127.0.0.1:1") == 2


@pytest.mark.slow
def test_a_sweep_measures_every_cell_once_a_round(run: Run, tmp_path: Path) -> None:
    """Its own check is that every cell answers as the same engine does in process, at every batch."""
    assert run("sweep", "retina", "--rounds", 2, "--requests", 4, "--batch", 1, 3, "--concurrency", 1, 2) == 0
    (result,) = results.load(tmp_path, "sweep")
    found = sweep.rates(result)
    assert len(result["runs"]) == 2 * len(found)
    assert {cell.design for cell in found} == set(sweep.DESIGNS)
    assert {cell.way for cell in found} == set(get_args(Way))
    orders = [[(r["variant"], r["design"], r["way"]) for r in result["runs"] if r["round"] == n] for n in (0, 1)]
    assert orders[0] != orders[1]


@pytest.mark.slow
def test_growth_goes_through_all_its_series(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "PICTURES", max(growth.BATCHES))
    monkeypatch.setattr(growth, "SIDES", (64, 2048))
    monkeypatch.setattr(growth, "DISTINCT", 2)
    assert run("growth", "fundus", "--requests", 4) == 0
    (result,) = results.load(tmp_path, "growth")
    series: dict[str, list[Result]] = {}
    for each in result["runs"]:
        series.setdefault(each["series"], []).append(each)
    assert set(series) == set(growth.UNITS)
    memory = [each["pss_mib"] for each in series["tasks"]]
    assert len(memory) == len(TASKS)
    assert memory == sorted(memory)
