"""Picture stores: the embedded one for real, MongoDB through the real driver against a small server of its protocol."""

import base64
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bson import Binary, ObjectId
from conftest import ROOT
from gridfs import GridFSBucket
from PIL import Image as Pillow
from pymongo import MongoClient
from rich.console import Console
from wire_mongodb import WireMongoDB, serving

from fovea.errors import TrainingError, UsageError
from training import store
from training.store_documents import LIMITS_MS, Fields, describe, is_store, opened, shown

SECRET = "s3cr3t/p@ss"
ESCAPED = "s3cr3t%2Fp%40ss"

Result = tuple[int, str, str]
Command = Callable[..., Result]


def encoded(number: int, kind: str = "PNG", side: int = 40) -> bytes:
    """A picture unlike every other of another number."""
    pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)
    buffer = BytesIO()
    Pillow.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def labelled(root: Path, count: int = 6) -> Path:
    """`count` pictures of two labels, two of each patient."""
    for number in range(count):
        path = root / ("Normal", "Glaucoma")[number % 2] / f"p{number // 4}__{number}.{('png', 'jpg')[number % 3 > 0]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(number, "PNG" if path.suffix == ".png" else "JPEG"))
    return root


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def sentence(text: str, start: str = "") -> str:
    """The only line of `text` that is no progress bar."""
    (line,) = [line for line in text.splitlines() if line.strip() and not re.search(r"\d left ", line)]
    assert line.endswith("."), line
    assert line.startswith(start), line
    return line


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return labelled(tmp_path / "pictures")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Exit code, standard output and standard error of the command line."""

    def command(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["store", *map(str, arguments)])
        capsys.readouterr()
        try:
            code = store.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return command


@contextmanager
def mongod(folder: Path) -> Iterator[str]:
    """The real server's address, where there is one on this machine."""
    program = shutil.which("mongod")
    if program is None:
        pytest.skip("no mongod on this machine")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir()
    started = subprocess.Popen(
        [program, "--dbpath", folder, "--port", str(port), "--bind_ip", "127.0.0.1"], stdout=subprocess.DEVNULL
    )
    try:
        yield f"127.0.0.1:{port}"
    finally:
        started.terminate()
        started.wait()


