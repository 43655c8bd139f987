"""A peer's processes: started, counted, weighed, paused while others are measured, and ended, whatever happens."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

import benchmarks
import fovea
from benchmarks.peers import keeper
from benchmarks.peers.catalogue import Peer
from benchmarks.peers.environments import PeerFailed
from fovea import launch
from fovea.errors import RequestError
from fovea.repository import Hardware
from fovea.spec import Task

START_TIMEOUT_S = 180
SETTLED_S = 3
"""So long no process may come or go: Ray answers before its load balancer has been told of the replicas."""
SAME_AS_OURS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
"""What our server is started with, its peers are given too. Not the Flask way, which knows of none of it."""
PACKAGES = os.pathsep.join(str(Path(package.__path__[0]).absolute().parent) for package in (fovea, benchmarks))


class Running:
    """One peer, serving one task on `hardware` from `repository`. `start`, and `stop` on every path.

    It runs below `benchmarks.peers.keeper`, which ends all of it, also when this process dies.
    """

    def __init__(self, peer: Peer, python: Path, task: Task, repository: Path, hardware: Hardware) -> None:
        self.peer, self.python, self.task = peer, python, task
        self.repository, self.hardware = repository.absolute(), hardware
        self.port = launch.free_port()
        self.cores = len(os.sched_getaffinity(0))
        self.pipelines = peer.pipelines or self.cores
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = Path()

    @property
    def log(self) -> Path:
        return self._folder / "log"

    def start(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="fovea-"))
        filled = {
            "ports": [self.port, *(launch.free_port() for _ in range(5))],
            "cores": self.cores,
            "folder": self._folder,
        }
        command = [str(self.python), *(argument.format(**filled) for argument in self.peer.arguments)]
        own = {name: value.format(**filled) for name, value in self.peer.variables.items()}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.peers.keeper", str(self._folder), *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env=self._environment() | own,
                start_new_session=True,  # Ctrl-C reaches this process only, which then ends the peers in order
            )

    def _environment(self) -> dict[str, str]:
        ours = launch.environment(self._folder)
        return {
            **{name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONHOME")},
            **({} if self.peer.own_networks else {name: ours[name] for name in SAME_AS_OURS}),
            "PATH": f"{self.python.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PYTHONPATH": PACKAGES,
            "HOME": str(self._folder),  # what they leave there (.bentoml, .ray, .keras) goes with the folder
            "PYTHONUNBUFFERED": "1",
            "PEER_FOLDER": str(self._folder),
            "PEER_TASK": self.task.name,
            "PEER_REPOSITORY": str(self.repository),
            "PEER_HARDWARE": self.hardware,
            "PEER_WEIGHTS": str(Path("weights").absolute()),
            "PEER_PORT": str(self.port),
            "PEER_CORES": str(self.cores),
            "PEER_THREADS": str(self.cores // self.pipelines),
        }

    async def ready(self, ask: Callable[[], Awaitable[object]], timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until it has loaded all its pipelines, `ask` is answered, and its processes stay the same.

        Raises:
            PeerFailed: it ended before, or the time passed.
        """
        assert self._process is not None
        deadline, last = time.monotonic() + timeout_s, "it loaded no network"
        expected = self.pipelines
        alive, since = self.processes(), time.monotonic()
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise PeerFailed(f"It ended at its start: {self.reason()}")
            if len(list(self._folder.glob("loaded.*"))) >= expected:
                try:
                    await ask()
                except RequestError as error:  # it does not listen yet, or not to this model
                    alive, last = [], str(error)
                if alive != (now := self.processes()):
                    alive, since = now, time.monotonic()
                elif time.monotonic() - since > SETTLED_S:
                    return
            await asyncio.sleep(0.1)
        raise PeerFailed(f"It was not ready after {timeout_s:.0f} s ({last}); its last message: {self.reason()}")

    def reason(self) -> str:
        """The last line of what it has said."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n") if self.log.exists() else []
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")

    def processes(self) -> list[psutil.Process]:
        """All that live, without the keeper."""
        return [] if self._process is None else keeper.processes(self._folder, self._process.pid)

    def memory_mib(self) -> float:
        return memory_mib(self.processes())

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Let it run meanwhile; otherwise it stands still, and costs the others nothing but memory."""
        keeper.tell(self.processes(), signal.SIGCONT)
        try:
            yield
        finally:
            self.pause()

    def pause(self) -> None:
        keeper.tell(self.processes(), signal.SIGSTOP)

    def stop(self) -> None:
        """End every process and remove the folder. Calling it twice does nothing."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._process = None
        shutil.rmtree(self._folder, ignore_errors=True)


def memory_mib(processes: list[psutil.Process]) -> float:
    """Resident memory, in MiB: the sum of PSS, which counts what processes share once."""
    total = 0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss
    return total / 2**20
