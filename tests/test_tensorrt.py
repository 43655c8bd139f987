"""`--to tensorrt` on any machine: all up to the builder's calls, which a recording TensorRT takes in its place."""

import ctypes
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from conftest import REPOSITORY, ROOT
from fake_tensorrt import Driver, Fake, steps
from small_graphs import CLASSIFIER, RETINA, UNET, write_nvidia_smi, write_repository

import export
from export import __main__ as program
from export import pictures, tensorrt, tensorrt_graph
from fovea import plan
from fovea.repository import WORKSPACE
from fovea.spec import Network

FACES = ("10.13.3.9", "11.4.1.2")


def forget(name: str) -> None:
    sys.modules.pop(f"export.{name}", None)
    if hasattr(export, name):
        delattr(export, name)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    made = Driver()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: made)
    yield made
    assert not made.left


def install(monkeypatch: pytest.MonkeyPatch, fake: Fake) -> Fake:
    monkeypatch.setitem(sys.modules, "tensorrt", fake.module())
    forget("tensorrt_engine")
    return fake


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in, with the small repository, on a machine with one GPU."""
    write_repository(tmp_path / "model_repository")
    write_nvidia_smi(tmp_path / "programs", "9.0, NVIDIA H200")
    monkeypatch.setenv("PATH", f"{tmp_path / 'programs'}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(program, "task_named", lambda name: RETINA)
    monkeypatch.setattr(pictures, "PHANTOMS", 2)
    yield tmp_path
    forget("tensorrt_engine")


@pytest.fixture(params=FACES)
def fake(request: pytest.FixtureRequest, machine: Path, monkeypatch: pytest.MonkeyPatch, driver: Driver) -> Fake:
    return install(monkeypatch, Fake(request.param))


@pytest.fixture
def ten(machine: Path, monkeypatch: pytest.MonkeyPatch, driver: Driver) -> Fake:
    return install(monkeypatch, Fake(FACES[0]))


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["export", "retina", "--to", "tensorrt", *arguments])
    return program.main()


def everything(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def note(network: Network = UNET) -> plan.Plan:
    return plan.read(Path("model_repository") / network.name / "1" / plan.NOTE)


def test_a_build_is_strongly_typed_without_tf32_and_with_one_profile(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(monkeypatch) == 0
    first = fake.calls[: fake.calls.index(("build_serialized_network",)) + 1]
    source = tensorrt_graph.source(RETINA, UNET, Path("model_repository"), "fp32")
    assert first == [
        ("create_network", 1 << 1),
        ("parse", source.content),
        ("set_memory_pool_limit", "WORKSPACE", WORKSPACE),
        ("clear_flag", "TF32"),
        ("set_shape", "image", (1, 32, 32, 3), (2, 32, 32, 3), (4, 32, 32, 3)),
        ("add_optimization_profile",),
        ("create_timing_cache", b""),
        ("set_timing_cache", False),
        ("build_serialized_network",),
    ]
    assert fake.called("set_flag") == []


def test_engines_are_placed_with_what_they_were_built_from_and_are_fit(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything(Path("model_repository"))
    assert run(monkeypatch) == 0
    after = everything(Path("model_repository"))
    made = {f"{network.name}/1/{name}" for network in RETINA.networks for name in (plan.FILE, plan.NOTE)}
    assert set(after) - set(before) == made
    assert {name: after[name] for name in before} == before
    plan.check("tensorrt", [RETINA], Path("model_repository"))
    assert (note().tensorrt, note().capability, note().gpu) == (fake.version, "9.0", "NVIDIA H200")
    assert (note().profile, note().precision, note().built_by) == ((1, 2, 4), "fp32", "python -m export")
    assert note().settings == {"workspace_bytes": WORKSPACE, "tf32": False, "strongly_typed": True}
    assert note().size_bytes == len(after[f"{UNET.name}/1/model.plan"])
    said = capsys.readouterr()
    assert "parity: |TensorRT − ONNX Runtime|" in said.out
    assert f"Placed {UNET.name}, {CLASSIFIER.name} in model_repository" in said.err


def test_parity_is_measured_at_every_batch_size_and_noted(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch) == 0
    assert {batch for (batch,) in fake.called("run")} == {1, 2, 3, 4}
    for network in RETINA.networks:
        lines = note(network).parity
        assert {line["output"] for line in lines} == {tensor.name for tensor in RETINA.graph_outputs(network)}
        assert all(line["holds"] and line["batches"] == [1, 2, 3, 4] and line["worst"] == 0 for line in lines)


def test_real_pictures_are_measured_too(ten: Fake, monkeypatch: pytest.MonkeyPatch, photograph: bytes) -> None:
    Path("mine").mkdir()
    (Path("mine") / "eye.jpg").write_bytes(photograph)
    assert run(monkeypatch, "--pictures", "mine") == 0
    assert {(line["pictures"], line["count"]) for line in note().parity} == {("phantoms", 2), ("real", 1)}


@pytest.mark.parametrize("error", [0.01, float("nan")])
def test_an_engine_that_answers_otherwise_is_not_placed(
    ten: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: float
) -> None:
    before = everything(Path("model_repository"))
    ten.error = error
    assert run(monkeypatch) == 1
    said = capsys.readouterr().err
    assert re.search(
        r"retina_classifier: \w+ of the engine differs from ONNX Runtime by .* nothing was exported\.", said
    )
    assert everything(Path("model_repository")) == before
    assert not list(tensorrt.STORE.glob("retina_classifier*.plan"))


def test_a_second_export_takes_what_the_first_built(
    ten: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch) == 0
    digest = tensorrt_graph.source(RETINA, UNET, Path("model_repository"), "fp32").digest[:12]
    assert (tensorrt.STORE / f"retina_unet-sm90-{FACES[0]}-{digest}.plan").exists()
    placed = everything(Path("model_repository"))
    assert run(monkeypatch) == 0
    assert len(ten.called("build_serialized_network")) == 2
    assert everything(Path("model_repository")) == placed
    assert f"retina_unet-sm90-{FACES[0]}-{digest}.plan fits and is taken" in capsys.readouterr().err


def test_an_engine_is_built_again_for_another_gpu_tensorrt_precision_or_graph(
    ten: Fake, monkeypatch: pytest.MonkeyPatch, machine: Path
) -> None:
    assert run(monkeypatch) == 0
    write_nvidia_smi(machine / "programs", "8.9, NVIDIA L4")
    assert run(monkeypatch) == 0
    assert run(monkeypatch, "--precision", "fp16") == 0
    newer = install(monkeypatch, Fake(FACES[1]))
    assert run(monkeypatch, "--precision", "fp16") == 0
    graph = Path("model_repository") / UNET.name / "1" / "model.onnx"
    model = onnx.load(graph)
    model.doc_string = "trained anew"
    graph.write_bytes(model.SerializeToString())
    assert run(monkeypatch, "--precision", "fp16") == 0
    assert len(ten.called("build_serialized_network")) == 6
    assert len(newer.called("build_serialized_network")) == 3
    assert len(list(tensorrt.STORE.glob("*.plan"))) == 9
    assert len(list(tensorrt.STORE.glob("*.timings"))) == 3


@pytest.mark.parametrize("damage", ["cut off", "note"])
def test_a_damaged_engine_in_the_store_is_discarded_with_a_sentence(
    ten: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    assert run(monkeypatch) == 0
    (kept,) = tensorrt.STORE.glob("retina_unet*.plan")
    harmed = kept if damage == "cut off" else kept.with_suffix(".plan.json")
    harmed.write_bytes(harmed.read_bytes()[:-20])
    capsys.readouterr()
    assert run(monkeypatch) == 0
    assert f"{kept} is damaged and was discarded; it is built anew." in capsys.readouterr().err
    assert len(ten.called("build_serialized_network")) == 3
    plan.check("tensorrt", [RETINA], Path("model_repository"))


def test_timings_are_kept_for_the_next_build(ten: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch) == 0
    assert ten.called("create_timing_cache") == [(b"",), (b"+timed",)]
    assert (tensorrt.STORE / f"sm90-nvidia-h200-{FACES[0]}.timings").read_bytes() == b"+timed+timed"


@pytest.mark.parametrize("refused", ["by its content", "by its device"])
def test_timings_that_are_damaged_or_foreign_are_discarded_with_a_sentence(
    ten: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], refused: str
) -> None:
    tensorrt.STORE.mkdir(parents=True)
    path = tensorrt.STORE / f"sm90-nvidia-h200-{FACES[0]}.timings"
    path.write_bytes(b"garbage" if refused == "by its content" else b"another's+timed")
    ten.refuses_timings = refused == "by its device"
    assert run(monkeypatch) == 0
    assert f"{path} was damaged, or of another GPU or TensorRT, and was discarded." in capsys.readouterr().err
    assert path.read_bytes().startswith(b"+timed")


def test_a_graph_or_a_build_that_tensorrt_refuses_is_named_with_its_reason(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything(Path("model_repository"))
    fake.refuses_build = True
    assert run(monkeypatch) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == (
        f"retina_unet: TensorRT {fake.version} could not build the engine: Could not find any implementation for node "
        "Conv_1. Nothing was changed."
    )
    fake.refuses_graph = True
    assert run(monkeypatch) == 1
    assert "cannot take the graph: Assertion failed: no such operator. Nothing was changed." in capsys.readouterr().err
    assert everything(Path("model_repository")) == before
    assert not tensorrt.STORE.exists()


def test_ctrl_c_stops_a_build_at_its_next_step_and_changes_nothing(
    ten: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped = []
    drawing = threading.Event()
    monkeypatch.setattr(tensorrt, "REDRAW_S", 0.01)
    monkeypatch.setattr(tensorrt, "_draw", lambda *_: drawing.set())

    def interrupted(monitor: Any) -> bool:
        monitor.phase_start("Building", None, 1000)
        assert drawing.wait(60)
        os.kill(os.getpid(), signal.SIGINT)
        deadline = time.monotonic() + 60
        while monitor.step_complete("Building", 1):
            assert time.monotonic() < deadline
            threading.Event().wait(0.01)
        monitor.phase_finish("Building")
        stopped.append(threading.current_thread() is not threading.main_thread())
        return False

    before = everything(Path("model_repository"))
    ten.during = interrupted
    assert run(monkeypatch) == 130
    assert stopped == [True]
    assert everything(Path("model_repository")) == before
    assert not tensorrt.STORE.exists()
    said = capsys.readouterr().err
    assert "Stopping TensorRT at its next step." in said
    assert said.splitlines()[-1] == "Stopped; nothing was changed."


def test_phases_come_to_the_terminal_and_go_again(ten: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are noted where TensorRT calls, and drawn elsewhere."""
    drawn: list[list[tuple[str, tuple[int, int]]]] = []
    seen = threading.Event()

    def slow(monitor: Any) -> bool:
        monitor.phase_start("Building", None, 4)
        monitor.phase_start("Timing", "Building", 9)
        monitor.step_complete("Timing", 2)
        assert seen.wait(60)
        monitor.phase_finish("Timing")
        return steps(monitor)

    draw = tensorrt._draw

    def watching(bars: Any, tasks: Any, phases: list[tuple[str, tuple[int, int]]]) -> None:
        draw(bars, tasks, phases)
        drawn.append(phases)
        if len(phases) == 2:
            assert [(task.description, task.completed, task.total) for task in bars.tasks] == [
                ("Building", 0, 4),
                ("Timing", 3, 9),
            ]
            seen.set()

    monkeypatch.setattr(tensorrt, "REDRAW_S", 0.01)
    monkeypatch.setattr(tensorrt, "_draw", watching)
    ten.during = slow
    assert run(monkeypatch) == 0
    assert [("Building", (0, 4)), ("Timing", (3, 9))] in drawn


