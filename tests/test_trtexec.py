"""deploy/engines.sh: what the tasks say, run under a POSIX shell with a trtexec that records."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT
from small_graphs import RETINA, UNET, write_nvidia_smi, write_program, write_repository

from export import tensorrt_graph, trtexec
from fovea import plan
from fovea.tasks import TASKS

SCRIPT = ROOT / "deploy" / "engines.sh"
NETWORKS = [network for task in TASKS.values() for network in task.networks]
BUILDS = r"""
echo "$@" >>"$CALLS"
for option in "$@"; do
    case $option in
    --onnx=*) graph=${option#*=} ;;
    --saveEngine=*) engine=${option#*=} ;;
    esac
done
echo "[I] === Device Information ==="
echo "[01/01/2026-00:00:00] [I] TensorRT version: 10.13.3"
{ echo engine; cat "$graph"; } >"$engine"
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """All networks of the script, each with the small U-Net's graph: it reads no graph itself."""
    folder = write_repository(tmp_path / "models")
    stamped = tensorrt_graph.stamped(tensorrt_graph.source(RETINA, UNET, folder, "fp32"))
    for network in NETWORKS:
        place = folder / network.name / "1"
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / UNET.name / "1" / "model.onnx", place / "model.onnx.copy")
        (place / "model.onnx.copy").replace(place / "model.onnx")
        (place / plan.TENSORRT_GRAPH).write_bytes(stamped)
    return folder


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    write_nvidia_smi(tmp_path / "programs", "9.0, NVIDIA H200", "9.0, NVIDIA H200")
    write_program(tmp_path / "programs", "trtexec", BUILDS)
    return tmp_path / "programs"


def run(programs: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    environment = {"PATH": f"{programs}:/usr/bin:/bin", "CALLS": str(programs / "calls")}
    command = [shutil.which("dash") or "sh", str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=programs.parent)


def everything(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_committed_script_is_what_the_tasks_say() -> None:
    assert SCRIPT.read_text(encoding="utf-8") == trtexec.script()
    assert os.access(SCRIPT, os.X_OK)


def test_every_network_is_built_with_its_profile_and_noted_so_that_it_is_fit(
    repository: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run(programs, repository)
    assert (done.returncode, done.stdout) == (0, "")
    calls = (programs / "calls").read_text().splitlines()
    assert len(calls) == len(NETWORKS)
    for (task, network), call in zip([(t, n) for t in TASKS.values() for n in t.networks], calls, strict=True):
        assert f"/{network.name}/1/{plan.TENSORRT_GRAPH} " in call
        for option, shape in zip(("min", "opt", "max"), task.profile(network), strict=True):
            assert f"--{option}Shapes={network.reads}:{'x'.join(map(str, shape))} " in call
        assert {"--stronglyTyped", "--noTF32", "--skipInference", "--memPoolSize=workspace:1024"} <= set(call.split())
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    plan.check("tensorrt", list(TASKS.values()), repository)
    note = plan.read(repository / UNET.name / "1" / plan.NOTE)
    assert (note.tensorrt, note.gpu, note.capability) == ("10.13.3", "NVIDIA H200", "9.0")
    assert (note.built_by, note.parity, note.size_bytes) == (
        "trtexec",
        [],
        (repository / UNET.name / "1" / plan.FILE).stat().st_size,
    )
    assert not list(repository.rglob("*.partial"))


def test_without_trtexec_nothing_is_changed(repository: Path, programs: Path) -> None:
    before = everything(repository)
    (programs / "trtexec").unlink()
    done = run(programs, repository)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "trtexec was not found: run this inside NVIDIA's TensorRT container; nothing was changed.\n"
    assert everything(repository) == before


def test_without_a_gpu_or_with_several_kinds_nothing_is_changed(repository: Path, programs: Path) -> None:
    before = everything(repository)
    write_nvidia_smi(programs, code=9)
    assert "No NVIDIA GPU can be used here" in run(programs, repository).stderr
    write_nvidia_smi(programs, "9.0, NVIDIA H200", "8.9, NVIDIA L4")
    done = run(programs, repository)
    assert done.returncode == 1
    assert "several kinds" in done.stderr
    assert everything(repository) == before


def test_a_build_that_fails_leaves_the_engine_that_was_there(repository: Path, programs: Path) -> None:
    assert run(programs, repository).returncode == 0
    before = everything(repository)
    write_program(programs, "trtexec", BUILDS + "\necho '[E] out of memory'; exit 1")
    done = run(programs, repository)
    assert done.returncode == 1
    assert "[E] out of memory" in done.stderr
    assert done.stderr.endswith(
        "retina_unet: trtexec failed, see its last lines above; the engines of this network are as they were.\n"
    )
    assert everything(repository) == before


@pytest.mark.parametrize("name", ["TERM", "INT"])
def test_a_build_that_is_stopped_leaves_nothing_half_written(repository: Path, programs: Path, name: str) -> None:
    before = everything(repository)
    write_program(programs, "trtexec", BUILDS + f"\nkill -{name} $PPID")
    assert run(programs, repository).returncode == 128 + signal.Signals[f"SIG{name}"]
    assert everything(repository) == before


def test_a_graph_that_is_missing_or_stale_is_named_with_the_command(repository: Path, programs: Path) -> None:
    graph = repository / UNET.name / "1" / "model.onnx"
    graph.write_bytes(graph.read_bytes() + b"\n")
    done = run(programs, repository)
    assert done.returncode == 1
    assert "was made from another model.onnx: python -m export retina --to onnxruntime_tensorrt" in done.stderr
    graph.with_name(plan.TENSORRT_GRAPH).unlink()
    assert "model.tensorrt.onnx is missing: python -m export retina --to" in run(programs, repository).stderr
    graph.unlink()
    assert "model.onnx is missing: python -m export retina writes it." in run(programs, repository).stderr
    assert not (programs / "calls").exists()


@pytest.mark.parametrize("arguments", [("one", "two"), ("absent",)])
def test_wrong_usage_ends_with_2(programs: Path, arguments: tuple[str, ...]) -> None:
    assert run(programs, *arguments).returncode == 2
