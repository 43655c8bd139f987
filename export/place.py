"""Files into the model repository: all of a task's, or none of them."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from fovea.errors import ExportError


def place(repository: Path, files: Mapping[str, bytes]) -> None:
    """Write every file beside the repository's own first, then move them in, one atomic rename each.

    Raises:
        ExportError: no room, or no permission; the repository is as it was.
    """
    stage: Path | None = None
    made: list[Path] = []
    moved: list[str] = []
    try:
        _make(repository, made)
        stage = Path(tempfile.mkdtemp(prefix=".export-", dir=repository))
        for name, content in files.items():
            _write(stage / "new" / name, content)
            if (repository / name).exists():
                _write(stage / "old" / name, (repository / name).read_bytes())
        for name in files:
            _make((repository / name).parent, made)
            os.replace(stage / "new" / name, repository / name)
            moved.append(name)
    except BaseException as error:  # Ctrl-C too must not leave half of a task
        if stage is not None:
            _undo(repository, stage, moved)
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


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _make(folder: Path, made: list[Path]) -> None:
    """Create a folder and those above it, and note them in `made`."""
    for path in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        path.mkdir()
        made.append(path)


def _undo(repository: Path, stage: Path, moved: list[str]) -> None:
    for name in moved:
        if (stage / "old" / name).exists():
            os.replace(stage / "old" / name, repository / name)
        else:
            (repository / name).unlink()
    shutil.rmtree(stage, ignore_errors=True)
