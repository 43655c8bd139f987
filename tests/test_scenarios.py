"""Scenarios on a real server: what they write, what they demand, and what they say when something is wrong."""

import asyncio
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest
import tritonclient.grpc
from conftest import REPOSITORY, ROOT

from benchmarks import __main__ as program
from benchmarks import perf_analyzer, target, triton
from benchmarks.contenders import InProcess, Served
from benchmarks.load import closed_loop
from benchmarks.open_loop import Request, columns, requests_of
from benchmarks.processes import footprint
from benchmarks.scenarios import coldstart, overload, soak
from benchmarks.scenarios import server as search
from fovea import phantoms
from fovea.errors import ServerError
from fovea.server import Server
from fovea.tasks import TASKS

Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """`python -m benchmarks …` with its results in `tmp_path`, and few pictures: figures are not what counts here."""
    monkeypatch.setattr(target, "PICTURES", 3)

    def command(*arguments: object) -> int:
        monkeypatch.setattr("sys.argv", ["benchmarks", *map(str, arguments), "--results", str(tmp_path)])
        try:
            return program.main()
        except SystemExit as ended:
            return int(ended.code or 0)

    return command


def kept(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_single_offline_and_server_keep_every_sample_and_the_servers_split(
    run: Run, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ("fundus", "--url", server.grpc_url, "--hardware", server.hardware)
    assert run("single", *at, "--rounds", 2, "--requests", 5) == 0
    assert run("offline", *at, "--rounds", 2, "--requests", 6, "--in-flight", 3) == 0
    assert "fundus_preprocess" in capsys.readouterr().out
    for scenario, requests, concurrency in (("single", 5, 1), ("offline", 6, 3)):
        result = kept(tmp_path / scenario / "fundus.json")
        assert result["settings"]["warm_up_requests"] == 3
        assert [run["contender"] for run in result["runs"]] == ["in process", "gRPC", "gRPC", "in process"]
        for made in result["runs"]:
            assert (len(made["latencies_ms"]), made["concurrency"]) == (requests, concurrency)
            counted = {model: step["requests"] for model, step in made["server"].items()}
            models = ("fundus_preprocess", "fundus_classifier", "fundus")
            assert counted == (dict.fromkeys(models, requests) if made["contender"] == "gRPC" else {})


def test_offline_asks_together_where_enough_is_on_the_way(run: Run, server: Server, tmp_path: Path) -> None:
    at = ("fundus", "--url", server.grpc_url, "--hardware", server.hardware)
    many = 4 * server_instances(server) + 2
    assert run("offline", *at, "--rounds", 1, "--requests", 8, "--in-flight", many) == 0
    result = kept(tmp_path / "offline" / "fundus.json")
    sizes = {"in process": 1, "gRPC": 1, "in process, together": 2, "gRPC, together": 2}
    assert result["settings"]["pictures_a_request"] == sizes
    for made in result["runs"]:
        size = sizes[made["contender"]]
        assert len(made["latencies_ms"]) == 8
        if made["contender"].startswith("gRPC"):
            assert made["server"]["fundus"]["requests"] == 8 // size


def server_instances(server: Server) -> int:
    with tritonclient.grpc.InferenceServerClient(server.grpc_url.split("//")[1]) as client:
        return sum(group.count for group in client.get_model_config("fundus_preprocess").config.instance_group)


def test_server_says_that_nothing_meets_the_bound_and_keeps_what_it_measured(
    run: Run, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(search, "WARM_UP_S", 0.05)
    monkeypatch.setattr(search, "LOWEST", 0.4)
    at = ("fundus", "--url", server.grpc_url, "--hardware", server.hardware)
    assert run("server", *at, "--bound-ms", 0.5, "--requests", 459) == 1
    assert "keeps p99 within 0.5 ms: raise --bound-ms" in capsys.readouterr().err
    result = kept(tmp_path / "server" / "fundus.json")
    assert result["rate_per_s"] is None
    for made in result["runs"]:
        requests = requests_of(made)
        assert made["verdict"] == "missed"
        assert made["over"] == sum(request.latency_ms > 0.5 for request in requests[made["warm_up"] :])
        assert len(requests) < 459, "it stops as soon as the verdict is certain"


@pytest.mark.parametrize("limit", [0.9, 7.3, 33.0, 500.0])
def test_the_search_ends_within_its_resolution_below_the_limit(limit: float) -> None:
    tried = []

    async def probe(rate: float) -> bool:
        tried.append(rate)
        return rate <= limit

    found = asyncio.run(search.highest(probe, first=20, lowest=0.5))
    assert found is not None
    assert limit / search.RESOLUTION <= found <= limit
    assert len(tried) <= 20


def test_the_search_gives_up_below_the_lowest_rate() -> None:
    async def probe(rate: float) -> bool:
        return False

    assert asyncio.run(search.highest(probe, first=20, lowest=0.5)) is None


def test_a_server_that_is_down_is_one_sentence_and_code_1(
    run: Run, refused_port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("single", "fundus", "--url", f"grpc://127.0.0.1:{refused_port}", "--requests", 2) == 1
    assert "No server answers at grpc://127.0.0.1" in capsys.readouterr().err
    assert not (tmp_path / "single" / "fundus.json").exists()


def test_a_server_that_serves_another_precision_or_release_is_found_before_anything_is_measured(
    run: Run, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = "cpu" if server.hardware == "openvino" else "openvino"
    assert run("server", "fundus", "--url", server.grpc_url, "--hardware", other) == 1
    assert "it serves another release or precision; name what it serves" in capsys.readouterr().err
    assert not list(tmp_path.glob("server/*.json"))


def test_a_server_that_dies_in_the_middle_costs_no_run_that_was_measured(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unfinished = tmp_path / "offline" / "fundus.unfinished.json"

    def kill(pid: int) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if unfinished.exists() and len(kept(unfinished)["runs"]) >= 3:
                psutil.Process(pid).kill()
                return
            time.sleep(0.01)

    with Server(REPOSITORY, ["fundus"]) as server:
        killer = threading.Thread(target=kill, args=(server.pid,))
        killer.start()
        at = ("fundus", "--url", server.grpc_url, "--hardware", server.hardware)
        assert run("offline", *at, "--rounds", 500, "--requests", 4) == 1
        killer.join()
        with pytest.raises(ServerError):
            footprint(server)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "No server answers" in said
    assert str(unfinished) in said.replace("\n", "")
    result = kept(unfinished)
    assert len(result["runs"]) >= 3
    assert "No server answers" in result["stopped"]
    assert not (tmp_path / "offline" / "fundus.json").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("server", "--requests", 458), "fewer than 459 can never show"),
        (("server", "--bound-ms", 0), "--bound-ms must be above 0"),
        (("single", "--rounds", 0), "must be at least 1"),
        (("offline", "--in-flight", 0), "must be at least 1"),
        (("overload", "--times", 1), "--times must be above 1"),
        (("soak", "--requests", 10), "--requests must be at least 1000"),
        (("soak", "--url", "grpc://127.0.0.1:1"), "leave --url out"),
        (("coldstart", "--url", "grpc://127.0.0.1:1"), "leave --url out"),
        (("single", "--url", "http://127.0.0.1:1"), "name the server's gRPC port"),
        (("single", "cornea"), "There is no task 'cornea'"),
        (("multi", "--repository", "nowhere"), "nowhere is no folder"),
    ],
)
def test_wrong_usage_is_one_sentence(
    run: Run, capsys: pytest.CaptureFixture[str], arguments: tuple[object, ...], sentence: str
) -> None:
    named = arguments if "cornea" in arguments else (arguments[0], "fundus", *arguments[1:])
    assert run(*named) in (1, 2)
    said = capsys.readouterr()
    assert sentence in said.err
    assert "Traceback" not in said.err


def test_one_core_is_said_to_be_too_few_for_a_client_and_a_server(
    run: Run, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})
    at = ("fundus", "--url", server.grpc_url, "--hardware", server.hardware)
    assert run("single", *at, "--rounds", 1, "--requests", 2) == 0
    assert "This machine has one core" in capsys.readouterr().err


def test_the_footprint_counts_tritonserver_and_its_stubs_and_their_own_shared_memory(server: Server) -> None:
    found = footprint(server)
    triton = psutil.Process(server.pid)
    assert found.threads >= 1 + len(triton.children())
    assert found.descriptors > triton.num_fds()
    assert found.rss_mib > found.pss_mib > triton.memory_full_info().uss / 2**20
    foreign = Path("/dev/shm/fovea-foreign")
    foreign.write_bytes(bytes(50 * 2**20))
    try:
        assert 0 < footprint(server).shm_mib < found.shm_mib + 50
    finally:
        foreign.unlink()


def soaked(**last: float) -> dict[str, Any]:
    holds = {"rss_mib": 400.0, "pss_mib": 300.0, "shm_mib": 8.0, "threads": 60, "descriptors": 90}
    runs = [{"holds": holds, "latencies_ms": [1.0]} for _ in range(4)] + [
        {"holds": holds | last, "latencies_ms": [1.0]}
    ]
    return {"task": "fundus", "runs": runs}


@pytest.mark.parametrize(
    ("last", "grown"),
    [
        ({}, None),
        ({"rss_mib": 407.9}, None),
        ({"rss_mib": 408.1}, "resident memory"),
        ({"shm_mib": 9.0}, "/dev/shm"),
        ({"threads": 61}, "threads grew from 60 to 61"),
        ({"descriptors": 91}, "descriptors grew"),
        ({"descriptors": 80, "pss_mib": 900}, None),
    ],
)
def test_soak_demands_that_nothing_grows(last: dict[str, float], grown: str | None) -> None:
    sentences = soak.failed(soaked(**last))
    assert len(sentences) == (grown is not None)
    assert grown is None or grown in sentences[0]


def overloaded(answered: int, refused_ms: float, lost: int, slow_until: int) -> dict[str, Any]:
    """Ten seconds of 30 requests; 10 answers a second are the capacity."""
    requests = []
    for number in range(300):
        at = number / 30
        if number % 30 < answered:
            requests.append(Request(at, at, at + 0.3, "answered"))
        else:
            requests.append(Request(at, at, at + refused_ms / 1e3, "refused", "ServerBusy: full"))
    requests += [Request(10, 10, 20, "timed out", "ServerTimeout: none")] * lost
    before = [Request(at, at, at + 0.05, "answered") for at in range(8)]
    after = [Request(at, at, at + (0.5 if at < slow_until else 0.06), "answered") for at in range(15)]
    phases = {"before": before, "overload": requests, "after": after}
    runs = [{"load": name, "contender": "gRPC", "server": {}, **columns(some)} for name, some in phases.items()]
    return {"task": "fundus", "runs": runs, "capacity_per_s": 10.0}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((10, 20, 0, 0), None),
        ((8, 20, 0, 0), "8.0 a second were answered under overload, less than 0.9 of the 10.0 before"),
        ((10, 400, 0, 0), "refusals took 400 ms (the slowest of 200), not within 250 ms"),
        ((10, 20, 0, 8), "answered as before after"),
        ((10, 20, 0, 15), "answered as before not within 15 s"),
    ],
)
def test_overload_demands_throughput_quick_refusals_and_recovery(
    arguments: tuple[int, float, int, int], sentence: str | None
) -> None:
    sentences = overload.failed(overloaded(*arguments))
    assert len(sentences) == (sentence is not None)
    assert sentence is None or sentence in sentences[0]


