"""Who publishes into a folder of releases, and who serves it: locks, which the kernel gives back when a process dies.

<releases>/.control/lock           held by whoever publishes, and, shared, by a server while it starts
<releases>/.control/servers/*      one file per running server, locked as long as it runs: its HTTP address
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

FOLDER = ".control"


@contextmanager
def publishing(releases: Path, wait: Callable[[], None]) -> Iterator[Path]:
    """Be the only one that publishes; yields the folder for what is not ready to be seen.

    Whoever else publishes, or starts a server, is waited for, after `wait` was called.

    Raises:
        OSError: the folder cannot be written.
    """
    control = releases / FOLDER
    control.mkdir(parents=True, exist_ok=True)
    with (control / "lock").open("ab") as lock:
        if not _taken(lock, fcntl.LOCK_EX):
            wait()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield control


@contextmanager
def starting(releases: Path) -> Iterator[None]:
    """Hold publishing off while a server starts: what is published then would reach it neither before nor after."""
    try:
        lock = (releases / FOLDER / "lock").open("rb")
    except OSError:  # a copy, or a folder that cannot be read: nobody publishes there
        yield
        return
    with lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


def enter(releases: Path, name: str, url: str) -> IO[bytes] | None:
    """Say that a server at `url` serves this folder, until `leave` or the death of this process.

    None where that cannot be written: whoever publishes must then name the server.
    """
    place = releases / FOLDER / "servers"
    try:
        place.mkdir(parents=True, exist_ok=True)
        (place / f".{name}").write_text(url)
        held = (place / f".{name}").open("rb")
    except OSError:
        return None
    fcntl.flock(held, fcntl.LOCK_EX)
    os.replace(place / f".{name}", place / name)  # seen only once it is locked: what is not locked is a dead server's
    return held


def leave(releases: Path, name: str, held: IO[bytes]) -> None:
    with suppress(OSError):
        (releases / FOLDER / "servers" / name).unlink()
    held.close()


def servers(releases: Path) -> list[str]:
    """The HTTP addresses of the running servers that serve this folder; what dead ones left is removed."""
    urls = []
    for path in sorted((releases / FOLDER / "servers").glob("[!.]*")):
        with suppress(FileNotFoundError), path.open("rb") as file:
            if not _taken(file, fcntl.LOCK_SH):
                urls.append(file.read().decode())
                continue
        with suppress(OSError):
            path.unlink()
    return urls


def _taken(file: IO[bytes], kind: int) -> bool:
    """Take the lock, if nobody has it."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
