"""`python -m client` against the real server: every picture gets its row, whatever is wrong with the others."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image as Pillow

from fovea import phantoms, pixels, repository
from fovea.server import Server
from fovea.tasks import FUNDUS_LABELS, TASKS

PHANTOM = phantoms.fundus(4)
HEIGHT, WIDTH = PHANTOM.vessels.shape


def encode(picture: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]", kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Pillow.fromarray(picture).save(stream, kind, **options)
    return stream.getvalue()


def rotated() -> bytes:
    """The phantom as a camera held upright stores it: turned, with an EXIF note to turn it back."""
    exif = Pillow.Exif()
    exif[0x0112] = 6
    return encode(np.ascontiguousarray(np.rot90(PHANTOM.picture, 1)), "JPEG", quality=95, exif=exif)


def bomb() -> bytes:
    stream = io.BytesIO()
    Pillow.new("1", (20_000, 20_000)).save(stream, "PNG")
    return stream.getvalue()


GREY = cv2.cvtColor(PHANTOM.picture, cv2.COLOR_RGB2GRAY)
GOOD = {
    "good.jpg": PHANTOM.encoded(),
    "grey.png": encode(GREY, "PNG"),
    "rgba.PNG": encode(np.dstack([PHANTOM.picture, np.full((HEIGHT, WIDTH), 90, np.uint8)]), "PNG"),
    "rotated.jpeg": rotated(),
    "sixteen.tif": encode(GREY.astype(np.uint16) * 257, "TIFF"),
}
BAD = {
    "bomb.png": (bomb(), "pixels"),
    "dot.png": (encode(np.zeros((1, 1, 3), np.uint8), "PNG"), "1×1 pixels"),
    "empty.jpg": (b"", "empty"),
    "text.jpg": (b"no picture at all", "no JPEG, PNG or TIFF picture"),
    "truncated.jpg": (PHANTOM.encoded()[:20_000], "damaged or cut off"),
}


@pytest.fixture
def good(tmp_path: Path) -> Path:
    folder = tmp_path / "good"
    folder.mkdir()
    for name, content in GOOD.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def mixed(good: Path) -> Path:
    for name, (content, _) in BAD.items():
        (good / name).write_bytes(content)
    (good / "notes.txt").write_text("not a picture, and not named like one")
    return good


@pytest.fixture
def refused(refused_port: int) -> str:
    """An address that refuses connections."""
    return f"grpc://127.0.0.1:{refused_port}"


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "client", *map(str, arguments)]


def ask(*arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error, in which nothing may look like a traceback."""
    environment = os.environ | {"COLUMNS": "100"}
    done = subprocess.run(command(*arguments), capture_output=True, text=True, cwd=ROOT, env=environment)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as lines:
        return {Path(row["file"]).name: row for row in csv.DictReader(lines)}


def only_sentence(stderr: str) -> str:
    (line,) = stderr.strip().splitlines()
    assert line.endswith(".")
    return line


@pytest.mark.parametrize("wire", ["grpc", "http"])
def test_in_a_mixed_folder_every_picture_has_its_row_and_the_good_ones_their_answer(
    wire: str, server: Server, mixed: Path, tmp_path: Path
) -> None:
    url = server.grpc_url if wire == "grpc" else server.http_url
    table, overlays = tmp_path / "out" / "rows.csv", tmp_path / "overlays"
    code, stdout, stderr = ask("retina", mixed, "--url", url, "--csv", table, "--overlay", overlays)
    assert code == 1
    found = rows(table)
    assert sorted(found) == sorted([*GOOD, *BAD])
    for name in GOOD:
        row = found[name]
        assert (row["status"], row["reason"]) == ("ok", "")
        probabilities = {label: float(row[label]) for label in FUNDUS_LABELS}
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-4)
        assert row["label"] == max(probabilities, key=lambda label: probabilities[label])
        assert float(row["probability"]) == max(probabilities.values())
        assert 0 <= float(row["vessels_percent"]) <= 100
        assert float(row["milliseconds"]) > 0
        assert name in stdout
    for name, (_, said) in BAD.items():
        row = found[name]
        assert row["status"] == "error"
        assert said in row["reason"]
        assert not any(row[cell] for cell in ("label", "probability", "vessels_percent", "milliseconds", "Normal"))
        assert [line for line in stderr.splitlines() if line.startswith(f"{mixed / name}: ")]
        assert name not in stdout
    assert {path.name for path in overlays.iterdir()} == {f"{Path(name).stem}.png" for name in GOOD}
    for path in overlays.iterdir():
        drawn = pixels.decode(path.read_bytes())
        caption = drawn.source_height - HEIGHT
        assert drawn.source_width == WIDTH
        assert 0 < caption < 0.1 * HEIGHT