def test_requests_that_are_neither_answered_nor_refused_are_called_a_queue_without_a_bound() -> None:
    assert any("the server queues without a bound" in said for said in overload.failed(overloaded(10, 20, 3, 0)))


def test_a_cold_start_that_takes_too_long_is_named() -> None:
    runs = [{"contender": kind, "answered_s": 5.0} for kind in ("alone", "all tasks") for _ in range(3)]
    assert coldstart.failed({"task": "retina", "runs": runs}) == [
        "retina, alone: the first correct answer came after 5.0 s (median), not within 3 s."
    ]


def test_tritons_counters_between_two_moments_are_times_of_one_request() -> None:
    before = {"net": {"requests": 10, "failed": 1, "executions": 8, "pictures": 10} | dict.fromkeys(triton.PHASES, 10)}
    after = {"net": {"requests": 14, "failed": 1, "executions": 10, "pictures": 18} | dict.fromkeys(triton.PHASES, 10)}
    after["net"]["queue"] += 8_000_000
    step = triton.between(before, after)["net"]
    assert (step["requests"], step["failed"], step["executions"]) == (4, 0, 2)
    assert (step["batch"], step["queue_ms"], step["infer_ms"]) == (4.0, 2.0, 0.0)
    assert triton.between(after, after)["net"] == asdict(triton.Step(0, 0, 0, 0.0, 0.0, 0.0, 0.0, 0.0))


