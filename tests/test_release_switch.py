"""Releases in running servers: what answers before, while and after one is published, refused or rolled back."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from conftest import REPOSITORY, ROOT
from small_releases import POINT, Command, cut, line, overwrite, publish, repository, told

from client import __main__ as client_program
from export import release
from fovea import control, launch, locks, releases
from fovea.client import Client
from fovea.errors import ReleaseError, ServerError, WrongModel
from fovea.repository import graph_path
from fovea.server import Server
from fovea.tasks import TASKS

FUNDUS = TASKS["fundus"]
GRAPH = graph_path(Path(), FUNDUS.networks[0])
ROLLBACK_S = 5


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Server]]:
    """A folder of releases and a server of it, which the tests of this file leave answering 1."""
    folder = tmp_path_factory.mktemp("served") / "releases"
    source = repository(folder.with_name("repository"), FUNDUS, 1)
    command = [
        sys.executable,
        "-m",
        "export",
        "release",
        "fundus",
        "--releases",
        str(folder),
        "--repository",
        str(source),
    ]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    with Server(folder, released=True) as server:
        yield folder, server


@pytest.fixture
def folder(served: tuple[Path, Server]) -> Path:
    return served[0]


@pytest.fixture
def server(served: tuple[Path, Server], export: Command, tmp_path: Path) -> Iterator[Server]:
    folder, server = served
    yield server
    publish(export, folder, repository(tmp_path / "one", FUNDUS, 1))
    server.check()


def values(server: Server, photograph: bytes, number: str | None = None) -> set[int]:
    with Client(server.grpc_url) as client:
        return told(client.ask("fundus", photograph, operating_point=POINT, release=number))


def test_a_running_server_answers_with_what_is_published_and_again_with_what_was_within_five_seconds(
    export: Command, folder: Path, server: Server, tmp_path: Path, photograph: bytes
) -> None:
    first = releases.current(folder, "fundus")
    assert values(server, photograph) == {1}
    second = publish(export, folder, repository(tmp_path / "r", FUNDUS, 2))
    assert values(server, photograph) == {2}
    with Client(server.http_url) as client:
        answer = client.ask("fundus", photograph)
        assert (answer.release, answer.json()["release"]) == (second, second)
    started = time.monotonic()
    command = [sys.executable, "-m", "export", "rollback", "fundus", "--releases", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    assert time.monotonic() - started < ROLLBACK_S
    assert done.stdout == f"fundus: release {first}, before {second}\n"
    assert f"Switched {server.http_url} in" in done.stderr
    assert values(server, photograph) == {1}


def test_both_releases_answer_side_by_side_to_who_names_them(
    export: Command,
    folder: Path,
    server: Server,
    tmp_path: Path,
    photograph: bytes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = str(releases.current(folder, "fundus"))
    second = publish(export, folder, repository(tmp_path / "r", FUNDUS, 2))
    assert [values(server, photograph, number) for number in (None, first, second)] == [{2}, {1}, {2}]
    third = publish(export, folder, repository(tmp_path / "r", FUNDUS, 3))
    assert [values(server, photograph, number) for number in (None, second, third)] == [{3}, {2}, {3}]
    with pytest.raises(WrongModel, match=rf"does not serve release {first} of fundus: .*export list fundus"):
        values(server, photograph, first)
    export("rollback", "fundus", "--releases", folder)
    assert [values(server, photograph, number) for number in (None, second, third)] == [{2}, {2}, {3}]

    (tmp_path / "eye.jpg").write_bytes(photograph)
    options = ["--url", server.grpc_url, "--release", third, "--json", str(tmp_path / "eye.jpg")]
    monkeypatch.setattr(sys, "argv", ["client", "fundus", *options])
    capsys.readouterr()
    assert client_program.main() == 0
    assert json.loads(capsys.readouterr().out)["release"] == third


def test_only_what_the_kept_releases_need_stays_loaded(
    export: Command, folder: Path, server: Server, tmp_path: Path
) -> None:
    publish(export, folder, repository(tmp_path / "r", FUNDUS, 2))
    publish(export, folder, repository(tmp_path / "r", FUNDUS, 3))
    kept = [releases.read(folder, "fundus", number) for number in releases.kept(folder, "fundus")]
    needed = {"fundus", *(name for made in kept for name in (made.name, *made.steps))}
    assert set(control.loaded(server.http_url, 10)) == needed
    assert len(needed) == 6  # the link, two ensembles, one preprocessing for both, two networks


def test_a_tampered_release_is_refused_before_the_switch(
    export: Command, folder: Path, server: Server, tmp_path: Path, photograph: bytes
) -> None:
    first = str(releases.current(folder, "fundus"))
    second = publish(export, folder, repository(tmp_path / "r", FUNDUS, 2))
    graph = folder / releases.read(folder, "fundus", first).steps[-1] / "1" / "model.onnx"
    whole = graph.read_bytes()
    cut(graph)
    loaded = control.loaded(server.http_url, 10)
    code, _, err = export("rollback", "fundus", "--releases", folder)
    assert (code, err.count("\n")) == (1, 1)
    assert "model.onnx is cut off or was changed" in err
    assert releases.current(folder, "fundus") == second
    assert control.loaded(server.http_url, 10) == loaded
    assert values(server, photograph) == {2}
    overwrite(graph, whole)
    assert export("rollback", "fundus", "--releases", folder)[0] == 0
    assert values(server, photograph) == {1}


@pytest.mark.parametrize("fault", ["unknown operator", "no answer", "preprocessing"])
def test_a_release_that_cannot_answer_is_tried_refused_and_leaves_no_trace_in_the_server(
    fault: str,
    export: Command,
    folder: Path,
    server: Server,
    tmp_path: Path,
    photograph: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, before = releases.current(folder, "fundus"), line(folder, FUNDUS)
    source = repository(tmp_path / "r", FUNDUS, 2)
    if fault == "unknown operator":  # which no linter can know
        for path in (source / GRAPH).parent.glob("model*.onnx"):
            model = onnx.load(path)
            model.graph.node[0].op_type = "NoSuchOperator"
            onnx.save(model, path)
    elif fault == "no answer":
        for path in (source / GRAPH).parent.glob("model*.onnx"):
            model = onnx.load(path)
            for tensor in model.graph.initializer:
                if tensor.name == "heatmap_of":  # [16, 16]: what the graph declares is not what it answers
                    tensor.CopyFrom(onnx.numpy_helper.from_array(np.array([16, 17]), tensor.name))
            onnx.save(model, path)
    else:
        monkeypatch.setattr(release, "preprocessing", lambda _: "0" * 64)
    loaded = control.loaded(server.http_url, 10)
    code, _, err = export("release", "fundus", "--releases", folder, "--repository", source)
    monkeypatch.undo()
    assert (code, err.count("\n")) == (1, 1), err
    assert "was tried, and is not published" in err
    causes = {"unknown operator": "NoSuchOperator", "no answer": "cannot be loaded", "preprocessing": "another prepro"}
    assert causes[fault] in err
    assert (releases.current(folder, "fundus"), line(folder, FUNDUS)) == (first, before)
    assert control.loaded(server.http_url, 10) == loaded
    assert values(server, photograph) == {1}


KILLED = """
import os, signal, sys
from export import releasing
sys.addaudithook(lambda event, _: event == "os.utime" and os.kill(os.getpid(), signal.SIGKILL))
sys.argv = ["export", *sys.argv[1:]]
releasing.main()
"""


def test_killed_between_the_link_and_the_server_the_next_call_brings_them_together(
    export: Command, folder: Path, server: Server, tmp_path: Path, photograph: bytes
) -> None:
    source = repository(tmp_path / "r", FUNDUS, 2)
    command = ["release", "fundus", "--releases", folder, "--repository", source]
    done = subprocess.run([sys.executable, "-c", KILLED, *map(str, command)], capture_output=True, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert values(server, photograph) == {1}
    shown = json.loads(export("list", "--releases", folder, "--json")[1])
    assert [(entry["state"], entry["servers"]) for entry in shown if entry["servers"] or entry["state"]] == [
        ("published", []),
        ("previous", [server.http_url]),
    ]
    publish(export, folder, source)
    assert values(server, photograph) == {2}


def test_a_stub_that_is_killed_after_switches_is_noticed_and_unloading_is_no_death(
    export: Command, folder: Path, server: Server, tmp_path: Path
) -> None:
    for value in (2, 3):
        publish(export, folder, repository(tmp_path / "r", FUNDUS, value))
        server.check()
    network = releases.read(folder, "fundus", str(releases.current(folder, "fundus"))).steps[-1]
    stubs = [p for p in psutil.Process(server.pid).children() if network in " ".join(p.cmdline())]
    assert len(stubs) == 2
    stubs[0].kill()
    psutil.wait_procs(stubs[:1], timeout=1)
    with pytest.raises(ServerError, match=f"Python process of {network} has died"):
        server.check()
    server.stop(at_once=True)
    server.start()


def test_a_server_of_a_repository_is_not_switched_and_another_task_is_left_alone(
    export: Command, folder: Path, server: Server, tmp_path: Path, refused_port: int
) -> None:
    first = releases.current(folder, "fundus")
    source = repository(tmp_path / "r", FUNDUS, 2)
    options = ["--releases", folder, "--repository", source]
    with Server(REPOSITORY, ["fundus"]) as other:
        code, _, err = export("release", "fundus", *options, "--server", other.http_url)
        assert (code, err.count("\n")) == (1, 1)
        assert "cannot be switched; start it with --releases" in err
    code, _, err = export("release", "fundus", *options, "--server", f"http://127.0.0.1:{refused_port}")
    assert (code, err.startswith("No server answers")) == (1, True)
    assert export("release", "fundus", *options, "--server", "localhost:8000")[0] == 2
    assert releases.current(folder, "fundus") == first
    code, _, err = export("release", "oct", "--releases", folder)
    assert (code, f"{server.http_url} does not serve oct" in err) == (0, True)
    assert "oct" not in control.loaded(server.http_url, 10)
    for path in folder.glob("oct*"):
        path.rename(tmp_path / path.name)


def test_the_hardware_of_the_server_chooses_among_the_configs_of_a_release(
    export: Command, tmp_path: Path, photograph: bytes
) -> None:
    source = repository(tmp_path / "r", FUNDUS, 1)
    config = source / "fundus_classifier" / "config.pbtxt"
    (config.parent / "configs" / "cpu.pbtxt").write_text(config.read_text().replace("count: 2", "count: 1"))
    folder = tmp_path / "releases"
    made = releases.read(folder, "fundus", publish(export, folder, source))
    with Server(folder, ["fundus"], released=True, hardware="cpu") as server:
        counts = [control.instances(server.http_url, step, 10) for step in made.steps]
        assert counts == [2, 1]
        assert values(server, photograph) == {1}
    assert locks.servers(folder) == []


def test_a_server_starts_with_whole_releases_only_and_is_found_no_more_when_killed(
    export: Command, tmp_path: Path
) -> None:
    folder = tmp_path / "releases"
    with pytest.raises(ReleaseError, match="holds no release: python -m export release"):
        Server(folder, released=True).start()
    first = publish(export, folder, repository(tmp_path / "r", FUNDUS, 1))
    publish(export, folder, repository(tmp_path / "r", FUNDUS, 2))
    with pytest.raises(ReleaseError, match="no release of oct: python -m export release oct"):
        Server(folder, ["oct"], released=True).start()
    cut(folder / releases.read(folder, "fundus", first).steps[-1] / "card.md")
    ports = [str(launch.free_port()) for _ in range(3)]
    options = ["--grpc-port", ports[0], "--http-port", ports[1], "--metrics-port", ports[2]]
    program = subprocess.Popen(
        [sys.executable, "-m", "fovea.server", "--releases", folder, *options],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert program.stderr is not None
    said = [program.stderr.readline() for _ in range(3)]
    assert "Not served beside the published release:" in said[1]
    assert "card.md is cut off or was changed" in said[1]
    assert "Serving fundus at" in said[2]
    assert locks.servers(folder) == [f"http://127.0.0.1:{ports[1]}"]
    os.kill(program.pid, signal.SIGKILL)
    program.wait()
    program.stderr.close()
    third = publish(export, folder, repository(tmp_path / "r", FUNDUS, 3))
    assert locks.servers(folder) == []
    cut(folder / f"fundus-{third}" / "config.pbtxt")
    with pytest.raises(ReleaseError, match=r"config\.pbtxt is cut off or was changed"):
        Server(folder, released=True).start()
