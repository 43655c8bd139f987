"""The embedded server: `with Server(Path("model_repository")) as server: Client(server.grpc_url)`.

As a program, `python -m fovea.server [TASK…]` serves until it is told to stop.
"""

import argparse
import http.client
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, NoReturn, Self

import cv2
import numpy as np
import psutil

from fovea import control, launch, locks, program, releases
from fovea.client import Client
from fovea.errors import RequestError, ServerError
from fovea.hardware import choose, permit
from fovea.repository import HARDWARE, Hardware, check, configured_cores, fused_name
from fovea.tasks import TASKS, task_named


class Server:
    """NVIDIA's tritonserver on 127.0.0.1, serving some tasks of a repository, or of a folder of releases if `released`.

    `start` returns when every task has answered one true request; `stop` leaves no process, no shared memory and no
    temporary file behind, and so does the death of this process. Ports are free ones unless given.

    With `fused`, `<task>_fused` answers beside every task: the same in one hop.

    Of a folder of releases, every task's published release answers, and `python -m export release` and `rollback`
    switch it; the release that was published before answers under its own name, `<task>-<number>`.

    Raises:
        ServerError: it cannot start, with the reason and the cure.
        ReleaseError: a published release is not what it was when it was released.
    """

    def __init__(
        self,
        repository: Path,
        tasks: Sequence[str] = (),
        *,
        released: bool = False,
        fused: bool = False,
        hardware: Hardware | Literal["auto"] = "auto",
        grpc_port: int = 0,
        http_port: int = 0,
        metrics_port: int = 0,
        timeout_s: float = 120,
    ) -> None:
        self.repository = repository
        self.released, self.fused = released, fused
        self.left_out: list[str] = []  # releases that were to answer beside a published one, and why they do not
        self.tasks = [task_named(name) for name in tasks or (releases.published(repository) if released else TASKS)]
        self.hardware, self.why = self._hardware(hardware)
        self.ports = launch.Ports(grpc_port, http_port, metrics_port)
        self.timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = Path()
        self._stubs: Counter[str] = Counter()
        self._entry: IO[bytes] | None = None

    def _hardware(self, asked: Hardware | Literal["auto"]) -> tuple[Hardware, str]:
        if asked != "auto":
            return asked, "it was asked for"
        networks = [network.name for task in self.tasks for network in task.networks]
        if not self.released:
            return choose([self.repository / name for name in networks])
        steps = releases.steps(self.repository, [task.name for task in self.tasks])
        return choose([self.repository / step for step in steps if step.rsplit("-", 1)[0] in networks])

    @property
    def grpc_url(self) -> str:
        return f"grpc://{launch.ADDRESS}:{self.ports.grpc}"

    @property
    def http_url(self) -> str:
        return f"http://{launch.ADDRESS}:{self.ports.http}"

    @property
    def log(self) -> Path:
        """Triton's own messages, there until `stop`."""
        return self._folder / "triton.log"

    @property
    def pid(self) -> int:
        """The tritonserver process."""
        return self._triton().pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def announced(self) -> bool:
        """Whether whoever publishes a release finds this server by itself."""
        return self._entry is not None

    def start(self) -> None:
        with locks.starting(self.repository) if self.released else nullcontext():
            self._start()

    def _start(self) -> None:
        controlled: list[str] = []
        if self.released:
            controlled, self.left_out = releases.models(self.repository, [task.name for task in self.tasks])
        else:
            for task in self.tasks:
                check(task, self.repository, self.hardware)
                variant = self.repository / fused_name(task)
                if self.fused and not variant.is_dir():
                    raise ServerError(f"{variant} is missing: python -m export {task.name} --fuse writes it.")
        permit(self.hardware, [] if self.released else self.tasks, self.repository)
        self.ports = launch.Ports(
            launch.claim(self.ports.grpc, "gRPC"),
            launch.claim(self.ports.http, "HTTP"),
            launch.claim(self.ports.metrics, "metrics"),
        )
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="fovea-"))
            launch.prepare(self._folder, self.repository, self.tasks, released=self.released, fused=self.fused)
            with self.log.open("wb") as log:
                self._process = subprocess.Popen(
                    [
                        sys.executable,
                        "-m",
                        "fovea.supervisor",
                        str(self._folder),
                        *launch.command(self._folder, self.hardware, self.ports, self._folder.name, controlled),
                    ],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=launch.environment(self._folder),
                    start_new_session=True,  # Ctrl-C reaches this process only, which then stops the server in order
                )
            deadline = time.monotonic() + self.timeout_s
            self._await_ready(deadline)
            self._ask_each_task(deadline)
            self._stubs = self._python_stubs()
            if self.released:
                self._entry = locks.enter(self.repository, self._folder.name, self.http_url)
        except OSError as error:
            self.stop()
            cause = error.strerror or "no room"  # shutil's own errors have no strerror
            raise ServerError(
                f"The server's files cannot be written to {tempfile.gettempdir()} ({cause}): make room there, "
                "or name another folder in TMPDIR."
            ) from None
        except BaseException:
            self.stop()
            raise

    def stop(self, *, at_once: bool = False) -> None:
        """End the server: after the requests it is answering, or `at_once`. Calling it twice does nothing."""
        if self._entry is not None:
            locks.leave(self.repository, self._folder.name, self._entry)
            self._entry = None
        if self._process is not None:
            assert self._process.stdin is not None
            if at_once and self._process.poll() is None:
                with suppress(psutil.NoSuchProcess, IndexError):
                    self._triton().kill()
            self._process.stdin.close()
            self._process.wait()
            self._process = None
        if self._folder.name:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = Path()

    def check(self) -> None:
        """Raise `ServerError` if the server, or one of the Python processes behind it, has died since the start."""
        try:
            alive = self._python_stubs()
            dead = sorted(self._stubs - alive)
            if self.released:  # a model that was taken out of service, and loaded again meanwhile, has not died
                dead = [model for model in dead if alive[model] < control.instances(self.http_url, model, timeout_s=10)]
        except (AssertionError, psutil.NoSuchProcess, IndexError, RequestError):
            raise ServerError("The server has ended: it must be started again.") from None
        if dead:
            raise ServerError(
                f"A Python process of {', '.join(dead)} has died (killed, or out of memory), and its answers fail: "
                "the server must be started again."
            )
        self._stubs = alive

    def _triton(self) -> psutil.Process:
        assert self._process is not None
        return psutil.Process(self._process.pid).children()[0]

    def _python_stubs(self) -> Counter[str]:
        """Model → how many living Python processes it has."""
        living: Counter[str] = Counter()
        for process in self._triton().children():
            with suppress(
                psutil.NoSuchProcess, IndexError
            ):  # one that is just ending may have no command line any more
                if process.status() != psutil.STATUS_ZOMBIE and "triton_python_backend_stub" in process.name():
                    living[process.cmdline()[-2].rsplit("_", 2)[0]] += 1
        return living

    def _await_ready(self, deadline: float) -> None:
        assert self._process is not None
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise ServerError(self._reason())
            connection = http.client.HTTPConnection(launch.ADDRESS, self.ports.http, timeout=1)
            try:
                connection.request("GET", "/v2/health/ready")
                if connection.getresponse().status == 200:
                    return
            except OSError:
                pass  # not listening yet
            finally:
                connection.close()
            time.sleep(0.02)
        raise ServerError(
            f"The server was not ready after {self.timeout_s:.0f} s: give it longer with --timeout, "
            f"or fewer tasks. Its last message: {self._reason()}"
        )

    def _reason(self) -> str:
        """The first cause in Triton's log, as one sentence."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        ours = re.search(r"TritonModelException: ([^\n|]+)", text)
        if ours:
            return ours[1].strip()
        failed = re.search(r"failed to load '([^']+)' version \d+: ([^\n]+)", text)
        if failed:
            cause = failed[2].strip().strip('"')
            return f"{failed[1]} could not be loaded: {cause}"
        return f"tritonserver ended at its start: {text.strip().splitlines()[-1] if text.strip() else 'no message'}"

    def _ask_each_task(self, deadline: float) -> None:
        with Client(self.grpc_url) as client:
            for task in self.tasks:
                for asked in (task, replace(task, name=fused_name(task))) if self.fused else (task,):
                    client.ask(asked, sample(), timeout_s=max(deadline - time.monotonic(), 1))


def sample() -> bytes:
    """A lit disc, as PNG: the least that every task can answer."""
    picture = cv2.circle(np.zeros((256, 256, 3), np.uint8), (128, 128), 120, (60, 90, 160), -1)
    return bytes(cv2.imencode(".png", picture)[1])


DEATHS_A_MINUTE = 3


def watch(server: Server) -> NoReturn:
    """Watch a started server for ever and start it again when it dies, `DEATHS_A_MINUTE` times a minute at most."""
    deaths: list[float] = []
    while True:
        time.sleep(1)
        try:
            server.check()
        except ServerError as error:
            deaths = [*(death for death in deaths if time.monotonic() - death < 60), time.monotonic()]
            if len(deaths) > DEATHS_A_MINUTE:
                raise
            print(f"{error} Starting it again.", file=sys.stderr)
            server.stop(at_once=True)
            server.start()
            print("Serving again.", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fovea.server", description="Serve tasks on 127.0.0.1.")
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"which of {', '.join(TASKS)} (all)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--repository", type=Path, default=Path("model_repository"))
    where.add_argument(
        "--releases", type=Path, metavar="DIR", help="serve what is published in this folder of releases"
    )
    parser.add_argument("--fused", action="store_true", help="serve <task>_fused too: the same answers in one hop")
    parser.add_argument("--hardware", choices=("auto", *HARDWARE), default="auto")
    parser.add_argument("--grpc-port", type=int, default=8001)
    parser.add_argument("--http-port", type=int, default=8000)
    parser.add_argument("--metrics-port", type=int, default=8002)
    parser.add_argument("--timeout", type=float, default=120, help="seconds until ready at the latest (120)")
    options = parser.parse_args()
    return program.run(lambda: serve(options))


def serve(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C, which is how serving ends well."""
    server = Server(
        options.releases or options.repository,
        options.tasks,
        released=options.releases is not None,
        fused=options.fused,
        hardware=options.hardware,
        grpc_port=options.grpc_port,
        http_port=options.http_port,
        metrics_port=options.metrics_port,
        timeout_s=options.timeout,
    )
    print(f"Starting with configs/{server.hardware}.pbtxt: {server.why}.", file=sys.stderr)
    with server:
        _advise(server)
        names = ", ".join(task.name for task in server.tasks)
        print(f"Serving {names} at {server.grpc_url} and {server.http_url}; Ctrl-C stops it.", file=sys.stderr)
        with suppress(KeyboardInterrupt):
            watch(server)
    print("Stopped.", file=sys.stderr)
    return 0


def _advise(server: Server) -> None:
    """Say what the user may want to know: configs for another number of cores, releases that are not served."""
    for reason in server.left_out:
        print(f"Not served beside the published release: {reason}", file=sys.stderr)
    if server.released:
        if not server.announced:
            print(
                f"{server.repository} cannot be written: to switch this server, say --server {server.http_url} to "
                "python -m export release and rollback.",
                file=sys.stderr,
            )
        return
    here = len(os.sched_getaffinity(0))
    for task in server.tasks if server.hardware in ("cpu", "openvino") else ():
        fitted = configured_cores(task, server.repository)
        if fitted != here:
            print(
                f"The configs of {task.name} are fitted to {fitted} cores, here are {here}: "
                f"python -m export {task.name} --configs --cores {here}",
                file=sys.stderr,
            )


if __name__ == "__main__":
    sys.exit(main())
