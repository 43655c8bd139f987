"""Is an engine fit for this machine and this repository? Asked before Triton starts."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, ROOT
from small_graphs import CLASSIFIER, RETINA, UNET, write_nvidia_smi, write_program, write_repository

from fovea import hardware, plan, repository
from fovea.errors import ServerError
from fovea.plan import Plan
from fovea.server import Server

H200 = "9.0, NVIDIA H200"
CURE = r"python -m export retina --to tensorrt builds it anew"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose nvidia-smi, one H200, is the first on PATH."""
    folder = tmp_path / "programs"
    write_nvidia_smi(folder, H200)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A repository with engines, as export leaves it on a machine with an H200."""
    folder = write_repository(tmp_path / "repository")
    for network in RETINA.networks:
        content = f"engine of {network.name}".encode()
        graph = folder / network.name / "1" / "model.onnx"
        note = Plan(
            network=network.name,
            precision="fp32",
            capability="9.0",
            gpu="NVIDIA H200",
            tensorrt="10.13.3.9",
            graphs={"model.onnx": plan.sha256(graph)},
            profile=network.batches,
            settings={"tf32": False},
            sha256=hashlib.sha256(content).hexdigest(),
            size_bytes=len(content),
            built="2026-01-01T00:00:00+00:00",
            built_by="python -m export",
            parity=[],
        )
        graph.with_name(plan.FILE).write_bytes(content)
        graph.with_name(plan.NOTE).write_bytes(note.to_json())
    return folder


def engine(folder: Path) -> Path:
    return folder / UNET.name / "1" / plan.FILE


def change(folder: Path, **fields: Any) -> None:
    note = engine(folder).with_name(plan.NOTE)
    note.write_text(json.dumps(json.loads(note.read_text()) | fields))


def refusal(folder: Path) -> str:
    with pytest.raises(ServerError) as caught:
        plan.check("tensorrt", [RETINA], folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.usefixtures("programs")
def test_engines_of_this_gpu_and_these_graphs_are_fit(built: Path) -> None:
    plan.check("tensorrt", [RETINA], built)
    assert plan.read(engine(built).with_name(plan.NOTE)).profile == (1, 2, 4)


@pytest.mark.usefixtures("programs")
def test_an_engine_of_another_graph_is_stale(built: Path) -> None:
    (built / UNET.name / "1" / "model.onnx").write_bytes(b"trained anew")
    assert "model.plan was built from another model.onnx (" in refusal(built)
    assert refusal(built).endswith(f"{CURE}, on the machine that serves it.")
    (built / UNET.name / "1" / "model.onnx").unlink()
    assert "here it is missing" in refusal(built)


def test_an_engine_of_another_gpu_is_foreign(built: Path, programs: Path) -> None:
    write_nvidia_smi(programs, "8.6, NVIDIA A10")
    said = refusal(built)
    assert "was built for compute capability 9.0 (NVIDIA H200), and here is compute capability 8.6 (NVIDIA A10)" in said
    assert "--to tensorrt" in said


@pytest.mark.usefixtures("programs")
def test_an_engine_for_other_batches_than_the_task_declares_is_stale(built: Path) -> None:
    change(built, profile=[1, 1, 2])
    assert "was built for batches of 1, 1, 2, and retina_unet now declares 1, 2, 4" in refusal(built)


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("content", [b"", b"engine of retina_un", b"\0" * 100])
def test_an_engine_that_its_note_does_not_describe_is_refused(built: Path, content: bytes) -> None:
    """Cut off, overwritten, or copied from elsewhere without its note."""
    engine(built).write_bytes(content)
    assert "is not the engine that model.plan.json describes" in refusal(built)


@pytest.mark.usefixtures("programs")
def test_the_engine_of_another_network_is_refused_although_it_is_whole(built: Path) -> None:
    for name in (plan.FILE, plan.NOTE):
        (built / UNET.name / "1" / name).write_bytes((built / CLASSIFIER.name / "1" / name).read_bytes())
    assert "describes, one of retina_classifier" in refusal(built)


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"profile": 3}', b'{"profile": [1, 2, 3]}', b'{"graphs": {}}'],
)
def test_a_note_that_is_damaged_is_named(built: Path, content: bytes) -> None:
    engine(built).with_name(plan.NOTE).write_bytes(content)
    assert "model.plan.json cannot be read" in refusal(built)


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("fields", [{"graphs": []}, {"graphs": {}}, {"profile": [1]}, {"surprise": 1}])
def test_a_note_of_another_form_is_named(built: Path, fields: dict[str, Any]) -> None:
    change(built, **fields)
    assert "model.plan.json cannot be read" in refusal(built)


@pytest.mark.usefixtures("programs")
def test_an_engine_without_a_note_or_no_engine_at_all_is_named(built: Path) -> None:
    engine(built).with_name(plan.NOTE).unlink()
    assert "nobody knows what" in refusal(built)
    engine(built).unlink()
    assert "model.plan is missing" in refusal(built)


def test_a_machine_without_nvidia_smi_is_told_what_to_install(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "nvidia-smi was not found: install NVIDIA's driver" in refusal(built)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'NVIDIA-SMI has failed because it could not'; echo 'talk to the driver'; exit 9", "to the driver"),
        ("echo 'No devices were found' >&2; exit 6", "No devices were found"),
        ("echo '[N/A], Tesla K80'", r"\[N/A\], Tesla K80"),
        ("exit 3", "exit code 3"),
        ("printf '\\377\\376garbage'; exit 1", "nvidia-smi says"),
    ],
)
def test_what_nvidia_smi_complains_of_is_passed_on_in_one_line(programs: Path, script: str, said: str) -> None:
    write_program(programs, "nvidia-smi", script)
    with pytest.raises(ServerError, match=said) as caught:
        plan.gpu()
    assert "\n" not in str(caught.value)


def test_gpus_of_one_kind_are_one_gpu_and_of_several_kinds_none(programs: Path) -> None:
    write_nvidia_smi(programs, "9.0, NVIDIA H100", H200)
    assert plan.gpu() == plan.Gpu("9.0", "NVIDIA H100")
    write_nvidia_smi(programs, H200, "8.9, NVIDIA L4")
    with pytest.raises(ServerError, match=r"GPUs of several kinds.*H200.*L4.*device=0"):
        plan.gpu()


@pytest.mark.usefixtures("programs")
def test_the_embedded_server_says_first_what_is_stale_and_then_that_it_has_no_such_backend(built: Path) -> None:
    with pytest.raises(ServerError, match=r"tensorrt backend.*does not carry.*container.*HARDWARE=gpu"):
        hardware.permit("tensorrt", [RETINA], built)
    engine(built).write_bytes(b"another")
    with pytest.raises(ServerError, match=CURE):
        hardware.permit("tensorrt", [RETINA], built)
    for name in repository.HARDWARE:
        if name not in plan.MADE_HERE:
            hardware.permit(name, [RETINA], built)


@pytest.mark.parametrize("name", plan.MADE_HERE)
def test_a_server_without_what_tensorrt_needs_does_not_start_and_names_the_command(name: repository.Hardware) -> None:
    with pytest.raises(ServerError, match=rf"is missing: python -m export fundus --to {name} "):
        Server(REPOSITORY, ["fundus"], hardware=name).start()


def test_a_machine_with_engines_is_still_served_on_its_gpu(
    monkeypatch: pytest.MonkeyPatch, built: Path, tmp_path: Path
) -> None:
    """The embedded server cannot serve engines: `auto` must not choose what is then refused."""
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: str(path) == "/dev/nvidia0" or exists(path))
    assert hardware.choose([built / network.name for network in RETINA.networks])[0] == "gpu"


def test_a_tensorrt_graph_of_another_network_is_stale(built: Path) -> None:
    with pytest.raises(ServerError, match=r"model\.tensorrt\.onnx is missing.*--to onnxruntime_tensorrt writes it"):
        plan.check("onnxruntime_tensorrt", [RETINA], built)
    for network in RETINA.networks:
        graph = built / network.name / "1" / "model.onnx"
        graph.with_name(plan.TENSORRT_GRAPH).write_bytes(b"onnx " + plan.sha256(graph).encode() + b" onnx")
    plan.check("onnxruntime_tensorrt", [RETINA], built)
    graph.write_bytes(b"trained anew")
    with pytest.raises(ServerError, match=r"was made from another model\.onnx than is there now"):
        plan.check("onnxruntime_tensorrt", [RETINA], built)


def test_the_program_answers_with_an_exit_code(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fovea.plan", "--repository", str(REPOSITORY)]
    for arguments, code, said in (
        (["fundus"], 1, "model.plan is missing"),
        (["measles"], 2, "There is no task"),
        (["--hardware", "cpu"], 2, "invalid choice"),
    ):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=ROOT)
        assert (done.returncode, done.stdout) == (code, "")
        assert said in done.stderr
        assert "Traceback" not in done.stderr
