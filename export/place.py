"""Files into the model repository: all of a task's, or none of them."""

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from fovea.errors import ExportError


def place(repository: Path, files: Mapping[str, bytes], gone: Collection[str] = ()) -> None:
    """Write every file beside the repository's own first, then move them in, one atomic rename each; `gone` go.

    Two at once take turns. What an export that was killed half way left is put back first.

    Raises:
        ExportError: no room, or no permission; the repository is as it was.
    """
    stage: Path | None = None
    made: list[Path] = []
    try:
        _make(repository, made)
        with _alone(repository):
            for left in repository.glob(".export-*"):
                _undo(repository, left)
            gone = [name for name in gone if name not in files and (repository / name).exists()]
            stage = Path(tempfile.mkdtemp(prefix=".export-", dir=repository))
            for name, content in files.items():
                _write(stage / "new" / name, content)
            for name in (*files, *gone):
                if (repository / name).exists():
                    _write(stage / "old" / name, (repository / name).read_bytes())
            _write(stage / "names.json", json.dumps([*files, *gone]).encode())
            for name in files:
                _make((repository / name).parent, made)
                os.replace(stage / "new" / name, repository / name)
            for name in gone:
                (repository / name).unlink()
            (stage / "names.json").unlink()  # done: nothing is to be put back any more
    except BaseException as error:  # Ctrl-C too must not leave half of a task
        if stage is not None:
            _undo(repository, stage)
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()
        if not isinstance(error, OSError):
            raise
        raise ExportError(
            f"{repository} cannot be written ({error.strerror}): make room or give another with --repository; "
            "nothing was changed."
        ) from None
    shutil.rmtree(stage, ignore_errors=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process is placing files there; a process that dies lets go."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _make(folder: Path, made: list[Path]) -> None:
    """Create a folder and those above it, and note them in `made`."""
    for path in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        path.mkdir()
        made.append(path)


def _undo(repository: Path, stage: Path) -> None:
    """Put back what was there before `stage` began to move, and delete it."""
    journal = stage / "names.json"
    names: Sequence[str] = json.loads(journal.read_bytes()) if journal.exists() else ()
    for name in names:
        if (stage / "new" / name).exists():
            continue  # not moved yet
        if (stage / "old" / name).exists():
            os.replace(stage / "old" / name, repository / name)
        else:
            (repository / name).unlink(missing_ok=True)
    shutil.rmtree(stage, ignore_errors=True)
