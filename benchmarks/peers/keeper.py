"""Stands between the benchmark and a peer, so that nothing of the peer outlives it.

    python -m benchmarks.peers.keeper FOLDER COMMAND…

Runs COMMAND until it ends, or until standard input closes: that is how the benchmark says stop, and what happens when
it dies in whatever way. Then every process of the peer is ended. FOLDER, with what the peer said, is the benchmark's to
remove, or this program's when nobody else is there.

`fovea.supervisor` does so for one process group, which some processes of Ray and BentoML leave.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

STOP_TIMEOUT_S = 10


def processes(folder: Path, keeper: int) -> list[psutil.Process]:
    """All that live of the peer with this folder; `keeper` is the id of the process that runs this program for it.

    They are known by the variable `PEER_FOLDER`, which they inherit. Some of Ray's write their titles over it: those
    are known as children of the others.
    """
    known, found = {keeper}, []
    for process in psutil.process_iter():  # in the order of their ids: parents before their children
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):  # ended meanwhile, or another user's
            if process.pid == keeper or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if process.ppid() in known or process.environ().get("PEER_FOLDER") == str(folder):
                known.add(process.pid)
                found.append(process)
    return found


def tell(told: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in told:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def main() -> int:
    folder, benchmark = Path(sys.argv[1]), os.getppid()
    child = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, start_new_session=True)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: child.terminate())
    started: list[psutil.Process] = []
    threading.Thread(target=_stop_at_end_of_input, args=(folder, child, started), daemon=True).start()
    code = child.wait()
    tell(started, signal.SIGKILL)
    while left := processes(folder, os.getpid()):  # again, for what was being started meanwhile
        tell(left, signal.SIGKILL)
        psutil.wait_procs(left, timeout=1)
    if os.getppid() != benchmark:
        shutil.rmtree(folder, ignore_errors=True)
    return code if code >= 0 else 128 - code


def _stop_at_end_of_input(folder: Path, child: "subprocess.Popen[bytes]", started: list[psutil.Process]) -> None:
    # Not sys.stdin: its lock, held in this thread, would abort the interpreter's shutdown.
    while os.read(0, 4096):
        pass
    started += processes(folder, os.getpid())  # while those without a mark still have their parents
    tell(started, signal.SIGCONT)  # what stands still cannot end in order
    child.terminate()
    try:
        child.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()


if __name__ == "__main__":
    sys.exit(main())
