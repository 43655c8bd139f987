"""What documents of a store say is checked before it becomes a file: other programs' layouts, GridFS, corruption."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from bson import Binary, ObjectId
from gridfs import GridFSBucket
from pymongo import MongoClient
from small_stores import Command, encoded, files, sentence
from wire_mongodb import WireMongoDB

from training import store


def test_documents_know_their_picture_by_its_sha256(store_program: Command, wire: WireMongoDB, pictures: Path) -> None:
    store_program("import", pictures, "--to", f"mongodb://{wire.host}/clinic.eyes")
    documents = wire.collections["clinic.eyes"]
    assert all(document["_id"] == document["sha256"] and len(document["_id"]) == 64 for document in documents)
    one = next(document for document in documents if document["name"] == "p1__4.jpg")
    content = (pictures / "Normal" / "p1__4.jpg").read_bytes()
    assert (one["label"], one["image"], one["metadata"]["bytes"]) == ("Normal", content, len(content))
    assert (one["metadata"]["path"], one["metadata"]["patient"]) == ("Normal/p1__4.jpg", "p1")
    (index,) = wire.indexes["clinic.eyes"]
    assert (index["key"], index["unique"]) == ({"sha256": 1}, True)


def test_gridfs_holds_what_is_asked_and_what_is_too_large_for_a_document(
    store_program: Command, wire: WireMongoDB, pictures: Path, tmp_path: Path
) -> None:
    (pictures / "Normal" / "large.bmp").write_bytes(encoded(8, "BMP", side=2300))
    for address, held in ((f"mongodb://{wire.host}/a.eyes", 1), (f"mongodb://{wire.host}/b.eyes", 7)):
        asked = ["--gridfs"] if held == 7 else []
        for counts in ("7 new, 0 already there, 0 refused", "0 new, 7 already there, 0 refused"):
            code, stdout, _ = store_program("import", pictures, "--to", address, *asked)
            assert (code, stdout.strip().split(": ")[1]) == (0, counts)
        assert len(wire.collections[f"{address[-6]}.eyes.files"]) == held
        assert store_program("export", "--from", address, tmp_path / address[-6])[0] == 0
        assert files(tmp_path / address[-6]) == files(pictures)


def test_a_folder_store_has_no_gridfs_and_needs_none(store_program: Command, pictures: Path, tmp_path: Path) -> None:
    code, _, stderr = store_program("import", pictures, "--to", tmp_path / "store", "--gridfs")
    assert (code, "needs a MongoDB server" in sentence(stderr)) == (2, True)
    assert not (tmp_path / "store").exists()
    (pictures / "Normal" / "large.bmp").write_bytes(encoded(8, "BMP", side=2300))
    assert store_program("import", pictures, "--to", tmp_path / "store")[0] == 0
    assert store_program("export", "--from", tmp_path / "store", tmp_path / "out")[0] == 0
    assert files(tmp_path / "out") == files(pictures)


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
    store_program: Command, wire: WireMongoDB, tmp_path: Path, document: dict[str, Any]
) -> None:
    wire.collections["clinic.eyes"] = [{"_id": ObjectId(), "filename": "scans/left.png", "age": 61} | document]
    address = f"mongodb://{wire.host}/clinic.eyes"
    assert store_program("export", "--from", address, tmp_path / "out")[0] == 0
    assert files(tmp_path / "out") == {"Normal/left.png": PICTURE}
    assert json.loads(store_program("stats", address, "--json")[1])["labels"] == {"Normal": 1}


def test_numbers_are_labels_and_nameless_pictures_get_a_name(
    store_program: Command, wire: WireMongoDB, tmp_path: Path
) -> None:
    jpeg = encoded(2, "JPEG")
    wire.collections["clinic.eyes"] = [
        {"_id": 1, "image": PICTURE, "diagnosis": 2, "name": "IM0001.dcm"},
        {"_id": 2, "image": jpeg, "diagnosis": 0.0, "patient": "MRN 7/8"},
    ]
    assert store_program("export", "--from", f"mongodb://{wire.host}/clinic.eyes", tmp_path / "out")[0] == 0
    (name,) = files(tmp_path / "out" / "0")
    assert name.startswith("MRN-7-8__")
    assert files(tmp_path / "out") == {"2/IM0001.png": PICTURE, f"0/{name}": jpeg}
    assert name.endswith(".jpg")


def test_other_fields_are_read_if_named(store_program: Command, wire: WireMongoDB, tmp_path: Path) -> None:
    document = {
        "_id": 1,
        "scan": {"photo": PICTURE},
        "finding": {"grade": "Myopia"},
        "label": "unsure",
        "name": "a.png",
    }
    wire.collections["clinic.eyes"] = [document]
    named = ("--image-field", "scan.photo", "--label-field", "finding.grade")
    assert store_program("export", "--from", f"mongodb://{wire.host}/clinic.eyes", tmp_path / "out", *named)[0] == 0
    assert files(tmp_path / "out") == {"Myopia/a.png": PICTURE}


def in_gridfs(wire: WireMongoDB, bucket: str, content: bytes, **metadata: str) -> ObjectId:
    with MongoClient[dict[str, Any]](wire.host, wire.server_address[1]) as client:
        held = GridFSBucket(client["clinic"], bucket, chunk_size_bytes=1000)
        return held.upload_from_stream("left.png", content, metadata=metadata or None)


def test_plain_gridfs_is_a_store(store_program: Command, wire: WireMongoDB, pictures: Path, tmp_path: Path) -> None:
    in_gridfs(wire, "fs", PICTURE, label="Normal", patient="p7")
    in_gridfs(wire, "fs", encoded(2))
    address = f"mongodb://{wire.host}/clinic.fs"
    code, stdout, stderr = store_program("export", "--from", address, tmp_path / "out")
    assert (code, "1 new, 0 already there, 1 refused" in stdout) == (1, True)
    assert "It has no label" in sentence(stderr)
    assert files(tmp_path / "out") == {"Normal/p7__left.png": PICTURE}
    code, _, stderr = store_program("import", pictures, "--to", address)
    assert (code, "another program" in sentence(stderr)) == (2, True)


@pytest.mark.parametrize("bucket", ["fs", "eyes"])
def test_documents_may_name_a_gridfs_file_by_its_id_or_by_the_text_of_it(
    store_program: Command, wire: WireMongoDB, tmp_path: Path, bucket: str
) -> None:
    one, other = (in_gridfs(wire, bucket, encoded(number)) for number in (1, 2))
    wire.collections["clinic.eyes"] = [
        {"_id": 1, "image": one, "label": "Normal", "name": "a.png"},
        {"_id": 2, "gridfs_id": str(other), "label": "Normal", "name": "b.png"},
    ]
    assert store_program("export", "--from", f"mongodb://{wire.host}/clinic.eyes", tmp_path / "out")[0] == 0
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
    store_program: Command, wire: WireMongoDB, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    good = {"image": PICTURE, "label": "Normal", "name": "a.png"}
    wire.collections["clinic.eyes"] = [{"_id": "bad\x1b[2J"} | good | change, {"_id": 2} | good]
    code, stdout, stderr = store_program("export", "--from", f"mongodb://{wire.host}/clinic.eyes", tmp_path / "out")
    assert code == 1
    assert stdout.strip().endswith(": 1 new, 0 already there, 1 refused")
    assert reason in sentence(stderr, "Document 'bad\\x1b[2J': ")
    assert files(tmp_path) == {"out/Normal/a.png": PICTURE}


def test_a_format_that_labelled_folders_pass_over_is_not_written_as_if_it_were_read(
    store_program: Command, wire: WireMongoDB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "PICTURES", {".jpg"})
    wire.collections["clinic.eyes"] = [{"_id": 1, "image": PICTURE, "label": "Normal", "name": "a.png"}]
    code, _, stderr = store_program("export", "--from", f"mongodb://{wire.host}/clinic.eyes", tmp_path / "out")
    assert (code, "is PNG, which is not read" in sentence(stderr), files(tmp_path)) == (1, True, {})


@pytest.mark.parametrize("harm", ["a chunk is gone", "a length is text", "a chunk is cut", "a length is absurd"])
def test_a_damaged_gridfs_file_is_never_half_read(
    store_program: Command, wire: WireMongoDB, tmp_path: Path, harm: str
) -> None:
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
    code, _, stderr = store_program("export", "--from", f"mongodb://{wire.host}/clinic.fs", tmp_path / "out")
    assert (code, files(tmp_path)) == (1, {})
    sentence(stderr, f"Document {file['_id']!r}: ")


NAMES = ["../../evil.png", "/etc/evil.png", "..\\evil.png", "..", ".hidden.png", "a\0.png", "x" * 300 + ".png", ""]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_leads_out_of_the_folder(store_program: Command, wire: WireMongoDB, tmp_path: Path, name: str) -> None:
    wire.collections["clinic.eyes"] = [{"_id": 1, "image": PICTURE, "label": "Normal", "name": name}]
    assert store_program("export", "--from", f"mongodb://{wire.host}/clinic.eyes", tmp_path / "deep" / "out")[0] == 0
    ((path, content),) = files(tmp_path).items()
    assert (Path(path).parent.as_posix(), Path(path).suffix, content) == ("deep/out/Normal", ".png", PICTURE)


@pytest.mark.parametrize("order", [1, -1])
def test_documents_of_one_name_never_overwrite_each_other_nor_files_of_yours(
    store_program: Command, wire: WireMongoDB, tmp_path: Path, order: int
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
        assert counts in store_program("export", "--from", address, out)[1]
        assert sorted(files(out).values()) == sorted([*contents, b"yours"])
        assert (out / "Normal" / "eye.png").read_bytes() == b"yours"
        wire.collections["clinic.eyes"][::] = wire.collections["clinic.eyes"][::order]


@pytest.mark.parametrize("claim", [{}, {"sha256": hashlib.sha256(PICTURE).hexdigest()}], ids=["unhashed", "hashed"])
def test_one_picture_under_two_labels_is_written_once_and_named(
    store_program: Command, wire: WireMongoDB, tmp_path: Path, claim: dict[str, str]
) -> None:
    picture = {"image": PICTURE, "name": "a.png"} | claim
    wire.collections["clinic.eyes"] = [
        {"_id": label, "label": label} | picture for label in ("Normal", "Myopia", "AMD")
    ]
    for _ in range(2):
        code, _, stderr = store_program("export", "--from", f"mongodb://{wire.host}/clinic.eyes", tmp_path / "out")
        assert (code, files(tmp_path / "out")) == (1, {"Normal/a.png": PICTURE})
        assert stderr.count("has the label Normal elsewhere") == 2
    (tmp_path / "out" / "Myopia").mkdir()
    (tmp_path / "out" / "Myopia" / "a.png").write_bytes(PICTURE)
    _, stdout, _ = store_program("export", "--from", f"mongodb://{wire.host}/clinic.eyes", tmp_path / "out")
    assert "0 new, 1 already there, 2 refused" in stdout


def test_an_empty_or_misnamed_collection_is_said_to_be_empty(
    store_program: Command, wire: WireMongoDB, tmp_path: Path
) -> None:
    address = f"mongodb://{wire.host}/clinic.eye"
    for command in (("export", "--from", address, tmp_path / "out"), ("stats", address)):
        code, _, stderr = store_program(*command)
        assert (code, "clinic.eye holds no documents" in sentence(stderr)) == (1, True)
