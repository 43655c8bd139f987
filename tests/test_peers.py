"""The comparison with other servers: the same answers or no figures, and whatever happens, no process is left."""

import argparse
import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import REPOSITORY, ROOT

from benchmarks import target
from benchmarks.peers import catalogue, clients, environments, plain, process, verdict
from benchmarks.peers.catalogue import PEERS, Peer
from benchmarks.peers.environments import PeerFailed
from benchmarks.peers.process import Running
from benchmarks.results import Result, read
from benchmarks.scenarios import peers
from fovea.errors import ServerRefused
from fovea.repository import graph_path
from fovea.tasks import TASKS

TASK = TASKS["fundus"]
STUB = str(ROOT / "tests" / "peer_stub.py")


def stub(name: str, environment: str = "stub") -> Peer:
    return Peer(name, environment, (), (STUB, name))


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with the environment of the stub made already: that of these tests."""
    shutil.copytree(catalogue.REQUIREMENTS, tmp_path / "requirements")
    (tmp_path / "requirements" / "stub.txt").touch()
    (tmp_path / "requirements" / "missing.txt").write_text("--no-index\nfovea-peer-that-is-not-there==1.0\n")
    monkeypatch.setattr(catalogue, "REQUIREMENTS", tmp_path / "requirements")
    monkeypatch.setattr(target, "PICTURES", 6)
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "out" / "peers" / "stub"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home / "venv"], check=True)
    packages = next((home / "venv").glob("lib/python*/site-packages"))
    (packages / "tests.pth").write_text(sysconfig.get_path("purelib"))
    (home / "installed").write_text(environments.fingerprint(stub("answers")))
    return tmp_path


def pinned(path: Path) -> dict[str, str]:
    lines = (line.split("==") for line in path.read_text().splitlines() if "==" in line and not line.startswith("#"))
    return {re.sub("[-_.]+", "-", name).lower(): number for name, number in lines}


def peers_of(workplace: Path) -> list[psutil.Process]:
    """Every living process of a peer that was started there: also one that left its group."""
    found = []
    for one in psutil.process_iter():
        try:
            if one.environ().get("PEER_WEIGHTS") == str(workplace / "weights") and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            pass
    return found


def test_what_peers_compute_with_is_pinned_as_ours() -> None:
    ours, theirs = pinned(ROOT / "constraints.txt"), pinned(catalogue.REQUIREMENTS / "pipeline.txt")
    assert {name: ours[name] for name in theirs} == theirs


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_every_peer_pins_all_it_installs_and_names_its_versions(peer: Peer) -> None:
    lines = peer.requirements.read_text().splitlines()
    assert lines[0] == "-r pipeline.txt"
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9a-z.]+", line) for line in lines[1:])
    assert all(peer.versions().values())


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_no_peer_tells_its_makers(peer: Peer) -> None:
    off = {"bentoml": "BENTOML_DO_NOT_TRACK", "ray": "RAY_USAGE_STATS_ENABLED"}
    assert off.get(peer.environment, peer.name) in {*peer.variables, peer.name}


def test_outputs_are_read_as_they_were_written_and_a_byte_less_is_refused() -> None:
    retina = TASKS["retina"]
    kinds = {"UINT8": np.uint8, "INT32": np.int32, "FP32": np.float32}
    written = {
        tensor.name: np.arange(np.prod(tensor.shape)).astype(kinds[tensor.dtype]).reshape(1, *tensor.shape)
        for tensor in retina.outputs
    }
    body = b"".join(written[tensor.name].tobytes() for tensor in retina.outputs)
    found = clients.outputs(retina, body)
    assert all(
        np.array_equal(found[name], array) and found[name].dtype == array.dtype for name, array in written.items()
    )
    for wrong in (body[:-1], body + b"\0", b""):
        with pytest.raises(ServerRefused, match=f"{len(wrong)} bytes"):
            clients.outputs(retina, wrong)


def test_the_plain_repository_serves_fp32_on_onnxruntime_and_nothing_else(tmp_path: Path) -> None:
    retina = TASKS["retina"]
    assert not plain.is_plain(retina, REPOSITORY, "openvino")
    folder = plain.rendered(retina, REPOSITORY, tmp_path / "fp32")
    assert plain.is_plain(retina, folder, "cpu")
    for network in retina.networks:
        served = graph_path(folder, network, "cpu")
        assert served.read_bytes() == graph_path(REPOSITORY, network).read_bytes()


def test_a_peer_that_cannot_be_installed_says_what_pip_said(workplace: Path) -> None:
    peer = stub("answers", environment="missing")
    for _ in range(2):  # what is half made is no environment
        with pytest.raises(PeerFailed, match="fovea-peer-that-is-not-there"):
            asyncio.run(environments.installed(peer))
    assert "fovea-peer-that-is-not-there" in (workplace / "out/peers/missing/pip.log").read_text()
    assert not (workplace / "out/peers/missing/installed").exists()


def test_a_process_that_leaves_the_group_ends_with_the_peer_even_when_it_stands_still(workplace: Path) -> None:
    running = Running(stub("answers"), asyncio.run(environments.installed(stub("answers"))), TASK, REPOSITORY, "cpu")
    running.start()
    try:
        asyncio.run(running.ready(lambda: asyncio.sleep(0)))
        started = running.processes()
        assert {one.name() for one in started} >= {"sleep"}
        assert process.memory_mib(started) > 20
        running.pause()
        wait_until(lambda: {one.status() for one in started} == {psutil.STATUS_STOPPED})
    finally:
        running.stop()
    assert not [one for one in started if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    assert not running.log.exists()
    running.stop()


def options(workplace: Path, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    peers.arguments(parser)
    said = ["--repository", str(REPOSITORY), "--results", str(workplace / "results"), "--hardware", "cpu", *more]
    parser.add_argument("--results", type=Path)
    return parser.parse_args([TASK.name, *said])


def test_peers_that_fail_are_reported_and_the_others_measured(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faulty = [stub(name) for name in ("dies", "lies", "falls")]
    unmade = stub("unmade", environment="missing")
    monkeypatch.setattr(catalogue, "PEERS", (stub("answers"), *faulty, unmade, PEERS[-1]))
    asked = options(workplace, "--rounds", "2", "--requests", "12", "--concurrency", "2")
    asked.only = ["stub", "missing", "flask"]
    result = read(asyncio.run(peers.measure(TASK, asked)))
    reasons = {note["contender"]: note["reason"] for note in result["peers"]}
    assert reasons["answers"] is None
    assert "no licence was found" in reasons["dies"]
    assert "answered differently" in reasons["lies"]
    assert "does not answer" in reasons["falls"]
    assert "fovea-peer-that-is-not-there" in reasons["unmade"]
    assert "weights/fundus_classifier.keras" in reasons["Flask"]
    shown = {line.contender: line for line in verdict.lines(result)}
    assert set(shown) == {"in process", "gRPC", "HTTP", "answers"}
    assert (shown["answers"].memory_mib or 0) > 20
    assert [goal.text for goal in verdict.goals(result)] == ["gRPC (fp32) ÷ best peer (fp32)"]
    assert not peers_of(workplace)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_peer_outlives_a_measurement_that_is_stopped(workplace: Path, number: signal.Signals) -> None:
    program = f"""
