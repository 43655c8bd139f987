"""What the linter calls an error, the real Triton 2.51 refuses; what it lets pass or warns of, Triton loads.

Triton's core is asked, not its backends: every model is the Python one that answers nothing.
"""

import http.client
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from small_repositories import SCRIPT, Fault, faultless, write
from test_lint_configs import FAULTS as IN_CONFIGS
from test_lint_ensembles import FAULTS as IN_ENSEMBLES

from export.lint.rules import RULES
from fovea import launch

LOADED_ALL_THE_SAME = {
    "label-count": "answers then carry wrong labels",
    "tensor-twice": "an input of the ensemble may be written over",
    "queue-limit": "the ensemble hangs when the queue is full",
    "parameter-invalid": "parameters are the backend's",
}
"""Rules that are errors for another reason than that the model cannot be loaded."""
NOT_ASKED = {
    "graph-missing": "the backend's",
    "graph-not-built": "the backend's",
    "python-syntax": "the backend's",
    "python-class": "the backend's",
    "path-outside": "Triton follows some paths, which is the fault",
    "file-unreadable": "Triton reads a config of any size, and no link to nothing",
}
ALIKE = {"a version policy for versions that are not there": "the version that is there is loaded"}
FAULTS = {name: sown for name, sown in (IN_CONFIGS | IN_ENSEMBLES).items() if sown.rule not in NOT_ASKED}
MODELS = ("whole", "encode", "segment", "classify")


class Triton:
    """A server in explicit mode over a folder that each test fills anew."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repository = folder / "repository"
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.port, grpc_port = launch.free_port(), launch.free_port()
        flags = {
            "model-repository": self.repository,
            "backend-directory": self.folder / "backends",
            "model-control-mode": "explicit",
            "http-address": launch.ADDRESS,
            "http-port": self.port,
            "grpc-address": launch.ADDRESS,
            "grpc-port": grpc_port,
            "allow-metrics": "false",
            "backend-config": f"python,shm-region-prefix-name=lint-{self.port}-",
        }
        command = [str(launch.triton_folder() / "bin" / "tritonserver"), *(f"--{k}={v}" for k, v in flags.items())]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=launch.environment(self.folder))
        until(lambda: not self.alive() or self.listens())

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        self.process.wait(60)

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def listens(self) -> bool:
        try:
            return self.ask("index", {})[0] == 200
        except OSError:
            return False

    def ask(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(launch.ADDRESS, self.port, timeout=60)
        try:
            connection.request("POST", f"/v2/repository/{path}", json.dumps(body))
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or "null")
        finally:
            connection.close()

    def states(self) -> dict[str, str]:
        return {model["name"]: model.get("state", "") for model in self.ask("index", {})[1]}

    def loads(self, model: str) -> bool:
        """Whether `model` is ready after it was asked for.

        The Python backend of 2.51 now and then ends the server (boost's lock_exception) as processes come and go.
        """
        for _ in range(3):
            if not self.alive():
                self.start()
            with suppress(OSError, http.client.HTTPException):
                self.ask(f"models/{model}/load", {})
                return self.states().get(model) == "READY"
        raise AssertionError((self.folder / "log").read_text(encoding="utf-8", errors="replace")[-2000:])

    def forget(self) -> None:
        """Unload all, and empty the repository."""
        with suppress(OSError, http.client.HTTPException):
            for name in MODELS:
                self.ask(f"models/{name}/unload", {"parameters": {"unload_dependents": True}})
            until(lambda: set(self.states().values()) <= {"", "UNAVAILABLE"})
        for path in self.repository.iterdir():
            shutil.rmtree(path)


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    folder = tmp_path_factory.mktemp("triton")
    (folder / "repository").mkdir()
    backend = launch.triton_folder() / "backends" / "python"
    shutil.copytree(backend, folder / "backends" / "python")
    shutil.copy2(launch.stub(launch.triton_folder()), folder / "backends" / "python")
    write(folder / "backends", {"onnxruntime/model.py": SCRIPT})
    server = Triton(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def repository(triton: Triton) -> Iterator[Path]:
    yield faultless(triton.repository)
    triton.forget()


def lighten(repository: Path) -> None:
    """One process a model will do."""
    for config in repository.glob("*/config.pbtxt"):
        if config.exists():
            config.write_bytes(config.read_bytes().replace(b"count: 2", b"count: 1"))


@pytest.mark.slow
def test_triton_loads_the_faultless_repository(triton: Triton, repository: Path) -> None:
    lighten(repository)
    assert triton.loads("whole")


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_triton_refuses_what_is_an_error_and_loads_what_is_a_warning(
    name: str, triton: Triton, repository: Path
) -> None:
    sown: Fault = FAULTS[name]
    sown.damage(repository)
    lighten(repository)
    if "/configs/" in sown.path:  # this server takes config.pbtxt
        variant = repository / sown.path
        variant.replace(variant.parent.parent / "config.pbtxt")
        write(repository, {sown.path.replace("configs", "1"): b""})
    rules = {sown.rule, *sown.also}
    errors = {rule for rule in rules if RULES[rule].severity == "error"} - set(LOADED_ALL_THE_SAME)
    assert triton.loads(sown.path.split("/")[0]) == (not errors or name in ALIKE)