def test_the_same_photograph_in_another_orientation_or_format_gets_the_same_answer(
    server: Server, good: Path, tmp_path: Path
) -> None:
    (good / "same.png").write_bytes(PHANTOM.encoded("png"))
    (good / "as_stored.bmp").write_bytes(encode(PHANTOM.picture, "BMP"))
    assert ask("fundus", good, "--url", server.grpc_url, "--csv", tmp_path / "rows.csv")[0] == 0
    found = rows(tmp_path / "rows.csv")
    for label in FUNDUS_LABELS:
        assert found["as_stored.bmp"][label] == found["same.png"][label] == found["rgba.PNG"][label]
        assert float(found["rotated.jpeg"][label]) == pytest.approx(float(found["good.jpg"][label]), abs=0.1)
        assert found["grey.png"][label] == found["sixteen.tif"][label]


def test_when_all_are_good_it_exits_with_0_and_says_nothing_on_stderr(server: Server, good: Path) -> None:
    code, stdout, stderr = ask("retina", good, "--url", server.grpc_url)
    assert (code, stderr) == (0, "")
    assert len(stdout.splitlines()) == 1 + len(GOOD)


def test_json_is_one_object_per_line_and_nothing_else(server: Server, mixed: Path) -> None:
    code, stdout, stderr = ask("retina", mixed, "--url", server.grpc_url, "--json", "--concurrency", 2)
    assert (code, stderr) == (1, "")
    found = {Path(value["file"]).name: value for value in map(json.loads, stdout.splitlines())}
    assert sorted(found) == sorted([*GOOD, *BAD])
    for name in GOOD:
        answer = "task", "label", "probability", "probabilities", "frame", "vessels_percent", "milliseconds"
        assert found[name].keys() == {"file", "status", *answer}
    for name, (_, said) in BAD.items():
        assert found[name].keys() == {"file", "status", "reason"}
        assert said in found[name]["reason"]


def test_a_file_that_is_missing_or_unreadable_is_a_row_too(server: Server, good: Path, tmp_path: Path) -> None:
    files = (good / "good.jpg", tmp_path / "absent.jpg", good / "good.jpg" / "below.jpg")
    code, _, stderr = ask("fundus", *files, "--url", server.grpc_url, "--csv", tmp_path / "rows.csv")
    assert code == 1
    found = rows(tmp_path / "rows.csv")
    assert {name: row["status"] for name, row in found.items()} == {
        "good.jpg": "ok",
        "absent.jpg": "error",
        "below.jpg": "error",
    }
    assert found["absent.jpg"]["reason"] == f"{files[1]} cannot be read (No such file or directory)."
    assert len(stderr.splitlines()) == 2


