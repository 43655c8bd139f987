"""Files into the model repository: all of a task's, or none of them."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from fovea.errors import ExportError


def place(repository: Path, files: Mapping[str, bytes]) -> None:
    """Write every file beside the repository's own first, then move them in, one atomic rename each.

    Raises:
        ExportError: no room, or no permission; the repository is as it was.
    """
    stage = Path()
    try:
        repository.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=".export-", dir=repository))
        for name, content in files.items():
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            (stage / name).write_bytes(content)
        for name in files:
            (repository / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(stage / name, repository / name)
    except OSError as error:
        raise ExportError(
            f"{repository} cannot be written ({error.strerror}): make room or give another with --repository; "
            "nothing was changed."
        ) from None
    finally:
        if stage.name:
            shutil.rmtree(stage, ignore_errors=True)