def test_a_bar_goes_with_its_phase() -> None:
    from rich.progress import Progress

    with Progress(console=tensorrt.MESSAGES, auto_refresh=False, transient=True) as progress:
        bars: dict[str, Any] = {}
        tensorrt._draw(progress, bars, [("outer", (0, 2)), ("inner", (1, 3))])
        tensorrt._draw(progress, bars, [("outer", (1, 2))])
        assert [(task.description, task.completed) for task in progress.tasks] == [("outer", 1)]


@pytest.mark.parametrize("full", ["out/tensorrt", "model_repository"])
def test_a_full_disk_leaves_the_repository_as_it_was(
    ten: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], full: str
) -> None:
    before = everything(Path("model_repository"))
    write = Path.write_bytes

    def no_room(path: Path, content: bytes) -> int:
        if full in str(path):
            write(path, content[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", no_room)
    assert run(monkeypatch) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "cannot be written (No space left on device)" in said
    assert everything(Path("model_repository")) == before
    assert not list(Path().rglob("*.part"))


def test_memory_that_the_gpu_refuses_is_a_sentence(
    ten: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], driver: Driver
) -> None:
    driver.refuses = "cuMemAlloc_v2"
    assert run(monkeypatch) == 1
    assert "The GPU refused cuMemAlloc_v2 (CUresult 2)" in capsys.readouterr().err
    assert not (Path("model_repository") / UNET.name / "1" / plan.FILE).exists()


def test_an_engine_with_other_tensors_than_the_task_declares_is_refused(
    ten: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = Path("model_repository") / UNET.name / "1" / "model.onnx"
    model = onnx.load(graph)
    del model.graph.output[1]
    graph.write_bytes(model.SerializeToString())
    assert run(monkeypatch) == 1
    assert "retina_unet: the engine has" in capsys.readouterr().err


def test_without_tensorrt_the_cure_is_said_and_nothing_is_changed(tmp_path: Path) -> None:
    """The real machine, the real command."""
    copy = Path(shutil.copytree(REPOSITORY / "glaucoma_classifier", tmp_path / "r" / "glaucoma_classifier")).parent
    before = everything(tmp_path)
    command = [sys.executable, "-m", "export", "glaucoma", "--to", "tensorrt", "--repository", str(copy)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"TensorRT is not installed here, .*nothing was changed: install .*\n", done.stderr)
    assert everything(tmp_path) == before


def test_without_a_gpu_the_cure_is_said_and_nothing_is_changed(
    ten: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], machine: Path
) -> None:
    before = everything(Path("model_repository"))
    write_nvidia_smi(machine / "programs", code=6)
    assert run(monkeypatch) == 1
    said = capsys.readouterr().err
    assert "No NVIDIA GPU can be used here" in said
    assert "nothing was changed" in said
    assert (ten.calls, everything(Path("model_repository"))) == ([], before)


@pytest.mark.parametrize("more", [("--precision", "auto"), ("--configs",), ("--fuse",)])
def test_what_does_not_go_together_is_wrong_usage(
    ten: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: tuple[str, ...]
) -> None:
    assert run(monkeypatch, *more) == 2
    assert "--to" in capsys.readouterr().err
    assert ten.calls == []


def test_graphs_for_onnx_runtime_are_placed_without_tensorrt(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["export", "retina", "--to", "onnxruntime_tensorrt", "--precision", "fp16"])
    assert program.main() == 0
    plan.check("onnxruntime_tensorrt", [RETINA], Path("model_repository"))
    assert not tensorrt.STORE.exists()
