"""A folder of releases: which stand in it, which one is published, and whether each is still what it was.

    <task>-<number>/               a release: the ensemble, its steps named with their content, and release.json
    <network>-<digest>/            a step, shared by every release that has the same
    <task> -> <task>-<number>      the published one; replacing this link is publishing
    <task>.json                    the releases that were published, oldest first

It is itself a Triton model repository. A release's number is made of the SHA-256 of all that it serves, and is the
version of its ensemble: Triton repeats it in every answer.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fovea.errors import ReleaseError

MANIFEST = "release.json"


@dataclass(frozen=True)
class Content:
    """What a file holds."""

    bytes: int
    sha256: str


Files = Mapping[str, Content]
"""Path below a model's folder → what is there."""


@dataclass(frozen=True)
class Release:
    """What `release.json` says. `models` are all folders that serve it: the ensemble, under the task's name, and steps.

    Times are ISO 8601 in UTC; `preprocessing` is `fingerprint.preprocessing` of the package, `fovea`, that made it.
    """

    task: str
    created: str
    source: str
    fovea: str
    preprocessing: str
    models: Mapping[str, Files]

    @property
    def number(self) -> str:
        """Twelve digits, the first not 0: as Triton can have it for a version."""
        return str(10**11 + int(digest(self.models), 16) % (9 * 10**11))

    @property
    def name(self) -> str:
        return f"{self.task}-{self.number}"

    @property
    def steps(self) -> tuple[str, ...]:
        return tuple(name for name in self.models if name != self.task)


@dataclass(frozen=True)
class Publication:
    """A line of `<task>.json`."""

    release: str
    published: str


def digest(models: Mapping[str, Files] | Files) -> str:
    """SHA-256, in hexadecimal, of names and contents, in whatever order they come."""
    return hashlib.sha256(json.dumps(models, sort_keys=True, default=asdict).encode()).hexdigest()


def files(folder: Path) -> list[Path]:
    """What a model's folder holds; not what is hidden, nor Python's caches, which the server leaves there."""
    below = (path for path in sorted(folder.rglob("*")) if not path.is_dir())
    inner = ((path, path.relative_to(folder).parts) for path in below)
    return [path for path, parts in inner if "__pycache__" not in parts and not any(p.startswith(".") for p in parts)]


def write(release: Release) -> str:
    """`release.json`."""
    return json.dumps({"release": release.number, **asdict(release)}, indent=2) + "\n"


def read(folder: Path, task: str, number: str) -> Release:
    """The release as its manifest says, which must be about this number.

    Raises:
        ReleaseError: it is missing, damaged, or not what was released.
    """
    path = folder / f"{task}-{number}" / MANIFEST
    try:
        said: dict[str, Any] = json.loads(path.read_bytes())
        models = {
            model: {name: Content(**content) for name, content in table.items()}
            for model, table in said.pop("models").items()
        }
        said.pop("release")
        release = Release(**said, models=models)
    except FileNotFoundError:
        raise ReleaseError(f"{path} is missing, so this is no whole release: {_cure(task)}.") from None
    except OSError as error:
        raise ReleaseError(f"{path} cannot be read ({error.strerror}): {_cure(task)}.") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ReleaseError(f"{path} is damaged, it says no release: {_cure(task)}.") from None
    if (release.task, release.number) != (task, number):
        raise ReleaseError(f"{path} was changed, it is about {release.name}: {_cure(task)}.")
    return release


def verify(folder: Path, task: str, number: str) -> Release:
    """Hash every file of a release; returns it if all are what they were.

    Raises:
        ReleaseError: naming the first file that is missing, cut off, changed, or was not there.
    """
    release = read(folder, task, number)
    for model, table in release.models.items():
        verify_model(folder / (release.name if model == task else model), table, task)
    if not (folder / release.name / number).is_dir():
        raise ReleaseError(f"{folder / release.name / number} is missing: {_cure(task)}.")
    return release


def verify_model(place: Path, table: Files, task: str) -> None:
    """Hash every file of one folder of a release of `task`.

    Raises:
        ReleaseError: naming the first file that is missing, cut off, changed, or was not there.
    """
    found = {path.relative_to(place).as_posix() for path in files(place)} - {MANIFEST}
    for name in sorted(found | set(table)):
        if name not in found:
            fault = "is missing"
        elif name not in table:
            fault = "was not there when this was released"
        elif _content(place / name, task) != table[name]:
            fault = "is cut off or was changed"
        else:
            continue
        raise ReleaseError(f"{place / name} {fault}: {_cure(task)}.")


def _content(path: Path, task: str) -> Content:
    try:
        with path.open("rb") as file:
            return Content(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())
    except OSError as error:
        raise ReleaseError(f"{path} cannot be read ({error.strerror}): {_cure(task)}.") from None


def _cure(task: str) -> str:
    return f"restore it from a copy, or release the same networks again with python -m export release {task}"


def published(folder: Path) -> list[str]:
    """The tasks of which a release is published there."""
    return sorted(path.name for path in folder.glob("*") if path.is_symlink())


def current(folder: Path, task: str) -> str | None:
    """The number of the published release, or None.

    Raises:
        ReleaseError: there is a model of that name that is no release.
    """
    link = folder / task
    if link.is_symlink():
        return link.readlink().name.removeprefix(f"{task}-")
    if link.exists():
        raise ReleaseError(f"{folder} is a model repository, no folder of releases: give another with --releases.")
    return None


def history(folder: Path, task: str) -> list[Publication]:
    """The releases that were published, oldest first; those after the current one were rolled back.

    Raises:
        ReleaseError: the file is damaged.
    """
    path = folder / f"{task}.json"
    try:
        return [Publication(**line) for line in json.loads(path.read_bytes())]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError):
        raise ReleaseError(
            f"{path} is damaged: restore it from a copy, or delete it, and there is nothing to roll back to."
        ) from None


def neighbours(folder: Path, task: str) -> tuple[str | None, str | None]:
    """What was published before the current release, and what was published after it and then rolled back."""
    line = [publication.release for publication in history(folder, task)]
    here = current(folder, task)
    place = line.index(here) if here in line else len(line)
    return (line[place - 1] if place > 0 else None), (line[place + 1] if place + 1 < len(line) else None)


def kept(folder: Path, task: str) -> list[str]:
    """What servers keep loaded: the current release and the one that was current before it, if there is one."""
    before, after = neighbours(folder, task)
    return [number for number in (current(folder, task), after or before) if number is not None]


def steps(folder: Path, tasks: Sequence[str]) -> list[str]:
    """The step folders of the published releases of `tasks`; a task without one has none."""
    found = ((task, current(folder, task)) for task in tasks)
    return [step for task, number in found if number for step in read(folder, task, number).steps]


def models(folder: Path, tasks: Sequence[str]) -> tuple[list[str], list[str]]:
    """What a server of these tasks loads, and a sentence for each kept release that it cannot load.

    Every published release stands there twice: under its task's name, and under its own beside the other kept one's.

    Raises:
        ReleaseError: a task has no published release, or it is not what was released.
    """
    if not tasks:
        raise ReleaseError(f"{folder} holds no release: python -m export release TASK makes one.")
    loaded, left_out = [], []
    for task in tasks:
        here = current(folder, task)
        if here is None:
            raise ReleaseError(f"{folder} holds no release of {task}: python -m export release {task} makes one.")
        loaded += [task, verify(folder, task, here).name]
        for number in kept(folder, task)[1:]:
            try:
                loaded.append(verify(folder, task, number).name)
            except ReleaseError as error:
                left_out.append(str(error))
    return loaded, left_out
