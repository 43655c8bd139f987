"""Picture stores move a labelled folder in and out: the embedded one for real, MongoDB through its real driver."""

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId
from rich.console import Console
from small_stores import Command, encoded, files, sentence
from wire_mongodb import WireMongoDB, serving

from fovea.errors import TrainingError, UsageError
from training import store
from training.store_access import is_store, opened
from training.store_documents import Fields, describe


@contextmanager
def mongod(pictures: Path) -> Iterator[str]:
    """The real server's address, where there is one on this machine."""
    program = shutil.which("mongod")
    if program is None:
        pytest.skip("no mongod on this machine")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pictures.mkdir()
    started = subprocess.Popen(
        [program, "--dbpath", pictures, "--port", str(port), "--bind_ip", "127.0.0.1"], stdout=subprocess.DEVNULL
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


def test_a_folder_goes_in_and_comes_out_as_it_was(
    store_program: Command, address: str, pictures: Path, tmp_path: Path
) -> None:
    code, stdout, _ = store_program("import", pictures, "--to", address)
    assert (code, stdout) == (0, f"{pictures} → {address}: 6 new, 0 already there, 0 refused\n")
    code, stdout, _ = store_program("export", "--from", address, tmp_path / "out")
    assert (code, stdout) == (0, f"{address} → {tmp_path / 'out'}: 6 new, 0 already there, 0 refused\n")
    assert files(tmp_path / "out") == files(pictures)


def test_what_is_there_already_is_not_written_again(
    store_program: Command, address: str, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    store_program("import", pictures, "--to", address)
    shutil.copy(pictures / "Normal" / "p0__0.png", pictures / "Normal" / "copy.png")
    assert store_program("import", pictures, "--to", address)[:2] == (
        0,
        f"{pictures} → {address}: 0 new, 7 already there, 0 refused\n",
    )
    store_program("export", "--from", address, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    (out / "Glaucoma" / "p0__1.jpg").unlink()
    assert "1 new, 5 already there, 0 refused" in store_program("export", "--from", address, out)[1]
    assert files(out).keys() == files(pictures).keys() - {"Normal/copy.png"}
    changed = {path.name for path in out.rglob("*") if path.is_file() and path.stat().st_mtime_ns != before[path]}
    assert changed == {"p0__1.jpg"}


def test_stats_count_labels_patients_and_bytes(store_program: Command, address: str, pictures: Path) -> None:
    store_program("import", pictures, "--to", address)
    code, stdout, _ = store_program("stats", address, "--json")
    assert code == 0
    assert json.loads(stdout) == {
        "store": address,
        "labels": {"Glaucoma": 3, "Normal": 3},
        "pictures": 6,
        "patients": 2,
        "bytes": sum(map(len, files(pictures).values())),
        "refused": 0,
    }
    code, stdout, _ = store_program("stats", address)
    assert [line.split() for line in stdout.splitlines()[1:3]] == [["Glaucoma", "3"], ["Normal", "3"]]


def test_the_same_picture_under_two_labels_is_refused_and_named(
    store_program: Command, address: str, pictures: Path
) -> None:
    shutil.copy(pictures / "Normal" / "p0__0.png", pictures / "Glaucoma" / "other.png")
    code, stdout, stderr = store_program("import", pictures, "--to", address)
    assert code == 1
    assert "6 new, 0 already there, 1 refused" in stdout
    line = sentence(stderr, f"{pictures / 'Normal' / 'p0__0.png'}: ")
    assert "is there with the label Glaucoma" in line


def test_a_picture_that_cannot_be_decoded_is_refused_and_the_others_go_in(
    store_program: Command, address: str, pictures: Path
) -> None:
    whole = encoded(9, "JPEG")
    (pictures / "Normal" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (pictures / "Normal" / "notes.txt").write_text("no picture, and not named like one")
    code, stdout, stderr = store_program("import", pictures, "--to", address)
    assert (code, "6 new, 0 already there, 1 refused" in stdout) == (1, True)
    assert "cut off" in sentence(stderr, f"{pictures / 'Normal' / 'cut.jpg'}: ")


def test_masks_hidden_files_and_odd_names_stay_where_they_are(
    store_program: Command, address: str, pictures: Path
) -> None:
    for name in ("vessels/a.png", ".trash/b.png", "Normal/.c.png", "Normal/line\nbreak.png", "Normal/caf\udce9.png"):
        (pictures / name).parent.mkdir(exist_ok=True)
        (pictures / name).write_bytes(encoded(len(name) + 50))
    code, stdout, stderr = store_program("import", pictures, "--to", address)
    assert (code, "6 new, 0 already there, 2 refused" in stdout) == (1, True)
    assert stderr.count("Its name cannot be kept as text: rename it.") == 2
    assert "line\\nbreak.png" in stderr


def test_training_reads_a_store_as_a_labelled_folder_with_patients_together(
    address: str, pictures: Path, tmp_path: Path
) -> None:
    quiet = Console(file=StringIO())
    store.import_folder(pictures, address, console=quiet)
    assert is_store(address)
    made = store.materialise(address, tmp_path / "made", quiet)
    assert made == tmp_path / "made"
    assert sorted(files(made).values()) == sorted(files(pictures).values())
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
