"""Kill `python -m export release` before each thing it does to a folder of releases, and look at what is left.

    arguments: the folder, where something is published twice; the repository of another release; a stride, 1 for each

Exits with a traceback if ever what is published is damaged, or the next release does not succeed. Prints after how many
of the deaths the old release was published, and the new one.
"""

import io
import json
import os
import shutil
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from export import releasing
from fovea import releases

FOLDER, SOURCE, STRIDE = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
EVENTS = {"open", "os.mkdir", "os.rename", "os.symlink", "os.chmod", "os.remove", "os.rmdir", "shutil.rmtree"}
NEVER = -1


def main() -> None:
    old = published()
    stood = {path.name for path in FOLDER.glob("*-*")}
    found = {"old": 0, "new": 0}
    moment = 0
    ended = False
    while not ended:
        moment += STRIDE
        ended = release(moment)
        found["old" if published() == old else "new"] += 1
        assert release(NEVER)
        assert published() != old
        run("rollback")
        assert published() == old
        for path in FOLDER.glob("*-*"):  # so that there is as much to do the next time
            if path.name not in stood:
                shutil.rmtree(path)
    print(json.dumps(found))


def published() -> str | None:
    """The number of the published release, which is whole."""
    number = releases.current(FOLDER, "fundus")
    assert number is not None
    releases.verify(FOLDER, "fundus", number)
    return number


def release(moment: int) -> bool:
    """Whether it ended by itself, before it was killed at that event."""
    child = os.fork()
    if child == 0:
        count = 0

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal count
            if event in EVENTS and any(str(FOLDER) in str(argument) for argument in arguments):
                count += 1
                if count == moment:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        os._exit(run("release", "--repository", SOURCE))
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    return status == 0


def run(command: str, *options: str) -> int:
    sys.argv = ["export", command, "fundus", "--releases", str(FOLDER), *options]
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as said:
        code = releasing.main()
    assert code == 0, said.getvalue()
    return code


if __name__ == "__main__":
    main()
