"""Stands between `fovea.server` and tritonserver, so that nothing outlives either: `python -m fovea.supervisor`.

    arguments: FOLDER COMMAND…

Runs COMMAND until it ends, or until standard input closes: that is how the parent says stop, and what happens when the
parent dies in whatever way. Then every process of COMMAND's group is ended and its shared memory, whose names begin
with FOLDER's, is removed; FOLDER too, unless the parent is still there to read the log in it.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

STOP_TIMEOUT_S = 15
PR_SET_PDEATHSIG = 1


def main() -> int:
    folder, command = Path(sys.argv[1]), sys.argv[2:]
    # Should this process itself be killed, the kernel tells the child. One thread so far: preexec_fn is safe.
    libc = ctypes.CDLL(None)
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM),
    )
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: child.terminate())
    told = threading.Event()
    threading.Thread(target=_stop_at_end_of_input, args=(child, told), daemon=True).start()
    code = child.wait()
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    for region in Path("/dev/shm").glob(f"{folder.name}*"):
        region.unlink(missing_ok=True)
    if told.is_set():
        shutil.rmtree(folder, ignore_errors=True)
    return code if code >= 0 else 128 - code


def _stop_at_end_of_input(child: "subprocess.Popen[bytes]", told: threading.Event) -> None:
    # Not sys.stdin: its lock, held in this thread, would abort the interpreter's shutdown.
    while os.read(0, 4096):
        pass
    told.set()
    child.terminate()
    try:
        child.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()


if __name__ == "__main__":
    sys.exit(main())
