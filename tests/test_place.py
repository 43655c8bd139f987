"""Files into the repository: all of them or none, whatever happens half way."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from export.place import place
from fovea.errors import ExportError

FILES = {"a/config.pbtxt": b"new a", "b/1/model.onnx": b"n" * 5000, "c/config.pbtxt": b"new c"}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A repository in which two of `FILES` are older and one is missing."""
    for name in ("a/config.pbtxt", "b/1/model.onnx", "other/config.pbtxt"):
        (tmp_path / "r" / name).parent.mkdir(parents=True)
        (tmp_path / "r" / name).write_bytes(b"old " + name.encode())
    return tmp_path / "r"


def everything(folder: Path) -> dict[str, bytes | None]:
    """Files and folders, hidden ones too."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def test_placing_replaces_adds_and_leaves_the_rest_and_no_trace(old: Path) -> None:
    before = everything(old)
    place(old, FILES)
    assert everything(old) == before | FILES | {"c": None}


def test_placing_makes_the_repository_if_there_is_none(tmp_path: Path) -> None:
    place(tmp_path / "new" / "repository", FILES)
    assert everything(tmp_path / "new" / "repository").items() >= FILES.items()


@pytest.mark.parametrize("obstacle", ["c", "c/config.pbtxt/folder", "b/1/model.onnx"])
def test_an_obstacle_half_way_leaves_everything_as_it_was(obstacle: str, old: Path) -> None:
    """A file where a folder should be, or a folder where a file should be."""
    if obstacle == "c":
        (old / "c").write_bytes(b"a file")
    elif obstacle == "b/1/model.onnx":
        (old / obstacle).unlink()
        (old / obstacle).mkdir()
    else:
        (old / obstacle).mkdir(parents=True)
    before = everything(old)
    with pytest.raises(ExportError, match="nothing was changed") as caught:
        place(old, FILES)
    assert "\n" not in str(caught.value)
    assert everything(old) == before


def test_a_repository_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "r").write_bytes(b"a file")
    with pytest.raises(ExportError, match="r cannot be written"):
        place(tmp_path / "r", FILES)
    assert everything(tmp_path) == {"r": b"a file"}


def test_a_failure_in_a_new_repository_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot be written"):
        place(tmp_path / "new" / "r", FILES | {"a/config.pbtxt/below": b"no room for this"})
    assert everything(tmp_path) == {}


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_ctrl_c_while_moving_leaves_everything_as_it_was(
    moved: int, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, calls = everything(old), iter(range(100))
    honest = os.replace

    def interrupted(source: Path, target: Path) -> None:
        if next(calls) == moved:
            raise KeyboardInterrupt
        honest(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            place(old, FILES)
    assert everything(old) == before


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from export.place import place
from fovea.errors import ExportError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing beyond the limit is then an error, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    place(Path(sys.argv[1]), {"a/config.pbtxt": b"new a", "b/1/model.onnx": b"n" * 5000})
except ExportError as error:
    sys.exit(str(error))
"""


def test_a_full_disk_leaves_everything_as_it_was(old: Path) -> None:
    before = everything(old)
    done = subprocess.run([sys.executable, "-c", FULL_DISK, old], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr == (
        f"{old} cannot be written (File too large): make room or give another with --repository; nothing was changed.\n"
    )
    assert everything(old) == before


def test_files_that_go_are_put_back_when_a_later_one_cannot_be_placed(old: Path) -> None:
    (old / "c").write_bytes(b"a file where a folder should be")
    before = everything(old)
    with pytest.raises(ExportError, match="nothing was changed"):
        place(old, FILES, gone=["other/config.pbtxt"])
    assert everything(old) == before


def test_files_that_go_are_gone_and_a_missing_one_is_no_error(old: Path) -> None:
    place(old, FILES, gone=["other/config.pbtxt", "never/there"])
    assert not (old / "other" / "config.pbtxt").exists()
    assert (old / "a" / "config.pbtxt").read_bytes() == FILES["a/config.pbtxt"]


KILLED = """
import os, signal, sys
from pathlib import Path
from export import place

moves, replace = int(sys.argv[2]), os.replace
def replace_and_die(source, target):
    global moves
    if moves == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    moves -= 1
    replace(source, target)
place.os.replace = replace_and_die
place.place(Path(sys.argv[1]), {"a/config.pbtxt": b"new a", "b/1/model.onnx": b"new b", "c/config.pbtxt": b"new c"})
"""


@pytest.mark.parametrize("moves", [0, 1, 2])
def test_what_a_killed_export_left_half_placed_is_put_back_by_the_next(old: Path, moves: int) -> None:
    before = everything(old)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(old), str(moves)], cwd=ROOT, check=False)
    assert killed.returncode == -9
    assert any(old.glob(".export-*"))
    place(old, {"d/config.pbtxt": b"another task"})
    assert everything(old) == before | {"d": None, "d/config.pbtxt": b"another task"} | (
        {"c": None} if moves > 1 else {}
    )


def test_two_exports_at_once_take_turns(old: Path) -> None:
    script = "import sys; from pathlib import Path; from export.place import place\n"
    script += (
        "for turn in range(40): place(Path(sys.argv[1]), {f'{n}/config.pbtxt': sys.argv[2].encode() for n in 'abc'})"
    )
    both = [subprocess.Popen([sys.executable, "-c", script, str(old), name], cwd=ROOT) for name in ("one", "two")]
    assert [process.wait(60) for process in both] == [0, 0]
    assert len({(old / name / "config.pbtxt").read_bytes() for name in "abc"}) == 1
    assert not list(old.glob(".export-*"))