@pytest.fixture(params=["folder", "wire", "mongod"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A store of each kind, empty."""
    with ExitStack() as stack:
        if request.param == "folder":
            yield str(tmp_path / "store")
        elif request.param == "wire":
            yield f"mongodb://{stack.enter_context(serving()).host}/clinic.eyes"
        else:
            yield f"mongodb://{stack.enter_context(mongod(tmp_path / 'db'))}/clinic.eyes"


@pytest.fixture
def wire() -> Iterator[WireMongoDB]:
    with serving() as server:
        yield server


@pytest.fixture
def refused() -> Iterator[str]:
    """A port that is ours and refuses connections: bound, never listening."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


def test_a_folder_goes_in_and_comes_out_as_it_was(run: Command, address: str, folder: Path, tmp_path: Path) -> None:
    code, stdout, _ = run("import", folder, "--to", address)
    assert (code, stdout) == (0, f"{folder} → {address}: 6 new, 0 already there, 0 refused\n")
    code, stdout, _ = run("export", "--from", address, tmp_path / "out")
    assert (code, stdout) == (0, f"{address} → {tmp_path / 'out'}: 6 new, 0 already there, 0 refused\n")
    assert files(tmp_path / "out") == files(folder)


def test_what_is_there_already_is_not_written_again(run: Command, address: str, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("import", folder, "--to", address)
    shutil.copy(folder / "Normal" / "p0__0.png", folder / "Normal" / "copy.png")
    assert run("import", folder, "--to", address)[:2] == (
        0,
        f"{folder} → {address}: 0 new, 7 already there, 0 refused\n",
    )
    run("export", "--from", address, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    (out / "Glaucoma" / "p0__1.jpg").unlink()
    assert "1 new, 5 already there, 0 refused" in run("export", "--from", address, out)[1]
    assert files(out).keys() == files(folder).keys() - {"Normal/copy.png"}
    changed = {path.name for path in out.rglob("*") if path.is_file() and path.stat().st_mtime_ns != before[path]}
    assert changed == {"p0__1.jpg"}


def test_stats_count_labels_patients_and_bytes(run: Command, address: str, folder: Path) -> None:
    run("import", folder, "--to", address)
    code, stdout, _ = run("stats", address, "--json")
    assert code == 0
    assert json.loads(stdout) == {
        "store": address,
        "labels": {"Glaucoma": 3, "Normal": 3},
        "pictures": 6,
        "patients": 2,
        "bytes": sum(map(len, files(folder).values())),
        "refused": 0,
    }
    code, stdout, _ = run("stats", address)
    assert [line.split() for line in stdout.splitlines()[1:3]] == [["Glaucoma", "3"], ["Normal", "3"]]


def test_the_same_picture_under_two_labels_is_refused_and_named(run: Command, address: str, folder: Path) -> None:
    shutil.copy(folder / "Normal" / "p0__0.png", folder / "Glaucoma" / "other.png")
    code, stdout, stderr = run("import", folder, "--to", address)
    assert code == 1
    assert "6 new, 0 already there, 1 refused" in stdout
    line = sentence(stderr, f"{folder / 'Normal' / 'p0__0.png'}: ")
    assert "is there with the label Glaucoma" in line


def test_a_picture_that_cannot_be_decoded_is_refused_and_the_others_go_in(
    run: Command, address: str, folder: Path
) -> None:
    whole = encoded(9, "JPEG")
    (folder / "Normal" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "Normal" / "notes.txt").write_text("no picture, and not named like one")
    code, stdout, stderr = run("import", folder, "--to", address)
    assert (code, "6 new, 0 already there, 1 refused" in stdout) == (1, True)
    assert "cut off" in sentence(stderr, f"{folder / 'Normal' / 'cut.jpg'}: ")


def test_masks_hidden_files_and_odd_names_stay_where_they_are(run: Command, address: str, folder: Path) -> None:
    for name in ("vessels/a.png", ".trash/b.png", "Normal/.c.png", "Normal/line\nbreak.png", "Normal/caf\udce9.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(encoded(len(name) + 50))
    code, stdout, stderr = run("import", folder, "--to", address)
    assert (code, "6 new, 0 already there, 2 refused" in stdout) == (1, True)
    assert stderr.count("Its name cannot be kept as text: rename it.") == 2
    assert "line\\nbreak.png" in stderr


def test_documents_know_their_picture_by_its_sha256(run: Command, wire: WireMongoDB, folder: Path) -> None:
    run("import", folder, "--to", f"mongodb://{wire.host}/clinic.eyes")
    documents = wire.collections["clinic.eyes"]
    assert all(document["_id"] == document["sha256"] and len(document["_id"]) == 64 for document in documents)
    one = next(document for document in documents if document["name"] == "p1__4.jpg")
    content = (folder / "Normal" / "p1__4.jpg").read_bytes()
    assert (one["label"], one["image"], one["metadata"]["bytes"]) == ("Normal", content, len(content))
    assert (one["metadata"]["path"], one["metadata"]["patient"]) == ("Normal/p1__4.jpg", "p1")
    (index,) = wire.indexes["clinic.eyes"]
    assert (index["key"], index["unique"]) == ({"sha256": 1}, True)


def test_gridfs_holds_what_is_asked_and_what_is_too_large_for_a_document(
    run: Command, wire: WireMongoDB, folder: Path, tmp_path: Path
) -> None:
    (folder / "Normal" / "large.bmp").write_bytes(encoded(8, "BMP", side=2300))
    for address, held in ((f"mongodb://{wire.host}/a.eyes", 1), (f"mongodb://{wire.host}/b.eyes", 7)):
        asked = ["--gridfs"] if held == 7 else []
        for counts in ("7 new, 0 already there, 0 refused", "0 new, 7 already there, 0 refused"):
            code, stdout, _ = run("import", folder, "--to", address, *asked)
            assert (code, stdout.strip().split(": ")[1]) == (0, counts)
        assert len(wire.collections[f"{address[-6]}.eyes.files"]) == held
        assert run("export", "--from", address, tmp_path / address[-6])[0] == 0
        assert files(tmp_path / address[-6]) == files(folder)


def test_a_folder_store_has_no_gridfs_and_needs_none(run: Command, folder: Path, tmp_path: Path) -> None:
    code, _, stderr = run("import", folder, "--to", tmp_path / "store", "--gridfs")
    assert (code, "needs a MongoDB server" in sentence(stderr)) == (2, True)
    assert not (tmp_path / "store").exists()
    (folder / "Normal" / "large.bmp").write_bytes(encoded(8, "BMP", side=2300))
    assert run("import", folder, "--to", tmp_path / "store")[0] == 0
    assert run("export", "--from", tmp_path / "store", tmp_path / "out")[0] == 0
    assert files(tmp_path / "out") == files(folder)


PICTURE = encoded(1)
TEXT = base64.b64encode(PICTURE).decode()
FOREIGN: dict[str, dict[str, Any]] = {
    "bytes": {"image": PICTURE, "label": "Normal"},
    "binary of another subtype": {"img": Binary(PICTURE, 128), "label": "Normal"},
    "base64": {"image_base64": TEXT, "class": "Normal"},
    "base64 in lines": {"image_data": base64.encodebytes(PICTURE).decode(), "label": "Normal"},
    "a data URL": {"data": f"data:image/png;base64,{TEXT}", "diagnosis": "Normal"},
    "Mongoose's buffer": {"img": {"data": PICTURE, "contentType": "image/png"}, "category": "Normal"},
    "in metadata": {"image": PICTURE, "metadata": {"label": "Normal"}},
    "beside other data": {"metadata": {"img": PICTURE}, "data": {"age": 61}, "label": "Normal"},
}


@pytest.mark.parametrize("document", FOREIGN.values(), ids=FOREIGN.keys())
def test_documents_of_other_programs_are_read(
    run: Command, wire: WireMongoDB, tmp_path: Path, document: dict[str, Any]
) -> None:
    wire.collections["clinic.eyes"] = [{"_id": ObjectId(), "filename": "scans/left.png", "age": 61} | document]
    address = f"mongodb://{wire.host}/clinic.eyes"
    assert run("export", "--from", address, tmp_path / "out")[0] == 0
    assert files(tmp_path / "out") == {"Normal/left.png": PICTURE}
    assert json.loads(run("stats", address, "--json")[1])["labels"] == {"Normal": 1}


def test_numbers_are_labels_and_nameless_pictures_get_a_name(run: Command, wire: WireMongoDB, tmp_path: Path) -> None:
    jpeg = encoded(2, "JPEG")
    wire.collections["clinic.eyes"] = [
        {"_id": 1, "image": PICTURE, "diagnosis": 2, "name": "IM0001.dcm"},
        {"_id": 2, "image": jpeg, "diagnosis": 0.0, "patient": "MRN 7/8"},
    ]
    assert run("export", "--from", f"mongodb://{wire.host}/clinic.eyes", tmp_path / "out")[0] == 0
    (name,) = files(tmp_path / "out" / "0")
    assert name.startswith("MRN-7-8__")
    assert files(tmp_path / "out") == {"2/IM0001.png": PICTURE, f"0/{name}": jpeg}
    assert name.endswith(".jpg")


def test_other_fields_are_read_if_named(run: Command, wire: WireMongoDB, tmp_path: Path) -> None:
    document = {
        "_id": 1,
        "scan": {"photo": PICTURE},
        "finding": {"grade": "Myopia"},
        "label": "unsure",
        "name": "a.png",
    }
    wire.collections["clinic.eyes"] = [document]
    named = ("--image-field", "scan.photo", "--label-field", "finding.grade")
    assert run("export", "--from", f"mongodb://{wire.host}/clinic.eyes", tmp_path / "out", *named)[0] == 0
    assert files(tmp_path / "out") == {"Myopia/a.png": PICTURE}


def in_gridfs(wire: WireMongoDB, bucket: str, content: bytes, **metadata: str) -> ObjectId:
    with MongoClient[dict[str, Any]](wire.host, wire.server_address[1]) as client:
        held = GridFSBucket(client["clinic"], bucket, chunk_size_bytes=1000)
        return held.upload_from_stream("left.png", content, metadata=metadata or None)


def test_plain_gridfs_is_a_store(run: Command, wire: WireMongoDB, folder: Path, tmp_path: Path) -> None:
    in_gridfs(wire, "fs", PICTURE, label="Normal", patient="p7")
    in_gridfs(wire, "fs", encoded(2))
    address = f"mongodb://{wire.host}/clinic.fs"
    code, stdout, stderr = run("export", "--from", address, tmp_path / "out")
    assert (code, "1 new, 0 already there, 1 refused" in stdout) == (1, True)
    assert "It has no label" in sentence(stderr)
    assert files(tmp_path / "out") == {"Normal/p7__left.png": PICTURE}
    code, _, stderr = run("import", folder, "--to", address)
    assert (code, "another program" in sentence(stderr)) == (2, True)


@pytest.mark.parametrize("bucket", ["fs", "eyes"])
def test_documents_may_name_a_gridfs_file_by_its_id_or_by_the_text_of_it(
    run: Command, wire: WireMongoDB, tmp_path: Path, bucket: str
) -> None:
    one, other = (in_gridfs(wire, bucket, encoded(number)) for number in (1, 2))
    wire.collections["clinic.eyes"] = [
        {"_id": 1, "image": one, "label": "Normal", "name": "a.png"},
        {"_id": 2, "gridfs_id": str(other), "label": "Normal", "name": "b.png"},
    ]
    assert run("export", "--from", f"mongodb://{wire.host}/clinic.eyes", tmp_path / "out")[0] == 0
    assert files(tmp_path / "out") == {"Normal/a.png": encoded(1), "Normal/b.png": encoded(2)}


CORRUPT: dict[str, tuple[dict[str, Any], str]] = {
    "no picture": ({"image": None}, "has no picture"),
    "empty": ({"image": b""}, "empty"),
    "no base64": ({"image": "these are/words!"}, "no base64"),
    "cut base64": ({"image": TEXT[:-3]}, "no base64"),
    "cut picture": ({"image": PICTURE[:900]}, "cut off"),
    "text in bytes": ({"image": b"not a picture" * 99}, "no JPEG, PNG or TIFF"),
    "an object": ({"image": {"bytes": PICTURE}}, "--image-field"),
    "no such file": ({"image": ObjectId("65f000000000000000000001")}, "is missing"),
    "no label": ({"label": None}, "--label-field"),
    "a label that climbs": ({"label": "../.."}, "'../..'"),
    "a label with a slash": ({"label": "a/b"}, "'a/b'"),
    "an absolute label": ({"label": "/etc"}, "'/etc'"),
    "a hidden label": ({"label": ".ssh"}, "'.ssh'"),
    "an empty label": ({"label": " "}, "' '"),
    "a label with NUL": ({"label": "a\0b"}, "'a\\x00b'"),
    "a label that is a list": ({"label": ["Normal", "Myopia"]}, "['Normal', 'Myopia']"),
    "a label that is the masks' folder": ({"label": "vessels"}, "'vessels'"),
    "a label without end": ({"label": "x" * 300}, "xxx…"),
    "a patient without an id": ({"patient": {"age": 61}}, "patient.id"),
    "another SHA-256": ({"sha256": "0" * 64}, "was changed"),
    "no SHA-256": ({"sha256": "../../../etc/passwd"}, "64 hexadecimal"),
}


@pytest.mark.parametrize(("change", "reason"), CORRUPT.values(), ids=CORRUPT.keys())
def test_a_corrupt_document_is_named_with_the_reason_and_the_others_are_written(
    run: Command, wire: WireMongoDB, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    good = {"image": PICTURE, "label": "Normal", "name": "a.png"}
    wire.collections["clinic.eyes"] = [{"_id": "bad\x1b[2J"} | good | change, {"_id": 2} | good]
    code, stdout, stderr = run("export", "--from", f"mongodb://{wire.host}/clinic.eyes", tmp_path / "out")
    assert code == 1
    assert stdout.strip().endswith(": 1 new, 0 already there, 1 refused")
    assert reason in sentence(stderr, "Document 'bad\\x1b[2J': ")
    assert files(tmp_path) == {"out/Normal/a.png": PICTURE}


def test_a_format_that_labelled_folders_pass_over_is_not_written_as_if_it_were_read(
    run: Command, wire: WireMongoDB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "PICTURES", {".jpg"})
    wire.collections["clinic.eyes"] = [{"_id": 1, "image": PICTURE, "label": "Normal", "name": "a.png"}]
    code, _, stderr = run("export", "--from", f"mongodb://{wire.host}/clinic.eyes", tmp_path / "out")
    assert (code, "is PNG, which is not read" in sentence(stderr), files(tmp_path)) == (1, True, {})


@pytest.mark.parametrize("harm", ["a chunk is gone", "a length is text", "a chunk is cut", "a length is absurd"])
def test_a_damaged_gridfs_file_is_never_half_read(run: Command, wire: WireMongoDB, tmp_path: Path, harm: str) -> None:
    in_gridfs(wire, "fs", PICTURE, label="Normal")
    (file,), chunks = wire.collections["clinic.fs.files"], wire.collections["clinic.fs.chunks"]
    match harm:
        case "a chunk is gone":
            del chunks[1]
        case "a chunk is cut":
            chunks[1]["data"] = chunks[1]["data"][:10]
        case "a length is text":
            file["length"] = "long"
        case _:
            file["length"] = 2**40
    code, _, stderr = run("export", "--from", f"mongodb://{wire.host}/clinic.fs", tmp_path / "out")
    assert (code, files(tmp_path)) == (1, {})
    sentence(stderr, f"Document {file['_id']!r}: ")


NAMES = ["../../evil.png", "/etc/evil.png", "..\\evil.png", "..", ".hidden.png", "a\0.png", "x" * 300 + ".png", ""]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_leads_out_of_the_folder(run: Command, wire: WireMongoDB, tmp_path: Path, name: str) -> None:
    wire.collections["clinic.eyes"] = [{"_id": 1, "image": PICTURE, "label": "Normal", "name": name}]
    assert run("export", "--from", f"mongodb://{wire.host}/clinic.eyes", tmp_path / "deep" / "out")[0] == 0
    ((path, content),) = files(tmp_path).items()
    assert (Path(path).parent.as_posix(), Path(path).suffix, content) == ("deep/out/Normal", ".png", PICTURE)


@pytest.mark.parametrize("order", [1, -1])
def test_documents_of_one_name_never_overwrite_each_other_nor_files_of_yours(
    run: Command, wire: WireMongoDB, tmp_path: Path, order: int
) -> None:
    address, out = f"mongodb://{wire.host}/clinic.eyes", tmp_path / "out"
    contents = [encoded(number) for number in range(3)]
    wire.collections["clinic.eyes"] = [
        {"_id": number, "image": content, "label": "Normal", "name": "eye.png"}
        for number, content in enumerate(contents)
    ]
    (out / "Normal").mkdir(parents=True)
    (out / "Normal" / "eye.png").write_bytes(b"yours")
    for counts in ("3 new, 0 already there", "0 new, 3 already there"):
        assert counts in run("export", "--from", address, out)[1]
        assert sorted(files(out).values()) == sorted([*contents, b"yours"])
        assert (out / "Normal" / "eye.png").read_bytes() == b"yours"
        wire.collections["clinic.eyes"][::] = wire.collections["clinic.eyes"][::order]


@pytest.mark.parametrize("claim", [{}, {"sha256": hashlib.sha256(PICTURE).hexdigest()}], ids=["unhashed", "hashed"])
def test_one_picture_under_two_labels_is_written_once_and_named(
    run: Command, wire: WireMongoDB, tmp_path: Path, claim: dict[str, str]
) -> None:
    picture = {"image": PICTURE, "name": "a.png"} | claim
    wire.collections["clinic.eyes"] = [
        {"_id": label, "label": label} | picture for label in ("Normal", "Myopia", "AMD")
    ]
    for _ in range(2):
        code, _, stderr = run("export", "--from", f"mongodb://{wire.host}/clinic.eyes", tmp_path / "out")
        assert (code, files(tmp_path / "out")) == (1, {"Normal/a.png": PICTURE})
        assert stderr.count("has the label Normal elsewhere") == 2
    (tmp_path / "out" / "Myopia").mkdir()
    (tmp_path / "out" / "Myopia" / "a.png").write_bytes(PICTURE)
    _, stdout, _ = run("export", "--from", f"mongodb://{wire.host}/clinic.eyes", tmp_path / "out")
    assert "0 new, 1 already there, 2 refused" in stdout


def test_an_empty_or_misnamed_collection_is_said_to_be_empty(run: Command, wire: WireMongoDB, tmp_path: Path) -> None:
    address = f"mongodb://{wire.host}/clinic.eye"
    for command in (("export", "--from", address, tmp_path / "out"), ("stats", address)):
        code, _, stderr = run(*command)
        assert (code, "clinic.eye holds no documents" in sentence(stderr)) == (1, True)


def test_a_missing_or_empty_folder_is_refused_by_name(run: Command, tmp_path: Path) -> None:
    code, _, stderr = run("import", tmp_path / "absent", "--to", tmp_path / "store")
    assert (code, "absent is no folder" in sentence(stderr)) == (2, True)
    (tmp_path / "Normal").mkdir()
    code, _, stderr = run("import", tmp_path, "--to", tmp_path / "store")
    assert (code, "as <label>/<picture>" in sentence(stderr)) == (1, True)
    assert not (tmp_path / "store").exists()


def test_a_refused_connection_is_said_at_once_and_without_the_password(
    run: Command, refused: str, folder: Path
) -> None:
    assert LIMITS_MS["serverSelectionTimeoutMS"] == 5000  # and a shorter one is obeyed
    address = f"mongodb://doctor:{ESCAPED}@{refused}/clinic.eyes?serverSelectionTimeoutMS=300"
    for command in (("import", folder, "--to", address), ("stats", address)):
        code, stdout, stderr = run(*command)
        line = sentence(stderr, f"No MongoDB server answers at mongodb://doctor:***@{refused}/clinic.eyes ")
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
    run: Command, folder: Path, refusals: dict[str, tuple[int, str]], cure: str
) -> None:
    with serving(refusals=refusals) as wire:
        user = f"doctor:{ESCAPED}@" if "saslStart" in refusals else ""
        code, stdout, stderr = run("import", folder, "--to", f"mongodb://{user}{wire.host}/clinic.eyes")
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
def test_an_address_that_is_not_understood_is_not_repeated(run: Command, folder: Path, address: str) -> None:
    for command in (("stats", address), ("import", folder, "--to", address), ("export", "--from", address, folder)):
        code, stdout, stderr = run(*command)
        assert code == 2
        assert "mongodb://" in sentence(stderr)
        assert "s3cr3t" not in stdout + stderr


def test_wrong_usage_and_help_do_not_repeat_an_address(
    run: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"mongodb+srv://doctor:{ESCAPED}@host/clinic"
    monkeypatch.setenv("FOVEA_STORE", address)
    for command in ((address,), ("import", folder, address), ("stats", "--jsn", address, address), ("stats", "--help")):
        code, stdout, stderr = run(*command)
        assert (code, "s3cr3t" not in stdout + stderr) == (0 if "--help" in command else 2, True)


def test_the_environment_may_name_the_store(
    run: Command, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOVEA_STORE", str(tmp_path / "store"))
    assert run("import", folder)[0] == run("stats")[0] == run("export", tmp_path / "out")[0] == 0
    assert files(tmp_path / "out") == files(folder)


@pytest.mark.parametrize("options", ["speed=high", "serverSelectionTimeoutMS=soon", "tls=true&tls=s3cr3t"])
def test_an_option_that_the_driver_does_not_know_is_named_without_its_value(run: Command, options: str) -> None:
    code, stdout, stderr = run("stats", f"mongodb://host/clinic?{options}")
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
    run: Command, folder: Path, tmp_path: Path
) -> None:
    collections: dict[str, list[dict[str, Any]]] = {}
    with serving(collections, dies_at=4) as wire:
        code, _, stderr = run("import", folder, "--to", f"mongodb://{wire.host}/clinic.eyes")
    line = sentence(stderr, f"The connection to mongodb://{wire.host}/clinic.eyes was lost (")
    assert (code, "the same command goes on" in line) == (1, True)
    assert len(collections["clinic.eyes"]) == 4  # the fourth was kept, only its answer was lost
    with serving(collections) as wire:
        address = f"mongodb://{wire.host}/clinic.eyes"
        assert "2 new, 4 already there, 0 refused" in run("import", folder, "--to", address)[1]
        run("export", "--from", address, tmp_path / "out")
    assert files(tmp_path / "out") == files(folder)


def test_two_imports_into_a_server_at_once_store_every_picture_once(wire: WireMongoDB, tmp_path: Path) -> None:
    folder, address = labelled(tmp_path / "pictures", 40), f"mongodb://{wire.host}/clinic.eyes"
    tallies: list[store.Tally] = []

    def bring() -> None:
        quiet = Console(file=StringIO())
        tallies.append(store.import_folder(folder, address, gridfs=True, console=quiet))

    both = [threading.Thread(target=bring) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert sum(tally.new for tally in tallies) == sum(tally.there for tally in tallies) == 40
    assert len(wire.collections["clinic.eyes"]) == len(wire.collections["clinic.eyes.files"]) == 40
    made = store.materialise(address, tmp_path / "made", Console(file=StringIO()))
    assert sorted(files(made).values()) == sorted(files(folder).values())


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
    run: Command, tmp_path: Path, way: signal.Signals
) -> None:
    folder, place = labelled(tmp_path / "pictures", 60), tmp_path / "store"
    for count in (1, 5, 10):
        running = process("import", folder, "--to", place)
        await_pictures(running, place, count)
        running.send_signal(way)
        _, stderr = running.communicate()
        assert running.returncode in (0, -way, 130)
        if running.returncode == 130:
            assert sentence(stderr) == "Stopped; the same command goes on where it stopped."
    code, stdout, _ = run("import", folder, "--to", place)
    new, there = (int(part.split()[0]) for part in stdout.split(": ")[1].split(", ")[:2])
    assert (code, new + there) == (0, 60)
    assert there > 0
    run("export", "--from", place, tmp_path / "out")
    assert files(tmp_path / "out") == files(folder)


def test_an_import_killed_between_file_and_table_goes_on(run: Command, folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "store"
    run("import", folder, "--to", place)
    for path in (place / "fovea").iterdir():
        path.write_bytes(b"")
    code, _, stderr = run("stats", place)
    assert (code, "holds no documents" in sentence(stderr)) == (1, True)
    assert "6 new, 0 already there, 0 refused" in run("import", folder, "--to", place)[1]


def test_an_import_killed_before_the_store_was_laid_out_goes_on(run: Command, folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "store"
    place.mkdir()
    (place / ".lock").touch()
    (place / "monty.storage.cfg").write_text("[sqlite]\n")
    assert run("import", folder, "--to", place)[0] == 0


def test_a_folder_store_takes_one_import_at_a_time_and_can_be_read_meanwhile(
    run: Command, folder: Path, tmp_path: Path
) -> None:
    place = tmp_path / "store"
    run("import", folder, "--to", place)
    with opened(str(place), write=True):
        code, _, stderr = run("import", folder, "--to", place)
        assert (code, "Another import is writing" in sentence(stderr)) == (1, True)
        assert run("stats", place)[0] == 0
    assert run("import", folder, "--to", place)[0] == 0


def test_a_folder_with_other_things_is_not_made_a_store(run: Command, folder: Path) -> None:
    before = files(folder)
    code, _, stderr = run("import", folder, "--to", folder)
    assert (code, "not empty" in sentence(stderr)) == (2, True)
    assert run("stats", folder)[0] == run("export", "--from", folder / "absent", folder)[0] == 2
    assert files(folder) == before


def test_a_store_that_cannot_be_made_is_one_sentence(run: Command, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for place in (tmp_path / "file", tmp_path / "file" / "store"):
        code, _, stderr = run("import", folder, "--to", place)
        assert code in (1, 2)
        assert str(place) in sentence(stderr)


def test_a_damaged_file_of_a_store_is_named_and_can_be_deleted(run: Command, folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "store"
    run("import", folder, "--to", place)
    victim = min((place / "fovea").iterdir())
    for harm in (b"no database at all" * 999, victim.read_bytes()[:4096] + os.urandom(8192)):
        victim.write_bytes(harm)
        for command in (
            ("stats", place),
            ("export", "--from", place, tmp_path / "out"),
            ("import", folder, "--to", place),
        ):
            code, _, stderr = run(*command)
            assert (code, sentence(stderr).startswith(f"{victim} is damaged (")) == (1, True)
    victim.unlink()
    assert "refused" in run("import", folder, "--to", place)[1]
    run("export", "--from", place, tmp_path / "out")
    assert files(tmp_path / "out") == files(folder)


@pytest.mark.parametrize("name", [".monty.storage", "monty.storage.cfg"])
def test_damaged_settings_of_a_store_are_one_sentence(run: Command, folder: Path, tmp_path: Path, name: str) -> None:
    place = tmp_path / "store"
    run("import", folder, "--to", place)
    (place / name).write_bytes(b"\xff\x00nonsense\n")
    code, _, stderr = run("stats", place)
    assert (code, "is damaged" in sentence(stderr)) == (1, True)


def test_a_row_that_another_program_holds_is_awaited_then_said(run: Command, folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "store"
    run("import", folder, "--to", place)
    with sqlite3.connect(min((place / "fovea").iterdir())) as other:
        other.execute("BEGIN EXCLUSIVE")
        code, _, stderr = run("stats", place)
        other.rollback()
    other.close()
    assert (code, "locked" in sentence(stderr)) == (1, True)


def test_a_full_disk_is_one_sentence_and_leaves_no_half_file(run: Command, folder: Path, tmp_path: Path) -> None:
    """A limit on the size of a file stands for the disk: to a program they are the same refusal to write."""
    place, out = tmp_path / "store", tmp_path / "out"
    running = process("import", folder, "--to", place, before="ulimit -f 3")
    assert "it goes on where it stopped" in sentence(running.communicate()[1], f"The store {place} failed (")
    assert run("import", folder, "--to", place)[0] == 0
    running = process("export", "--from", place, out, before="ulimit -f 3")
    assert "it goes on where it stopped" in sentence(running.communicate()[1], str(out))
    assert all(content == files(folder)[name] for name, content in files(out).items())
    assert run("export", "--from", place, out)[0] == 0
    assert files(out) == files(folder)


def test_training_reads_a_store_as_a_labelled_folder_with_patients_together(
    address: str, folder: Path, tmp_path: Path
) -> None:
    quiet = Console(file=StringIO())
    store.import_folder(folder, address, console=quiet)
    assert is_store(address)
    made = store.materialise(address, tmp_path / "made", quiet)
    assert made == tmp_path / "made"
    assert sorted(files(made).values()) == sorted(files(folder).values())
    assert {(Path(name).parent.name, Path(name).name.split("__")[0]) for name in files(made)} == {
        (label, patient) for label in ("Normal", "Glaucoma") for patient in ("p0", "p1")
    }


def test_a_materialised_folder_follows_its_store_and_keeps_what_is_yours(wire: WireMongoDB, tmp_path: Path) -> None:
    address, made, said = f"mongodb://{wire.host}/clinic.eyes", tmp_path / "made", StringIO()
    documents: list[dict[str, Any]] = [
        {"_id": number, "image": encoded(number), "label": "Normal", "metadata": {"patient": number % 2}}
        for number in range(4)
    ]
    wire.collections["clinic.eyes"] = documents
    store.materialise(address, made, Console(file=said))
    (made / "Normal" / "mine.png").write_bytes(b"mine")
    documents[0]["label"] = "Myopia"
    documents[1]["image"] = "broken"
    store.materialise(address, made, Console(file=said, width=200))
    assert {name.split("__")[0] for name in files(made)} == {"Normal/1", "Normal/0", "Myopia/0", "Normal/mine.png"}
    assert len(files(made)) == 4
    assert "Document 1: Its picture is text, but no base64" in said.getvalue()
    for document in documents[1:]:
        document["label"] = None
    (made / "Normal" / "mine.png").unlink()
    store.materialise(address, made, Console(file=said))
    assert not (made / "Normal").exists()  # an empty class would be taken for a mistake
    documents[0]["label"] = None
    with pytest.raises(TrainingError, match="no usable picture"):
        store.materialise(address, made, Console(file=said))


def test_a_patient_never_changes_with_the_name_of_the_file() -> None:
    for document, patient in (
        ({"name": "p1__left.png"}, "p1"),
        ({"name": "p1__left.png", "patient": "p1"}, "p1"),
        ({"name": "left.png", "patient": 7}, "7"),
        ({"name": "left__eye.png", "patient": "a__b"}, "a-b"),
        ({"name": f"{'x' * 240}.png", "patient": "q"}, "q"),
        ({"name": f"{'y' * 90}__left.png"}, "y" * 64),
        ({"name": "p 1__left.png", "patient": "p 1"}, "p 1"),
        ({"name": "../p1__left.png", "patient": "../p2"}, "p2"),
        ({"name": "left.png", "patient": ObjectId("65f000000000000000000001")}, "65f000000000000000000001"),
        ({"name": "left.png", "patient": {"id": "p9", "age": 61}}, "p9"),
    ):
        said = describe({"label": "Normal"} | document, Fields())
        names = {*store.file_names(said, "f" * 64, ".png"), *store.patient_names(said, "f" * 64, ".png")}
        assert {name.split("__")[0] for name in names} == {patient}
        assert all(len(name.encode()) <= 255 for name in names)


def test_a_store_that_does_not_exist_is_none(tmp_path: Path) -> None:
    assert not is_store(str(tmp_path))
    with pytest.raises(UsageError, match="is no store"), opened(str(tmp_path)):
        pass
