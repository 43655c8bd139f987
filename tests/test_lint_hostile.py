"""Files that are broken, or made to break their reader: findings, never a crash, a wait or a huge allocation."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from onnx import TensorProto
from small_repositories import CONFIG, FLOAT, GRAPH, SEGMENT, add, faultless, findings, segment, write

from export.lint import wire

GIGABYTE = 2**30
WITHIN_700_MB = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (700 * 2**20, 700 * 2**20))
from export.lint.program import main
sys.exit(main(sys.argv[1:]))
"""


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def span(number: int, content: bytes, length: int | None = None) -> bytes:
    """A field of bytes, which may lie about its length."""
    return varint(number << 3 | 2) + varint(len(content) if length is None else length) + content


OPSET = span(8, b"\x10\x12")


def three_gigabytes(file: Path, *, whole: bool) -> None:
    """`segment`'s graph with an initializer of 3 GB that takes no room on the disk; `whole` or only announced."""
    size = 3 * GIGABYTE
    weight = TensorProto(name="w", data_type=TensorProto.UINT8, dims=[3, GIGABYTE]).SerializeToString()
    head = weight + varint(9 << 3 | 2) + varint(size)
    inner = segment().graph.SerializeToString() + varint(5 << 3 | 2) + varint(len(head) + size) + head
    outer = segment()
    outer.ClearField("graph")
    file.write_bytes(outer.SerializeToString() + varint(7 << 3 | 2) + varint(len(inner) + size) + inner)
    if whole:
        os.truncate(file, file.stat().st_size + size)


@pytest.mark.parametrize(("whole", "said"), [(True, "No fault found in 4 models."), (False, "are there")])
def test_three_gigabytes_of_weights_are_judged_without_being_loaded(whole: bool, said: str, tmp_path: Path) -> None:
    repository = faultless(tmp_path)
    three_gigabytes(repository / GRAPH, whole=whole)
    words = [sys.executable, "-c", WITHIN_700_MB, str(repository), "--cores", "2"]
    started = time.monotonic()
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert time.monotonic() - started < 10
    assert (done.returncode, done.stderr) == (0 if whole else 1, "")
    assert said in done.stdout


def test_a_graph_cut_off_anywhere_is_a_finding(tmp_path: Path) -> None:
    repository = faultless(tmp_path)
    whole = (repository / GRAPH).read_bytes()
    for length in range(len(whole)):
        (repository / GRAPH).write_bytes(whole[:length])
        found = findings(repository)
        assert any(finding.path == GRAPH and finding.severity == "error" for finding in found), length


@pytest.mark.parametrize("seed", range(20))
def test_no_damaged_graph_breaks_the_reader(seed: int, tmp_path: Path) -> None:
    generator = random.Random(seed)
    repository = faultless(tmp_path)
    weights = [TensorProto(name="w", data_type=FLOAT, dims=[4], float_data=[1.0] * 4)]
    whole = segment(initializers=weights).SerializeToString()
    for _ in range(50):
        damaged = bytearray(whole)
        for _ in range(generator.randint(1, 8)):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        (repository / GRAPH).write_bytes(damaged)
        findings(repository)


@pytest.mark.parametrize("seed", range(20))
def test_no_damaged_config_breaks_the_reader(seed: int, tmp_path: Path) -> None:
    generator = random.Random(seed)
    repository = faultless(tmp_path)
    pieces = [
        "{",
        "}",
        "[",
        "]",
        "<",
        ">",
        '"',
        "'",
        ":",
        ",",
        "#",
        "\\",
        "-1",
        "input",
        "\n",
        "\0",
        "é",
        "9" * 30,
        "$",
    ]
    for _ in range(50):
        damaged = SEGMENT
        for _ in range(generator.randint(1, 6)):
            at = generator.randrange(len(damaged))
            damaged = damaged[:at] + generator.choice([*pieces, ""]) + damaged[at + generator.randrange(6) :]
        (repository / CONFIG).write_text(damaged, encoding="utf-8")
        findings(repository)


def test_noise_is_no_graph(tmp_path: Path) -> None:
    repository = faultless(tmp_path)
    for seed in range(100):
        (repository / GRAPH).write_bytes(random.Random(seed).randbytes(300))
        assert [finding.rule for finding in findings(repository)] == ["graph-broken"]