@pytest.mark.slow
def test_coldstart_and_soak_on_the_real_server(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Their goals are for a quiet machine: here only that all is measured, and nothing is left behind."""
    assert run("coldstart", "fundus", "--rounds", 2) in (0, 1)
    for made in kept(tmp_path / "coldstart" / "fundus.json")["runs"]:
        assert 0 < made["python_s"] < made["models_s"] < made["answered_s"]
    assert run("soak", "fundus", "--requests", 1000, "--warm-up", 100) in (0, 1)
    result = kept(tmp_path / "soak" / "fundus.json")
    assert {made["contender"] for made in result["runs"]} == {"gRPC", "HTTP"}
    assert all(made["holds"]["rss_mib"] > 100 for made in result["runs"])
    assert "resident memory" in capsys.readouterr().out


@pytest.mark.slow
def test_at_low_load_the_median_agrees_with_perf_analyzer() -> None:
    """Within 5 %, in the best of three attempts: other programs on the machine disturb one or the other."""
    task = TASKS["fundus"]
    pictures = [phantoms.encoded(task.modalities[0], seed) for seed in range(32)]

    async def ours(server: Server) -> float:
        async with InProcess(task, REPOSITORY, server.hardware) as limit, Served(task, server.grpc_url) as served:
            expected = [await limit.ask(picture) for picture in pictures]
            await closed_loop(served.ask, pictures, expected, 1, 32)
            _, latencies = await closed_loop(served.ask, pictures, expected, 1, 256)
        return sorted(latencies)[128]

    apart = []
    with Server(REPOSITORY, ["fundus"]) as server:
        for _ in range(3):
            mine = asyncio.run(ours(server))
            told = perf_analyzer.measure(ROOT / "out" / "perf_analyzer", server.grpc_url, "fundus", pictures, 1, 256)
            apart.append(abs(mine / told["p50_ms"] - 1))
    assert min(apart) <= 0.05, apart
