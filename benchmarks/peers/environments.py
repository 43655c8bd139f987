"""A virtual environment for each peer, made on first use and again when its requirements change."""

import asyncio
import hashlib
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

from benchmarks.peers.catalogue import Peer
from fovea.errors import FoveaError

FOLDER = Path("out/peers")


class PeerFailed(FoveaError):
    """A peer cannot be installed, started or relied on: it is reported so, and the others go on."""


async def installed(peer: Peer) -> Path:
    """The python of the peer's environment.

    Raises:
        PeerFailed: pip could not install the requirements; its messages are in `pip.log`.
    """
    home = (FOLDER / peer.environment).absolute()
    stamp, log = home / "installed", home / "pip.log"
    python = home / "venv" / "bin" / "python"
    wanted = fingerprint(peer)
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    home.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    await _run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(home / "venv")], log)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    await _run([*pip, "install", "--requirement", str(peer.requirements)], log)
    stamp.write_text(wanted, encoding="utf-8")
    return python


def fingerprint(peer: Peer) -> str:
    """Changes with the requirements, those that all share included, and with this Python."""
    files = sorted({peer.requirements, *peer.requirements.parent.glob("pipeline.txt")})
    return hashlib.sha256(b"\0".join([sys.version.encode(), *(file.read_bytes() for file in files)])).hexdigest()


async def _run(command: list[str], log: Path) -> None:
    with log.open("wb") as messages:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=messages, stderr=asyncio.subprocess.STDOUT, start_new_session=True
        )
        try:
            code = await process.wait()
        finally:
            if process.returncode is None:  # Ctrl-C: pip, and the compilers it may have started
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    if code:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        errors = [line for line in lines if line.startswith("ERROR:")] or lines[-1:] or ["pip said nothing"]
        raise PeerFailed(f"It could not be installed ({errors[-1].removeprefix('ERROR: ')}); all of it is in {log}.")