def test_more_fields_than_any_graph_has_are_not_counted_to_the_end(tmp_path: Path) -> None:
    """Forty megabytes of numbers, which would take a minute."""
    repository = faultless(tmp_path)
    add(GRAPH, b"\x08\x08" * 20_000_000)(repository)
    started = time.monotonic()
    (finding,) = findings(repository)
    assert finding.said == f"It is no whole ONNX file: it has more than {wire.MOST_FIELDS:,} fields."
    assert time.monotonic() - started < 20


LIES = {
    "a name of a megabyte": span(7, span(11, span(1, b"x" * 2**20))),
    "a length of 2^62": span(7, b"", length=2**62),
    "an endless number": span(7, b"\xff" * 20),
    "a thousand huge dims": b"\x08\x08" + span(7, span(5, b"\x08\xff\xff\xff\xff\x0f" * 1000)) + OPSET,
    "a negative dim": b"\x08\x08" + span(7, span(5, span(1, b"\xff" * 9 + b"\x01"))) + OPSET,
    "no graph": b"\x08\x08" + OPSET,
    "no opset": b"\x08\x08" + span(7, b""),
}


@pytest.mark.parametrize("content", LIES.values(), ids=LIES.keys())
def test_a_lie_in_a_graph_is_a_finding(content: bytes, tmp_path: Path) -> None:
    repository = faultless(tmp_path)
    add(GRAPH, content)(repository)
    assert {finding.path for finding in findings(repository) if finding.severity == "error"} >= {GRAPH}


def test_graphs_in_graphs_without_end_are_a_finding(tmp_path: Path) -> None:
    repository = faultless(tmp_path)
    graph = b""
    for _ in range(3000):
        graph = span(1, span(5, span(6, graph)))
    add(GRAPH, b"\x08\x08" + span(7, graph))(repository)
    (finding,) = findings(repository)
    assert "nested deeper" in finding.said


@pytest.mark.parametrize("name", [CONFIG, GRAPH, "classify/labels.txt", "encode/1/model.py"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(name: str, tmp_path: Path) -> None:
    repository = faultless(tmp_path)
    (repository / name).unlink()
    os.mkfifo(repository / name)
    found = findings(repository)
    assert [finding.rule for finding in found if finding.severity == "error"] in (["file-unreadable"], ["graph-broken"])


def test_links_in_a_circle_are_a_finding(tmp_path: Path) -> None:
    repository = faultless(tmp_path)
    (repository / GRAPH).unlink()
    (repository / GRAPH).symlink_to("model.onnx")
    (repository / "loop").symlink_to("loop")
    assert {finding.rule for finding in findings(repository)} == {"graph-missing"}


AS_NOBODY = """
import os, sys, tempfile
from pathlib import Path
from small_repositories import faultless, findings
with tempfile.TemporaryDirectory() as folder:
    os.chmod(folder, 0o755)
    repository = faultless(Path(folder) / "repository")
    for name in sys.argv[1:]:
        os.chmod(repository / name, 0)
    os.setresuid(65534, 65534, 0)
    print(*{f"{f.path} {f.rule}" for f in findings(repository)}, sep="\\n")
    os.setresuid(0, 0, 0)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become someone who may not read a file")
@pytest.mark.parametrize("name", ["encode", "encode/1", "encode/1/model.py", GRAPH, CONFIG, "classify/labels.txt"])
def test_what_may_not_be_read_is_a_finding(name: str) -> None:
    path = os.pathsep.join([str(ROOT / "tests"), str(ROOT), str(ROOT / "src")])
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, name], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}
    )
    shown = {"encode/1": "encode", "classify/labels.txt": "classify/config.pbtxt"}.get(name, name)
    assert f"{shown} file-unreadable" in done.stdout.splitlines(), done.stderr


def test_names_from_a_file_move_no_cursor(tmp_path: Path) -> None:
    repository = write(
        faultless(tmp_path / "r"),
        {"encode\x1b[2J/config.pbtxt": 'name: "x\\033[31m\\n"', "encode\x1b[2J/1/model.py": b"\xff\x1b"},
    )
    done = subprocess.run(
        [sys.executable, "-m", "export", "lint", str(repository)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 1
    assert "\x1b" not in done.stdout
    assert "encode\\x1b[2J" in done.stdout
