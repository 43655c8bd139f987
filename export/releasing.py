"""`python -m export release|rollback|list`: publish what stands in the model repository, take it back, list it.

The servers that serve the folder of releases on this machine find out by themselves; `--server` names others.
"""

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from export import publish, release
from export.lint import checks, triton
from fovea import control, locks, program, releases
from fovea.errors import FoveaError, ReleaseError
from fovea.repository import models
from fovea.spec import Task
from fovea.tasks import TASKS, task_named

MESSAGES = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


@dataclass(frozen=True)
class Line:
    """What `list` says of a release; `servers` are those whose published release it is."""

    task: str
    release: str
    state: str
    published: str | None
    steps: tuple[str, ...]
    servers: tuple[str, ...]


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m export", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    new = commands.add_parser("release", help="make a release of a task and publish it")
    new.add_argument("--repository", type=Path, default=Path("model_repository"))
    new.add_argument("--number", help="publish this release, made before or copied here, instead of making one")
    back = commands.add_parser("rollback", help="publish again what was published before")
    for command in (new, back):
        command.add_argument("task", help=f"one of {', '.join(TASKS)}")
        command.add_argument(
            "--server", action="append", default=[], metavar="URL", help="switch this server too (http://host:8000)"
        )
        command.add_argument("--no-server", action="store_true", help="switch no server: they will when started again")
        command.add_argument("--timeout", type=float, default=300, help="seconds for a server to load networks (300)")
    shown = commands.add_parser("list", help="show the releases, newest first")
    shown.add_argument("task", nargs="?", help="of this task only")
    for command in (new, back, shown):
        command.add_argument("--releases", type=Path, default=Path("releases"), metavar="DIR")
        command.add_argument("--json", action="store_true", help="for programs")
    return parser


def main() -> int:
    options = arguments().parse_args()
    run = {"release": make, "rollback": roll_back, "list": show}[options.command]
    return program.run(lambda: run(options), "Stopped; what was published stays.")


def make(options: argparse.Namespace) -> int:
    """Make a release of what the repository holds, unless it has been made or one is named, and publish it."""
    task = task_named(options.task)
    if options.number is None:
        _refuse_faults(task, options.repository)
        made = release.make(task, options.repository)
        number = made[0].number
    else:
        made, number = None, options.number
        _expect(options.releases)
    with _publishing(options.releases, task.name) as place:
        before = releases.current(options.releases, task.name)
        if made is not None:
            release.store(options.releases, place, *made)
        servers = _servers(options, task.name)
        took = publish.publish(options.releases, task.name, number, servers, options.timeout)
    _say(options, number, before, servers, took)
    return 0


def roll_back(options: argparse.Namespace) -> int:
    """Publish what was published before."""
    task = task_named(options.task)
    _expect(options.releases)
    with _publishing(options.releases, task.name):
        before = releases.current(options.releases, task.name)
        servers = _servers(options, task.name)
        number, took = publish.roll_back(options.releases, task.name, servers, options.timeout)
    _say(options, number, before, servers, took)
    return 0


def _expect(folder: Path) -> None:
    if not folder.is_dir():
        raise ReleaseError(f"{folder} is no folder of releases: give another with --releases.")


def _refuse_faults(task: Task, repository: Path) -> None:
    """What Triton would refuse at its load is refused before anything is made of it."""
    _, findings = checks.lint(repository, triton.release(triton.DEFAULT), len(os.sched_getaffinity(0)))
    own = models(task)
    faults = [f for f in findings if f.severity == "error" and f.path.split("/")[0] in own]
    if faults:
        more = f" (and {len(faults) - 1} more: python -m export lint {repository})" if len(faults) > 1 else ""
        raise ReleaseError(f"{repository / faults[0].path}: {faults[0].said} {faults[0].cure}{more}")


@contextmanager
def _publishing(folder: Path, task: str) -> Iterator[Path]:
    """Be the only one, and say in one sentence what is wrong with the folder."""
    releases.current(folder, task)  # nothing is to be written into a model repository
    try:
        with locks.publishing(
            folder,
            lambda: MESSAGES.print(f"Waiting: another release of {folder} is being published, or a server starts."),
        ) as place:
            yield place
    except OSError as error:
        raise ReleaseError(
            f"{folder} cannot be written ({error.strerror}): make room, or give another with --releases; what was "
            "published stays."
        ) from None


def _servers(options: argparse.Namespace, task: str) -> list[str]:
    """The running servers that serve the task."""
    if options.no_server:
        return []
    urls = dict.fromkeys((*locks.servers(options.releases), *(url.rstrip("/") for url in options.server)))
    serving = [url for url in urls if task in control.loaded(url, publish.SHORT_S)]
    for url in urls:
        if url not in serving:
            MESSAGES.print(f"The server at {url} does not serve {task} and is left as it is.")
    return serving


def _say(options: argparse.Namespace, number: str, before: str | None, servers: Sequence[str], took_s: float) -> None:
    if options.json:
        said = {"task": options.task, "release": number, "before": before, "servers": servers}
        print(json.dumps(said | {"switch_ms": round(1e3 * took_s, 1)}))
        return
    print(f"{options.task}: release {number}" + (f", before {before}" if before not in (None, number) else ""))
    if servers:
        MESSAGES.print(f"Switched {', '.join(servers)} in {1e3 * took_s:.0f} ms.")
    else:
        MESSAGES.print("No running server was switched; it will be served from the next start on.")


def show(options: argparse.Namespace) -> int:
    """All releases, newest first."""
    folder = options.releases
    tasks = [task_named(options.task).name] if options.task else releases.published(folder)
    lines = [line for task in tasks for line in _lines(folder, task)]
    if options.json:
        print(json.dumps([vars(line) for line in lines], indent=2))
    elif lines:
        Console(soft_wrap=True).print(_table(lines))
    else:
        MESSAGES.print(f"{folder} holds no release yet: python -m export release TASK makes one.")
    return 0


def _lines(folder: Path, task: str) -> Iterator[Line]:
    here = releases.current(folder, task)
    published = {entry.release: entry.published for entry in releases.history(folder, task)}
    before, _ = releases.neighbours(folder, task)
    answering = {url: _answering(url, task) for url in locks.servers(folder)}
    others = sorted(path.parent.name.removeprefix(f"{task}-") for path in folder.glob(f"{task}-*/{releases.MANIFEST}"))
    for number in (*reversed(published), *(number for number in others if number not in published)):
        state = {here: "published", before: "previous"}.get(number, "")
        try:
            steps = releases.read(folder, task, number).steps
        except ReleaseError as error:
            steps, state = (), "damaged"
            MESSAGES.print(str(error), markup=False)
        servers = tuple(url for url, version in answering.items() if version == number)
        yield Line(task, number, state, published.get(number), steps, servers)


def _answering(url: str, task: str) -> str | None:
    try:
        return control.loaded(url, publish.SHORT_S).get(task)
    except FoveaError as error:
        MESSAGES.print(str(error), markup=False)
        return None


def _table(lines: Sequence[Line]) -> Table:
    drawn = Table(box=None, pad_edge=False)
    for name in ("task", "release", "", "published (UTC)", "served by"):
        drawn.add_column(name, no_wrap=True)
    for line in lines:
        when = (line.published or "never")[:19].replace("T", " ")
        drawn.add_row(line.task, line.release, line.state, when, "\n".join(line.servers))
    return drawn
