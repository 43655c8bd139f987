"""The embedded server: what stops it from starting, what it leaves behind, and what happens when it is hurt."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import REPOSITORY, ROOT

from fovea import launch
from fovea.client import Client
from fovea.errors import RequestError, ServerError
from fovea.repository import Hardware, graph_path
from fovea.server import Server
from fovea.tasks import TASKS

FUNDUS = TASKS["fundus"]
GRAPH = graph_path(Path(), FUNDUS.networks[0])


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(REPOSITORY, tmp_path / "repository"))


def shared_memory() -> set[str]:
    return {path.name for path in Path("/dev/shm").glob("fovea-*")}


def wait_for_end(process: psutil.Process) -> None:
    """Until the process is gone, or pytest's time limit."""
    psutil.wait_procs([process], timeout=60)
    assert not alive(process)


def alive(process: psutil.Process) -> bool:
    """An orphan that its new parent has not yet reaped is no longer alive."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_taken_port_is_refused_by_number_before_anything_starts() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=rf"Port {port} \(HTTP\)"):
            Server(REPOSITORY, ["fundus"], http_port=port).start()


def test_numpy_2_is_refused_because_triton_would_exchange_wrong_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "__version__", "2.1.0")
    with pytest.raises(ServerError, match="'numpy<2'"):
        Server(REPOSITORY, ["fundus"]).start()


def test_a_missing_libpython_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_libpython", lambda: None)
    with pytest.raises(ServerError, match="apt-get install libpython3"):
        Server(REPOSITORY, ["fundus"]).start()


def test_a_missing_repository_or_file_is_named(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="absent is no folder"):
        Server(tmp_path / "absent", ["fundus"]).start()
    (repository / GRAPH).unlink()
    with pytest.raises(ServerError, match=r"model\.onnx is missing: python -m export fundus"):
        Server(repository, ["fundus"]).start()


def test_a_temporary_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(ServerError, match=r"absent \(No such file or directory\).*TMPDIR"):
        Server(REPOSITORY, ["fundus"]).start()


both_engines = pytest.mark.parametrize("hardware", ["cpu", "openvino"])


@both_engines
@pytest.mark.parametrize("damage", ["empty", "cut off", "garbage"])
def test_a_damaged_network_is_named_and_nothing_is_left(repository: Path, damage: str, hardware: Hardware) -> None:
    graph = graph_path(repository, FUNDUS.networks[0], hardware)
    content = graph.read_bytes()
    graph.write_bytes({"empty": b"", "cut off": content[: len(content) // 2], "garbage": b"\0" * 1000}[damage])
    before = shared_memory()
    with pytest.raises(ServerError, match=r"fundus_classifier.*(restore|empty)") as caught:
        Server(repository, ["fundus"], hardware=hardware).start()
    assert "\n" not in str(caught.value)
    assert shared_memory() <= before


@both_engines
def test_a_setting_the_backend_does_not_know_is_refused_by_name(repository: Path, hardware: Hardware) -> None:
    config = repository / "fundus_classifier" / "configs" / f"{hardware}.pbtxt"
    config.write_text(re.sub(r'key: "\w+"', 'key: "inter_galactic_thread_count"', config.read_text(), count=1))
    with pytest.raises(ServerError, match="does not know inter_galactic_thread_count"):
        Server(repository, ["fundus"], hardware=hardware).start()


@both_engines
def test_a_config_that_names_an_output_the_graph_lacks_is_refused(repository: Path, hardware: Hardware) -> None:
    config = repository / "fundus_classifier" / "configs" / f"{hardware}.pbtxt"
    config.write_text(config.read_text().replace('"heatmap"', '"heat"'))
    with pytest.raises(ServerError, match="heat"):
        Server(repository, ["fundus"], hardware=hardware).start()


def test_an_arithmetic_that_is_not_stated_is_refused(repository: Path) -> None:
    """OpenVINO would choose one by itself."""
    config = repository / "fundus_classifier" / "configs" / "openvino.pbtxt"
    config.write_text(re.sub(r'"(bf16|f32)"', '""', config.read_text()))
    with pytest.raises(ServerError, match="state f32 or bf16"):
        Server(repository, ["fundus"], hardware="openvino").start()


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this machine has a GPU")
def test_asking_for_a_gpu_without_one_fails_and_never_falls_back() -> None:
    with pytest.raises(ServerError, match=r"GPU|CUDA"):
        Server(REPOSITORY, ["fundus"], hardware="gpu").start()


def test_stopping_leaves_no_process_no_shared_memory_and_no_file() -> None:
    server = Server(REPOSITORY, ["fundus"])
    server.start()
    triton = psutil.Process(server.pid)
    processes = [triton, *triton.children(recursive=True)]
    folder = server.log.parent
    assert any(name.startswith(folder.name) for name in shared_memory())
    server.stop()
    assert not any(alive(process) for process in processes)
    assert not any(name.startswith(folder.name) for name in shared_memory())
    assert not folder.exists()


CHILD = """
import sys, threading
from pathlib import Path
from fovea.server import Server
server = Server(Path(sys.argv[1]), ["fundus"])
server.start()
print(server.pid, server.log.parent, flush=True)
threading.Event().wait()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda n: n.name)
def test_the_server_ends_with_its_parent_in_whatever_way_that_dies(number: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(REPOSITORY)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert parent.stdout is not None
    pid, folder = parent.stdout.readline().split()
    triton = psutil.Process(int(pid))
    supervisor = triton.parent()
    assert supervisor is not None
    processes = [triton, *triton.children(recursive=True)]
    os.kill(parent.pid, number)
    parent.wait()
    parent.stdout.close()
    wait_for_end(supervisor)
    for process in processes:
        wait_for_end(process)
    assert not any(name.startswith(Path(folder).name) for name in shared_memory())
    assert not Path(folder).exists()


def test_a_killed_stub_is_noticed_and_its_model_named(photograph: bytes) -> None:
    with Server(REPOSITORY, ["fundus"]) as server:
        server.check()
        stubs = [p for p in psutil.Process(server.pid).children() if "fundus_classifier" in " ".join(p.cmdline())]
        for stub in stubs:
            stub.kill()
        psutil.wait_procs(stubs, timeout=1)
        with pytest.raises(ServerError, match="Python process of fundus_classifier has died"):
            server.check()
        with Client(server.grpc_url) as client, pytest.raises(RequestError, match="restart"):
            client.ask("fundus", photograph)
        server.stop(at_once=True)


def test_a_killed_server_is_noticed_and_leaves_nothing(photograph: bytes) -> None:
    with Server(REPOSITORY, ["fundus"]) as server:
        folder = server.log.parent
        triton = psutil.Process(server.pid)
        stubs = triton.children()
        triton.kill()
        psutil.wait_procs([triton], timeout=10)
        with pytest.raises(ServerError, match="has ended"):
            server.check()
        with Client(server.grpc_url) as client, pytest.raises(RequestError):
            client.ask("fundus", photograph)
    for stub in stubs:
        wait_for_end(stub)
    assert not any(name.startswith(folder.name) for name in shared_memory())


def test_two_servers_live_side_by_side(server: Server, photograph: bytes) -> None:
    with Server(REPOSITORY, ["fundus"]) as other, Client(other.http_url) as one, Client(server.http_url) as two:
        assert one.ask("fundus", photograph).probability == two.ask("fundus", photograph).probability


def test_the_serving_program_starts_again_when_a_stub_is_killed(photograph: bytes) -> None:
    ports = [str(launch.free_port()) for _ in range(3)]
    options = ["--grpc-port", ports[0], "--http-port", ports[1], "--metrics-port", ports[2]]
    program = subprocess.Popen(
        [sys.executable, "-m", "fovea.server", "--repository", str(REPOSITORY), *options, "fundus"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert program.stderr is not None
    lines = [program.stderr.readline(), program.stderr.readline()]
    assert "Starting with configs/" in lines[0]
    assert "Ctrl-C stops it" in lines[1]
    stub = next(
        p for p in psutil.Process(program.pid).children(recursive=True) if "fundus_classifier" in p.cmdline()[-2]
    )
    stub.kill()
    assert "fundus_classifier has died" in program.stderr.readline()
    assert "Serving again." in program.stderr.readline()
    with Client(f"grpc://127.0.0.1:{ports[0]}") as client:
        assert client.ask("fundus", photograph).label
    program.send_signal(signal.SIGINT)
    assert "Stopped." in program.stderr.read()
    assert program.wait() == 0
    program.stderr.close()
