"""Publishing: a stored release becomes the one that answers, on disk and in every running server, or nothing changes.

Servers first load it under its own name and answer one true request with it. Then the link `<task>` is replaced, which
is the moment of publishing, and each server loads `<task>` again. Triton holds the steps of a request from its start
and steps of different releases have different names: every answer comes wholly from one release.
"""

import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from fovea import control, locks, releases
from fovea.client import Client
from fovea.errors import FoveaError, ReleaseError, RequestError
from fovea.releases import Publication
from fovea.server import sample

SHORT_S = 10.0
"""For what a server does at once; loading a network may take as long as the user allows."""


def publish(folder: Path, task: str, number: str, servers: Sequence[str], timeout_s: float) -> float:
    """Let a stored release answer, after every file of it was hashed; returns how long the servers' switch took, in s.

    Raises:
        ReleaseError: it is damaged, or a server refused it; what was published stays.
    """
    line = releases.history(folder, task)
    here = releases.current(folder, task)
    if number != here:
        numbers = [publication.release for publication in line]
        line = line[: numbers.index(here) + 1] if here in numbers else []
        now = datetime.now(UTC).isoformat(timespec="seconds")
        line = [*(entry for entry in line if entry.release != number), Publication(number, now)]
    return _switch(folder, task, number, line, servers, timeout_s)


def roll_back(folder: Path, task: str, servers: Sequence[str], timeout_s: float) -> tuple[str, float]:
    """Let the release answer that was published before the current one; as `publish`, with its number.

    Raises:
        ReleaseError: there is none, it is damaged, or a server refused it; what was published stays.
    """
    before, _ = releases.neighbours(folder, task)
    if before is None:
        raise ReleaseError(f"No release of {task} was published in {folder} before the current one: nothing was done.")
    return before, _switch(folder, task, before, releases.history(folder, task), servers, timeout_s)


def _switch(
    folder: Path, task: str, number: str, line: Sequence[Publication], servers: Sequence[str], timeout_s: float
) -> float:
    releases.verify(folder, task, number)
    before = releases.current(folder, task), releases.history(folder, task)
    try:
        for url in servers:
            _rehearse(url, task, number, timeout_s)
        _link(folder, task, number, line)
        started = time.monotonic()
        for url in servers:
            _load_published(folder, url, task, number)
        took = time.monotonic() - started
    except BaseException:  # Ctrl-C too
        _go_back(folder, task, *before, servers)
        raise
    for url in servers:
        _retire(folder, url)
    return took


def _rehearse(url: str, task: str, number: str, timeout_s: float) -> None:
    """One true answer of the release, under its own name, beside the published one."""
    try:
        control.load(url, f"{task}-{number}", timeout_s)
        with Client(url) as client:
            client.ask(task, sample(), timeout_s=timeout_s, release=number)
    except (ReleaseError, RequestError) as error:
        raise ReleaseError(f"Release {number} of {task} was tried, and is not published: {error}") from None


def _load_published(folder: Path, url: str, task: str, number: str) -> None:
    # Triton takes a folder whose time is not later than that of what it has loaded for unchanged, and says nothing:
    # no roll-back would ever happen.
    os.utime(folder / f"{task}-{number}")
    control.load(url, task, SHORT_S)
    answering = control.loaded(url, SHORT_S).get(task)
    if answering != number:
        raise ReleaseError(
            f"The server at {url} was told to load release {number} of {task} and still answers with {answering}: "
            f"check that it serves {folder} and that its clock agrees with this machine's."
        )


def _link(folder: Path, task: str, number: str, line: Sequence[Publication]) -> None:
    """First the history, then the link: until that is replaced, what the history says after it does not count."""
    if line != releases.history(folder, task):  # a roll-back changes nothing in it, and needs no room on a full disk
        written = folder / locks.FOLDER / f"{task}.json"
        with written.open("w", encoding="utf-8") as file:
            json.dump([asdict(publication) for publication in line], file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        written.replace(folder / f"{task}.json")
    link = folder / locks.FOLDER / task
    link.unlink(missing_ok=True)
    link.symlink_to(f"{task}-{number}")
    link.replace(folder / task)


def _go_back(folder: Path, task: str, number: str | None, line: Sequence[Publication], servers: Sequence[str]) -> None:
    """As it was before the switch that failed, in the servers too, as far as they still answer."""
    if releases.current(folder, task) != number and number is not None:
        _link(folder, task, number, line)
        for url in servers:
            with suppress(FoveaError):
                _load_published(folder, url, task, number)
    for url in servers:
        _retire(folder, url)


def _retire(folder: Path, url: str) -> None:
    """Take out of service what no kept release needs; what cannot be now will be at the next release."""
    needed = set()
    with suppress(FoveaError):  # a kept release that cannot be read may need anything
        for task in releases.published(folder):
            for number in releases.kept(folder, task):
                release = releases.read(folder, task, number)
                needed |= {task, release.name, *release.steps}
        unneeded = [name for name in control.loaded(url, SHORT_S) if name not in needed and (folder / name).is_dir()]
        for name in sorted(unneeded, key=lambda name: not (folder / name / releases.MANIFEST).exists()):
            control.unload(url, name, SHORT_S)  # ensembles before their steps