import sys
from pathlib import Path
from benchmarks import __main__, target
from benchmarks.peers import catalogue
target.PICTURES = 6
catalogue.REQUIREMENTS = Path("requirements")
catalogue.PEERS = (catalogue.Peer("answers", "stub", (), ({STUB!r}, "answers")),)
from benchmarks.scenarios import peers
peers.NAMES[:] = ["stub"]
sys.exit(__main__.main())
"""
    command = ["peers", "fundus", "--repository", str(REPOSITORY), "--hardware", "cpu", "--rounds", "1000"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    started = subprocess.Popen(
        [sys.executable, "-c", program, *command],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    unfinished = workplace / "benchmarks/results/peers/fundus.unfinished.json"
    wait_until(lambda: unfinished.exists() and len(json.loads(unfinished.read_text())["runs"]) > 3)
    assert peers_of(workplace)
    started.send_signal(number)
    _, said = started.communicate(timeout=60)
    if number != signal.SIGKILL:
        assert started.returncode == 130
        assert b"Stopped" in said
        assert b"Traceback" not in said
        assert not peers_of(workplace)
    wait_until(lambda: not peers_of(workplace))


def wait_until(holds: Callable[[], bool], timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def result_of(rates: dict[tuple[str, str], list[float]]) -> Result:
    """A result as if measured: images/s of every contender and precision, round by round, at one concurrency."""
    runs = [
        {
            "contender": name,
            "precision": precision,
            "concurrency": 1,
            "round": turn,
            "seconds": 100 / rate,
            "latencies_ms": [1e3 / rate] * 100,
            "memory_mib": 100 + turn,
        }
        for (name, precision), own in rates.items()
        for turn, rate in enumerate(own)
    ]
    notes = [{"contender": name, "precision": precision, "reason": None} for name, precision in rates]
    return {"task": "retina", "runs": runs, "peers": notes}


def test_goals_compare_with_the_best_peer_of_the_same_precision_and_with_flask_apart() -> None:
    result = result_of(
        {
            ("in process", "served"): [50, 50, 50],
            ("gRPC", "served"): [40, 20, 40],
            ("in process", "fp32"): [20, 20, 20],
            ("gRPC", "fp32"): [15, 15, 15],
            ("LitServe", "served"): [32, 16, 32],
            ("BentoML", "served"): [50, 10, 20],
            ("LitServe", "fp32"): [10, 10, 10],
            ("Flask", "fp32"): [5, 5, 5],
        }
    )
    found = {goal.text: goal for goal in verdict.goals(result)}
    ratios = {text: (round(goal.ratios[1][0][0], 3), goal.ratios[1][1]) for text, goal in found.items()}
    assert ratios == {
        "gRPC (served) ÷ best peer (served)": (1.25, "LitServe"),
        "gRPC (fp32) ÷ best peer (fp32)": (1.5, "LitServe"),
        "gRPC (served) ÷ best peer (fp32)": (4, "LitServe"),
        "gRPC (served) ÷ Flask (fp32)": (8, "Flask"),
    }
    assert [goal.missed for goal in found.values()] == [[], [], [], []]
    line = next(line for line in verdict.lines(result) if line.contender == "BentoML")
    assert (line.memory_mib, line.of_limit[0]) == (102, 0.4)


def test_a_peer_that_failed_has_no_figures() -> None:
    result = result_of({("in process", "fp32"): [50], ("gRPC", "fp32"): [40], ("LitServe", "fp32"): [30]})
    result["peers"][2]["reason"] = "It ended."
    assert {line.contender for line in verdict.lines(result)} == {"in process", "gRPC"}
    assert not verdict.goals(result)
    assert any("LitServe, fp32: not measured. It ended." in str(part) for part in verdict.shown(result))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fastapi_is_installed_and_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = options(tmp_path, "--only", "fastapi", "--rounds", "1", "--requests", "8", "--concurrency", "1", "4")
    result = read(asyncio.run(peers.measure(TASK, asked)))
    assert [note["reason"] for note in result["peers"]] == [None, None, None]
    ways = {"in process", "gRPC", "HTTP", "FastAPI, processes", "FastAPI, threads", "FastAPI, one engine"}
    assert {(line.contender, line.concurrency) for line in verdict.lines(result)} == {
        (way, concurrency) for way in ways for concurrency in (1, 4)
    }
    assert not peers_of(tmp_path)