def test_when_no_picture_could_be_answered_there_is_no_table(server: Server, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_bytes(b"no picture")
    code, stdout, stderr = ask("fundus", tmp_path, "--url", server.grpc_url)
    assert (code, stdout) == (1, "")
    assert only_sentence(stderr).startswith(f"{tmp_path / 'text.jpg'}: ")


def test_a_file_given_twice_is_asked_about_once(server: Server, good: Path, tmp_path: Path) -> None:
    files = (good / "good.jpg", good, good / "good.jpg")
    assert ask("fundus", *files, "--url", server.grpc_url, "--csv", tmp_path / "rows.csv")[0] == 0
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 1 + len(GOOD)


ODD_NAMES = [
    "[red]eye.jpg",
    "[eye].jpg",
    ":eye:.jpg",
    "back\\slash\\.jpg",
    "a b,c\"d'.jpg",
    "Auge_für_größe.jpg",
    "眼.jpg",
]


def test_odd_file_names_come_out_as_they_are(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "[bold]pictures"
    folder.mkdir()
    for name in ODD_NAMES:
        (folder / name).write_bytes(GOOD["good.jpg"])
        (folder / f"bad{name}").write_bytes(b"no picture")
    options = ("--url", server.grpc_url, "--csv", tmp_path / "rows.csv", "--overlay", tmp_path / "drawn")
    code, stdout, stderr = ask("fundus", folder, *options)
    assert code == 1
    for name in ODD_NAMES:
        assert name in stdout
        assert f"{folder / f'bad{name}'}: The bytes are no" in stderr
    assert sorted(rows(tmp_path / "rows.csv")) == sorted([*ODD_NAMES, *(f"bad{name}" for name in ODD_NAMES)])
    assert len(list((tmp_path / "drawn").iterdir())) == len(ODD_NAMES)


def test_a_file_name_that_is_no_utf_8_is_answered_and_written(server: Server, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    (tmp_path / name).write_bytes(GOOD["good.jpg"])
    table = tmp_path / "out" / "rows.csv"
    for options in ((), ("--json",)):
        code, stdout, stderr = ask("fundus", tmp_path / name, "--url", server.grpc_url, "--csv", table, *options)
        assert (code, stderr) == (0, "")
        assert "caf" in stdout
        assert list(rows(table)) == [name]


def test_an_empty_folder_exits_with_2(server: Server, tmp_path: Path) -> None:
    code, stdout, stderr = ask("fundus", tmp_path, "--url", server.grpc_url)
    assert (code, stdout) == (2, "")
    assert only_sentence(stderr) == f"The folder {tmp_path} holds no JPEG, PNG or TIFF picture: give another."


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("cataract",), "There is no task 'cataract': choose one of"),
        (("fundus", "--url", "nowhere"), "write grpc://host:8001 or http://host:8000"),
        (("fundus", "--concurrency", "0"), "must be greater than zero"),
        (("fundus", "--timeout", "-1"), "must be greater than zero"),
    ],
)
def test_wrong_usage_exits_with_2(options: tuple[str, ...], said: str, good: Path) -> None:
    task, *others = options
    code, stdout, stderr = ask(task, good / "good.jpg", *others)
    assert (code, stdout) == (2, "")
    assert said in only_sentence(stderr)


def test_without_a_server_it_exits_with_1_and_says_how_to_start_one(refused: str, good: Path, tmp_path: Path) -> None:
    code, stdout, stderr = ask("fundus", good, "--url", refused, "--csv", tmp_path / "rows.csv")
    assert (code, stdout) == (1, "")
    assert only_sentence(stderr) == f"No server answers at {refused}: start one with make serve, or check the address."
    assert not (tmp_path / "rows.csv").exists()


def test_a_csv_that_cannot_be_written_is_said_before_any_picture_is_asked(refused: str, good: Path) -> None:
    """Nothing listens: had a picture been asked about, that would be the complaint."""
    code, stdout, stderr = ask("fundus", good, "--url", refused, "--csv", good / "good.jpg" / "rows.csv")
    assert (code, stdout) == (2, "")
    assert "rows.csv cannot be written" in only_sentence(stderr)


def test_a_run_without_a_server_leaves_an_older_csv_as_it_was(refused: str, good: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("older")
    assert ask("fundus", good, "--url", refused, "--csv", tmp_path / "rows.csv")[0] == 1
    assert (tmp_path / "rows.csv").read_text() == "older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good", "rows.csv"]


def test_an_overlay_that_cannot_be_written_exits_with_2(server: Server, good: Path) -> None:
    code, _, stderr = ask("fundus", good, "--url", server.grpc_url, "--overlay", good / "good.jpg" / "drawn")
    assert code == 2
    assert "cannot be written" in only_sentence(stderr)


