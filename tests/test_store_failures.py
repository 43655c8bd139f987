"""A store that is down, locked, killed, full or damaged: one sentence, no password, and the same command goes on."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from rich.console import Console
from small_stores import ESCAPED, SECRET, Command, files, labelled, sentence
from wire_mongodb import WireMongoDB, serving

from training import store
from training.store_access import LIMITS_MS, opened, shown


def test_a_missing_or_empty_folder_is_refused_by_name(store_program: Command, tmp_path: Path) -> None:
    code, _, stderr = store_program("import", tmp_path / "absent", "--to", tmp_path / "store")
    assert (code, "absent is no folder" in sentence(stderr)) == (2, True)
    (tmp_path / "Normal").mkdir()
    code, _, stderr = store_program("import", tmp_path, "--to", tmp_path / "store")
    assert (code, "as <label>/<picture>" in sentence(stderr)) == (1, True)
    assert not (tmp_path / "store").exists()


def test_a_refused_connection_is_said_at_once_and_without_the_password(
    store_program: Command, refused_port: int, pictures: Path
) -> None:
    assert LIMITS_MS["serverSelectionTimeoutMS"] == 5000  # and a shorter one is obeyed
    address = f"mongodb://doctor:{ESCAPED}@127.0.0.1:{refused_port}/clinic.eyes?serverSelectionTimeoutMS=300"
    for command in (("import", pictures, "--to", address), ("stats", address)):
        code, stdout, stderr = store_program(*command)
        line = sentence(
            stderr, f"No MongoDB server answers at mongodb://doctor:***@127.0.0.1:{refused_port}/clinic.eyes "
        )
        assert code == 1
        assert "Connection refused" in line
        assert "start it" in line
        assert "s3cr3t" not in stdout + stderr


REFUSALS = {
    "a wrong password": ({"saslStart": (18, f"Authentication failed for {SECRET} {ESCAPED}.")}, "correct the user"),
    "no right to look": ({"find": (13, "not authorized on clinic")}, "let that user read and write"),
    "no right to write": ({"insert": (13, "not authorized on clinic")}, "let that user read and write"),
    "a full disk": ({"insert": (14031, "Cannot take a new write: out of disk space")}, "free some room"),
    "a double picture": ({"createIndexes": (11000, "E11000 duplicate key error")}, "holds a picture twice"),
    "anything else": ({"createIndexes": (86, "An existing index has the same name")}, "ask who keeps that server"),
}


@pytest.mark.parametrize(("refusals", "cure"), REFUSALS.values(), ids=REFUSALS.keys())
def test_what_a_server_refuses_is_one_sentence_with_the_cure_and_without_the_password(
    store_program: Command, pictures: Path, refusals: dict[str, tuple[int, str]], cure: str
) -> None:
    with serving(refusals=refusals) as wire:
        user = f"doctor:{ESCAPED}@" if "saslStart" in refusals else ""
        code, stdout, stderr = store_program("import", pictures, "--to", f"mongodb://{user}{wire.host}/clinic.eyes")
    line = sentence(stderr, f"mongodb://{'doctor:***@' if user else ''}{wire.host}/clinic.eyes refused (")
    assert (code, cure in line) == (1, True)
    assert "s3cr3t" not in stdout + stderr


@pytest.mark.parametrize(
    "address",
    [
        "mongodb://doctor:s3cr3t/p@ss@host/clinic.eyes",
        "mongodb://doctor:12/s3cr3t@host/clinic",
        "mongodb://doctor:12?s3cr3t@host/clinic",
        "mongodb://doctor:s3cr3t",
        "mongodb://doctor:s3cr3t:@host",
        "mongodb://doctor:s3cr3t%@host",
        "mongodb:/doctor:s3cr3t@host",
        "mongodb+srv://doctor:s3cr3t@",
        "postgres://doctor:s3cr3t@host/clinic",
    ],
)
def test_an_address_that_is_not_understood_is_not_repeated(
    store_program: Command, pictures: Path, address: str
) -> None:
    for command in (("stats", address), ("import", pictures, "--to", address), ("export", "--from", address, pictures)):
        code, stdout, stderr = store_program(*command)
        assert code == 2
        assert "mongodb://" in sentence(stderr)
        assert "s3cr3t" not in stdout + stderr


def test_wrong_usage_and_help_do_not_repeat_an_address(
    store_program: Command, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"mongodb+srv://doctor:{ESCAPED}@host/clinic"
    monkeypatch.setenv("FOVEA_STORE", address)
    for command in (
        (address,),
        ("import", pictures, address),
        ("stats", "--jsn", address, address),
        ("stats", "--help"),
    ):
        code, stdout, stderr = store_program(*command)
        assert (code, "s3cr3t" not in stdout + stderr) == (0 if "--help" in command else 2, True)


def test_the_environment_may_name_the_store(
    store_program: Command, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOVEA_STORE", str(tmp_path / "store"))
    assert (
        store_program("import", pictures)[0]
        == store_program("stats")[0]
        == store_program("export", tmp_path / "out")[0]
        == 0
    )
    assert files(tmp_path / "out") == files(pictures)


@pytest.mark.parametrize("options", ["speed=high", "serverSelectionTimeoutMS=soon", "tls=true&tls=s3cr3t"])
def test_an_option_that_the_driver_does_not_know_is_named_without_its_value(
    store_program: Command, options: str
) -> None:
    code, stdout, stderr = store_program("stats", f"mongodb://host/clinic?{options}")
    assert (code, f"option {options.split('=')[0]!r} is not" in sentence(stderr)) == (2, True)
    assert options.split("=")[-1] not in stdout + stderr


def test_the_address_is_shown_without_password_and_options() -> None:
    assert shown(f"mongodb://a%40b:{ESCAPED}@h1,h2:28000/clinic?tls=true") == (
        "mongodb://a%40b:***@h1,h2:28000/clinic.images"
    )
    assert shown("mongodb+srv://u:s3cr3t@cluster.example.org/?srvMaxHosts=2") == (
        "mongodb+srv://u:***@cluster.example.org/fovea.images"
    )
    assert shown("mongodb://h") == "mongodb://h/fovea.images"
    assert shown("data/store") == "data/store"


def test_a_server_that_goes_away_during_an_import_is_said_and_the_same_command_goes_on(
    store_program: Command, pictures: Path, tmp_path: Path
) -> None:
    collections: dict[str, list[dict[str, Any]]] = {}
    with serving(collections, dies_at=4) as wire:
        code, _, stderr = store_program("import", pictures, "--to", f"mongodb://{wire.host}/clinic.eyes")
    line = sentence(stderr, f"The connection to mongodb://{wire.host}/clinic.eyes was lost (")
    assert (code, "the same command goes on" in line) == (1, True)
    assert len(collections["clinic.eyes"]) == 4  # the fourth was kept, only its answer was lost
    with serving(collections) as wire:
        address = f"mongodb://{wire.host}/clinic.eyes"
        assert "2 new, 4 already there, 0 refused" in store_program("import", pictures, "--to", address)[1]
        store_program("export", "--from", address, tmp_path / "out")
    assert files(tmp_path / "out") == files(pictures)


def test_two_imports_into_a_server_at_once_store_every_picture_once(wire: WireMongoDB, tmp_path: Path) -> None:
    pictures, address = labelled(tmp_path / "pictures", 40), f"mongodb://{wire.host}/clinic.eyes"
    tallies: list[store.Tally] = []

    def bring() -> None:
        quiet = Console(file=StringIO())
        tallies.append(store.import_folder(pictures, address, gridfs=True, console=quiet))

    both = [threading.Thread(target=bring) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert sum(tally.new for tally in tallies) == sum(tally.there for tally in tallies) == 40
    assert len(wire.collections["clinic.eyes"]) == len(wire.collections["clinic.eyes.files"]) == 40
    made = store.materialise(address, tmp_path / "made", Console(file=StringIO()))
    assert sorted(files(made).values()) == sorted(files(pictures).values())


def process(*arguments: object, before: str = "true") -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-m", "training.store", *map(str, arguments)]
    shell = ["bash", "-c", f'{before} && exec "$0" "$@"', *command]
    return subprocess.Popen(shell, text=True, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def await_pictures(running: subprocess.Popen[str], place: Path, count: int) -> None:
    """Wait until the store has so many more shelves, or the import has ended."""
    before = len(list(place.glob("fovea/*.collection")))
    while running.poll() is None and len(list(place.glob("fovea/*.collection"))) < before + count:
        os.sched_yield()


@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGINT])
def test_an_import_into_a_folder_that_is_stopped_anywhere_goes_on_with_the_same_command(
    store_program: Command, tmp_path: Path, way: signal.Signals
) -> None:
    pictures, place = labelled(tmp_path / "pictures", 60), tmp_path / "store"
    for count in (1, 5, 10):
        running = process("import", pictures, "--to", place)
        await_pictures(running, place, count)
        running.send_signal(way)
        _, stderr = running.communicate()
        assert running.returncode in (0, -way, 130)
        if running.returncode == 130:
            assert sentence(stderr) == "Stopped; the same command goes on where it stopped."
    code, stdout, _ = store_program("import", pictures, "--to", place)
    new, there = (int(part.split()[0]) for part in stdout.split(": ")[1].split(", ")[:2])
    assert (code, new + there) == (0, 60)
    assert there > 0
    store_program("export", "--from", place, tmp_path / "out")
    assert files(tmp_path / "out") == files(pictures)


def test_an_import_killed_between_file_and_table_goes_on(
    store_program: Command, pictures: Path, tmp_path: Path
) -> None:
    place = tmp_path / "store"
    store_program("import", pictures, "--to", place)
    for path in (place / "fovea").iterdir():
        path.write_bytes(b"")
    code, _, stderr = store_program("stats", place)
    assert (code, "holds no documents" in sentence(stderr)) == (1, True)
    assert "6 new, 0 already there, 0 refused" in store_program("import", pictures, "--to", place)[1]


def test_an_import_killed_before_the_store_was_laid_out_goes_on(
    store_program: Command, pictures: Path, tmp_path: Path
) -> None:
    place = tmp_path / "store"
    place.mkdir()
    (place / ".lock").touch()
    (place / "monty.storage.cfg").write_text("[sqlite]\n")
    assert store_program("import", pictures, "--to", place)[0] == 0


def test_a_folder_store_takes_one_import_at_a_time_and_can_be_read_meanwhile(
    store_program: Command, pictures: Path, tmp_path: Path
) -> None:
    place = tmp_path / "store"
    store_program("import", pictures, "--to", place)
    with opened(str(place), write=True):
        code, _, stderr = store_program("import", pictures, "--to", place)
        assert (code, "Another import is writing" in sentence(stderr)) == (1, True)
        assert store_program("stats", place)[0] == 0
    assert store_program("import", pictures, "--to", place)[0] == 0


def test_a_folder_with_other_things_is_not_made_a_store(store_program: Command, pictures: Path) -> None:
    before = files(pictures)
    code, _, stderr = store_program("import", pictures, "--to", pictures)
    assert (code, "not empty" in sentence(stderr)) == (2, True)
    assert (
        store_program("stats", pictures)[0] == store_program("export", "--from", pictures / "absent", pictures)[0] == 2
    )
    assert files(pictures) == before


def test_a_store_that_cannot_be_made_is_one_sentence(store_program: Command, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for place in (tmp_path / "file", tmp_path / "file" / "store"):
        code, _, stderr = store_program("import", pictures, "--to", place)
        assert code in (1, 2)
        assert str(place) in sentence(stderr)


def test_a_damaged_file_of_a_store_is_named_and_can_be_deleted(
    store_program: Command, pictures: Path, tmp_path: Path
) -> None:
    place = tmp_path / "store"
    store_program("import", pictures, "--to", place)
    victim = min((place / "fovea").iterdir())
    for harm in (b"no database at all" * 999, victim.read_bytes()[:4096] + os.urandom(8192)):
        victim.write_bytes(harm)
        for command in (
            ("stats", place),
            ("export", "--from", place, tmp_path / "out"),
            ("import", pictures, "--to", place),
        ):
            code, _, stderr = store_program(*command)
            assert (code, sentence(stderr).startswith(f"{victim} is damaged (")) == (1, True)
    victim.unlink()
    assert "refused" in store_program("import", pictures, "--to", place)[1]
    store_program("export", "--from", place, tmp_path / "out")
    assert files(tmp_path / "out") == files(pictures)


@pytest.mark.parametrize("name", [".monty.storage", "monty.storage.cfg"])
def test_damaged_settings_of_a_store_are_one_sentence(
    store_program: Command, pictures: Path, tmp_path: Path, name: str
) -> None:
    place = tmp_path / "store"
    store_program("import", pictures, "--to", place)
    (place / name).write_bytes(b"\xff\x00nonsense\n")
    code, _, stderr = store_program("stats", place)
    assert (code, "is damaged" in sentence(stderr)) == (1, True)


def test_a_row_that_another_program_holds_is_awaited_then_said(
    store_program: Command, pictures: Path, tmp_path: Path
) -> None:
    place = tmp_path / "store"
    store_program("import", pictures, "--to", place)
    with sqlite3.connect(min((place / "fovea").iterdir())) as other:
        other.execute("BEGIN EXCLUSIVE")
        code, _, stderr = store_program("stats", place)
        other.rollback()
    other.close()
    assert (code, "locked" in sentence(stderr)) == (1, True)


def test_a_full_disk_is_one_sentence_and_leaves_no_half_file(
    store_program: Command, pictures: Path, tmp_path: Path
) -> None:
    """A limit on the size of a file stands for the disk: to a program they are the same refusal to write."""
    place, out = tmp_path / "store", tmp_path / "out"
    running = process("import", pictures, "--to", place, before="ulimit -f 3")
    assert "it goes on where it stopped" in sentence(running.communicate()[1], f"The store {place} failed (")
    assert store_program("import", pictures, "--to", place)[0] == 0
    running = process("export", "--from", place, out, before="ulimit -f 3")
    assert "it goes on where it stopped" in sentence(running.communicate()[1], str(out))
    assert all(content == files(pictures)[name] for name, content in files(out).items())
    assert store_program("export", "--from", place, out)[0] == 0
    assert files(out) == files(pictures)
