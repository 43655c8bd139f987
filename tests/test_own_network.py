"""The README's way for a network that was made elsewhere: declared, exported, linted, released, served, taken back."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import pytest
import torch
from conftest import ROOT
from onnx import helper
from test_readme import BLOCK, OWN

from export import convert
from fovea.errors import ExportError
from fovea.spec import Classes, Image, Network, Task, Tolerance

assert OWN
BLOCKS = BLOCK.findall(OWN[0])
MAKE, DECLARE = (block for kind, block in BLOCKS if kind == "python")
FIRST, THEN = (block.splitlines() for kind, block in BLOCKS if kind == "bash")
SPOTS = Task(
    name="spots",
    question="Are there spots in this picture?",
    image=Image(side=128),
    modalities=("fundus",),
    networks=(
        Network("spots_classifier", "onnx", "image", (Classes(("clear", "spotted"), "clear"),), Tolerance(1e-5, 0)),
    ),
)
NETWORK = SPOTS.networks[0]


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of the project in an environment of its own, from which Triton's Python takes `fovea`."""
    for name in ("src", "export", "client"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    (tmp_path / "weights").mkdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / ".venv")], check=True)
    packages = next((tmp_path / ".venv" / "lib").glob("python*/site-packages"))
    (packages / "here.pth").write_text(f"{tmp_path / 'src'}\n{sysconfig.get_path('purelib')}\n")
    return tmp_path


def run(house: Path, *command: str) -> str:
    environment = {"PATH": f"{house / '.venv/bin'}:/usr/bin:/bin", "HOME": str(house)}
    done = subprocess.run(command, cwd=house, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return done.stdout


@contextmanager
def served(house: Path) -> Iterator[str]:
    """What `make serve` runs, on free ports; yields the gRPC address."""
    options = ["--releases", "releases", "spots", "--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
    environment = os.environ | {"PATH": f"{house / '.venv/bin'}:/usr/bin:/bin", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [str(house / ".venv/bin/python"), "-m", "fovea.server", *options],
        cwd=house, env=environment, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr
    try:
        said = ""
        for line in process.stderr:
            said += line
            address = re.search(r"grpc://[\d.:]+", line)
            if address:
                break
        else:
            pytest.fail(said)
        yield address[0]
    finally:
        process.terminate()
        process.wait(30)
        process.stderr.close()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_network_made_elsewhere_goes_the_readmes_way_from_torch_to_a_rollback(house: Path, photograph: bytes) -> None:
    (house / "eye.jpg").write_bytes(photograph)
    run(house, "python", "-c", MAKE)
    tasks = house / "src" / "fovea" / "tasks.py"
    tasks.write_text(tasks.read_text() + "\n" + DECLARE)
    *prepare, serve = FIRST
    assert serve == "make serve RELEASES=releases TASKS=spots"
    for line in prepare:
        run(house, *shlex.split(line))
    with served(house) as url:
        answers = []
        for line in THEN:
            if "client" in line:
                answers.append(run(house, *shlex.split(line), "--url", url, "--json"))
                run(house, "python", "-c", MAKE.replace("manual_seed(7)", "manual_seed(8)"))
                continue
            listed = run(house, *shlex.split(line))
            if line != THEN[-1]:
                answers.append(run(house, "python", "-m", "client", "spots", "eye.jpg", "--url", url, "--json"))
    first, unpublished, second, back = (json.loads(answer)["probabilities"] for answer in answers)
    assert first.keys() == {"clear", "spotted"}
    assert unpublished == first
    assert second != first
    assert back == first
    assert listed.count("spots") == 2


def made(folder: Path, shape: tuple[int, ...] = (128, 128, 3), outputs: str = "probabilities") -> Path:
    """A network as the README makes it, in `folder`."""
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(shape[0] * shape[1] * shape[2], 2))

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            answer: torch.Tensor = self.inner(image.float() / 255).softmax(dim=1)
            return answer

    path = folder / "spots_classifier.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Wrapped().eval(), (torch.zeros(2, *shape, dtype=torch.uint8),), path, dynamo=True, opset_version=18,
            external_data=False, input_names=["image"], output_names=[outputs], verbose=False,
            dynamic_shapes=({0: torch.export.Dim("N", max=8)},),
        )  # fmt: skip
    return path


def test_a_network_made_elsewhere_is_compared_with_itself_as_it_came(tmp_path: Path) -> None:
    made(tmp_path)
    model, reference = convert._graph(SPOTS, NETWORK, tmp_path)
    assert {entry.key: entry.value for entry in model.metadata_props}["fovea.labels"] == "clear,spotted"
    picture = torch.randint(0, 256, (3, 128, 128, 3), dtype=torch.uint8).numpy()
    assert reference(picture)["probabilities"].shape == (3, 2)


def hostile(path: Path, kind: str) -> None:
    if kind in ("truncated", "garbage", "empty"):
        content = path.read_bytes()
        path.write_bytes({"truncated": content[: len(content) // 2], "garbage": b"\x99" * 4000, "empty": b""}[kind])
        return
    model = onnx.load(path)
    weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 2)
    if kind == "weights outside":
        weight.ClearField("raw_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
        weight.external_data.add(key="location", value="../../../etc/passwd")
    elif kind == "absurd dims":
        del weight.dims[:]
        weight.dims.extend([2**40, 2**40])
    elif kind == "negative dims":
        weight.dims[0] = -5
    elif kind == "3 GB header":
        weight.dims[0] = 3 * 2**30 // 4
    elif kind == "opset 30":
        model.opset_import[0].version = 30
    elif kind == "another library's operators":
        model.graph.node.append(helper.make_node("Strange", ["image"], ["unused"], domain="com.example"))
        model.opset_import.append(helper.make_opsetid("com.example", 1))
    path.write_bytes(model.SerializeToString())


HOSTILE = (
    *("truncated", "garbage", "empty", "weights outside", "absurd dims", "negative dims", "3 GB header", "opset 30"),
    "another library's operators",
)


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_or_damaged_file_is_refused_in_a_sentence_before_anything_runs_it(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile(made(tmp_path), kind)
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *_, **__: pytest.fail("it was run"))
    with pytest.raises(ExportError, match=r"spots_classifier\.onnx") as caught:
        convert._graph(SPOTS, NETWORK, tmp_path)
    assert "\n" not in str(caught.value)


def test_another_tasks_outputs_are_refused_with_those_that_were_expected(tmp_path: Path) -> None:
    made(tmp_path, outputs="scores")
    with pytest.raises(ExportError, match=r"should have .*probabilities.* but the graph has .*scores"):
        convert._graph(SPOTS, NETWORK, tmp_path)


def test_another_size_of_picture_is_refused(tmp_path: Path) -> None:
    made(tmp_path, shape=(64, 64, 3))
    with pytest.raises(ExportError, match=r"should have inputs and outputs .*128.* but the graph has .*64"):
        convert._graph(SPOTS, NETWORK, tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"spots_classifier\.onnx does not exist: put the network there"):
        convert._graph(SPOTS, NETWORK, tmp_path)