def test_overlays_of_one_stem_do_not_overwrite_each_other(server: Server, tmp_path: Path) -> None:
    for name in ("a/eye.jpg", "a/eye.png", "b/eye.jpg", "b/eye-2.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(GOOD["good.jpg"])
    overlays = tmp_path / "overlays"
    assert ask("fundus", tmp_path / "b", tmp_path / "a", "--url", server.grpc_url, "--overlay", overlays)[0] == 0
    assert len(list(overlays.iterdir())) == 4


def test_an_overlay_never_overwrites_a_photograph(server: Server, good: Path) -> None:
    before = {path.name: path.read_bytes() for path in good.iterdir()}
    code, _, stderr = ask("fundus", good, "--url", server.grpc_url, "--overlay", good)
    assert code == 2
    assert "grey.png" in only_sentence(stderr)
    assert {path.name: path.read_bytes() for path in good.iterdir()} == before


def test_ctrl_c_keeps_what_was_answered_and_exits_with_130(server: Server, tmp_path: Path) -> None:
    folder, table = tmp_path / "many", tmp_path / "rows.csv"
    folder.mkdir()
    for number in range(400):
        (folder / f"{number:03}.jpg").write_bytes(GOOD["good.jpg"])
    options = ("--url", server.grpc_url, "--csv", table, "--json", "--concurrency", 2)
    with subprocess.Popen(
        command("retina", folder, *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        printed = [program.stdout.readline() for _ in range(3)]
        program.send_signal(signal.SIGINT)
        printed += program.stdout.readlines()
        stderr = program.stderr.read()
    answered = {Path(json.loads(line)["file"]).name for line in printed}
    assert program.returncode == 130
    assert 3 <= len(answered) < 400
    assert only_sentence(stderr) == f"Interrupted: {len(answered)} of 400 pictures were answered."
    assert set(rows(table)) == answered
    assert {row["status"] for row in rows(table).values()} == {"ok"}


def test_a_reader_that_goes_away_is_no_traceback(server: Server, tmp_path: Path) -> None:
    """As in `python -m client … --json | head -1`."""
    for number in range(20):
        (tmp_path / f"{number}.jpg").write_bytes(GOOD["good.jpg"])
    with subprocess.Popen(
        command("fundus", tmp_path, "--url", server.grpc_url, "--json"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    ) as program:  # fmt: skip
        assert program.stdout is not None
        assert program.stderr is not None
        json.loads(program.stdout.readline())
        program.stdout.close()
        assert program.stderr.read() == ""
    assert program.returncode == 141


def test_an_evaluation_has_every_picture_with_its_class_and_the_full_csv_beside_it_says_the_rest(
    server: Server, mixed: Path, tmp_path: Path
) -> None:
    """The layout that users of evaluation.csv read: a path below the folder, then the class, or nothing."""
    written = tmp_path / "evaluation.csv"
    code, _, _ = ask("fundus", mixed, "--url", server.grpc_url, "--evaluation", written)
    assert code == 1
    lines = written.read_bytes().decode().split("\n")
    assert lines[0] == "name,ground_truth"
    assert lines[-1] == ""
    given = dict(csv.reader(lines[1:-1]))
    full = rows(tmp_path / "evaluation.full.csv")
    assert set(given) == set(GOOD) | set(BAD) == set(full)
    for name, row in full.items():
        assert given[name] == row["label"]
        assert (given[name] in FUNDUS_LABELS) == (row["status"] == "ok") == (name in GOOD)
        assert row["status"] == "ok" or row["reason"]


def test_csv_and_evaluation_do_not_overwrite_each_other(refused: str, good: Path, tmp_path: Path) -> None:
    same = tmp_path / "out.csv"
    code, _, stderr = ask("fundus", good, "--url", refused, "--csv", same, "--evaluation", same)
    assert code == 2
    assert "would write the same file" in only_sentence(stderr)


def test_an_operating_point_decides_the_label_and_an_unknown_one_exits_with_2_and_lists_those_there_are(
    server: Server, good: Path
) -> None:
    points = repository.operating_points(TASKS["glaucoma"], ROOT / "model_repository")
    assert points.keys() == {"screening", "balanced", "confirmation"}
    for url in (server.grpc_url, server.http_url):
        for name, threshold in points.items():
            code, stdout, _ = ask("glaucoma", good, "--url", url, "--json", "--operating-point", name)
            assert code == 0
            for line in stdout.splitlines():
                value = json.loads(line)
                assert (value["operating_point"], value["threshold"]) == (name, threshold)
                assert (value["label"] == "Glaucoma") == (value["score"] >= threshold)
        code, _, stderr = ask("glaucoma", good, "--url", url, "--operating-point", "lucky")
        assert code == 2
        assert "'lucky' for glaucoma: choose from screening, balanced, confirmation" in only_sentence(stderr)
