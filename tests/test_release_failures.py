"""Releases against full disks, read-only folders, SIGKILL at any moment, and one another."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from small_releases import Command, everything, line, publish, repository

from fovea import locks, releases
from fovea.tasks import TASKS

FUNDUS = TASKS["fundus"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "releases"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return repository(tmp_path / "repository", FUNDUS, 1)


@pytest.mark.parametrize("stride", [4, pytest.param(1, marks=pytest.mark.slow)], ids=["some moments", "every moment"])
def test_a_release_killed_at_any_moment_leaves_the_old_or_the_new_and_the_next_call_works(
    stride: int, export: Command, folder: Path, tmp_path: Path
) -> None:
    publish(export, folder, repository(tmp_path / "r", FUNDUS, 1))
    publish(export, folder, repository(tmp_path / "r", FUNDUS, 2))
    source = repository(tmp_path / "r", FUNDUS, 3)
    program = Path(__file__).with_name("killed_releases.py")
    command = [sys.executable, str(program), str(folder), str(source), str(stride)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    counted = json.loads(done.stdout)
    assert counted["old"] * stride > 30
    assert counted["new"] >= 1


FORKED = """
import os, resource, signal, sys
from pathlib import Path
from export import releasing
if sys.argv[1] == "full":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing beyond the limit is then an error, as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
elif os.getuid() == 0:
    os.setuid(65534)  # root may write anywhere
sys.argv = ["export", *sys.argv[2:]]
sys.exit(releasing.main())
"""


@pytest.mark.parametrize(("obstacle", "reason"), [("full", "File too large"), ("read-only", "Permission denied")])
def test_a_full_disk_or_a_read_only_folder_is_one_sentence_and_what_was_published_stays(
    obstacle: str, reason: str, export: Command, folder: Path, tmp_path: Path
) -> None:
    publish(export, folder, repository(tmp_path / "r", FUNDUS, 1))
    before = everything(folder)
    source = repository(tmp_path / "r", FUNDUS, 2)
    for path in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        path.chmod(0o755)
    for path in (folder, folder / locks.FOLDER):
        path.chmod(0o555)
    arguments = ["release", "fundus", "--releases", str(folder), "--repository", str(source)]
    done = subprocess.run(
        [sys.executable, "-c", FORKED, obstacle, *arguments], capture_output=True, text=True, cwd=ROOT
    )
    for path in (folder, folder / locks.FOLDER):
        path.chmod(0o755)
    assert done.returncode == 1, done.stderr
    assert done.stderr == (
        f"{folder} cannot be written ({reason}): make room, or give another with --releases; what was published "
        "stays.\n"
    )
    assert everything(folder) == before
    publish(export, folder, source)


def test_two_releases_at_once_are_both_made_one_after_the_other(export: Command, folder: Path, tmp_path: Path) -> None:
    first = publish(export, folder, repository(tmp_path / "r", FUNDUS, 1))
    sources = [repository(tmp_path / f"r{value}", FUNDUS, value) for value in (2, 3)]
    programs = [
        subprocess.Popen(
            [sys.executable, "-m", "export", "release", "fundus", "--releases", folder, "--repository", source],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for source in sources
    ]
    said = [program.communicate()[0].split()[2].rstrip(",") for program in programs]
    assert [program.returncode for program in programs] == [0, 0]
    assert sorted(line(folder, FUNDUS)) == sorted([first, *said])
    assert releases.current(folder, "fundus") == line(folder, FUNDUS)[-1]
    for number in line(folder, FUNDUS):
        releases.verify(folder, "fundus", number)


def test_who_comes_second_says_that_it_waits(folder: Path, source: Path) -> None:
    with locks.publishing(folder, lambda: pytest.fail("nobody else publishes")):
        second = subprocess.Popen(
            [sys.executable, "-m", "export", "release", "fundus", "--releases", folder, "--repository", source],
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert second.stderr is not None
        assert (
            second.stderr.readline()
            == f"Waiting: another release of {folder} is being published, or a server starts.\n"
        )
        assert not (folder / "fundus").exists()
    assert second.wait() == 0
    second.stderr.close()
    assert (folder / "fundus").is_symlink()


def test_a_file_in_the_place_of_the_folder_is_one_sentence(export: Command, tmp_path: Path, source: Path) -> None:
    (tmp_path / "releases").write_bytes(b"a file")
    code, _, err = export("release", "fundus", "--releases", tmp_path / "releases", "--repository", source)
    assert code == 1
    assert err.startswith(f"{tmp_path / 'releases'} cannot be written (")
    assert (tmp_path / "releases").read_bytes() == b"a file"


def test_a_folder_that_cannot_be_written_can_be_served_but_not_entered(folder: Path) -> None:
    folder.mkdir()
    (folder / locks.FOLDER).write_bytes(b"in the way, also of root")
    assert locks.enter(folder, "fovea-1", "http://127.0.0.1:8000") is None
    with locks.starting(folder):
        assert locks.servers(folder) == []


def test_a_server_is_found_until_it_leaves(folder: Path) -> None:
    held = locks.enter(folder, "fovea-1", "http://127.0.0.1:8000")
    assert held is not None
    (folder / locks.FOLDER / "servers" / "fovea-2").write_text("http://127.0.0.1:9000")  # of one that was killed
    assert locks.servers(folder) == ["http://127.0.0.1:8000"]
    assert [path.name for path in (folder / locks.FOLDER / "servers").iterdir()] == ["fovea-1"]
    locks.leave(folder, "fovea-1", held)
    assert locks.servers(folder) == []
