"""Which configs are served by default, and the sentence that says why: measured, never guessed, never replaced."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY

from fovea import hardware
from fovea.tasks import TASKS

NO_GPU = pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this machine has a GPU")


def network(folder: Path, name: str, **latencies: float) -> Path:
    """A network's folder with a card that states latencies in milliseconds, bf16 on OpenVINO."""
    choices: dict[str, dict[str, Any]] = {
        engine: {"graph": "model.onnx", "hint": "bf16" if engine == "openvino" else "f32", "latency_ms": ms}
        for engine, ms in latencies.items()
    }
    (folder / name).mkdir(parents=True)
    (folder / name / "card.json").write_text(json.dumps({"precision": {"choices": choices}}))
    return folder / name


@pytest.fixture(autouse=True)
def processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "flags", lambda: {"avx2", "avx512_bf16"})


@NO_GPU
def test_the_engine_that_export_measured_as_faster_is_taken_and_both_figures_are_said(tmp_path: Path) -> None:
    folders = [network(tmp_path, "a", cpu=70, openvino=30), network(tmp_path, "b", cpu=4, openvino=5)]
    assert hardware.choose(folders) == (
        "openvino",
        "no NVIDIA GPU here, and OpenVINO was the faster (35 ms against 74 of ONNX Runtime for one picture through "
        "all networks at export)",
    )


@NO_GPU
def test_a_slower_openvino_is_not_taken(tmp_path: Path) -> None:
    chosen, why = hardware.choose([network(tmp_path, "a", cpu=10, openvino=12)])
    assert chosen == "cpu"
    assert "OpenVINO was no faster (12 ms against 10" in why


@NO_GPU
def test_what_was_never_measured_is_served_by_onnx_runtime(tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    for folders in ([tmp_path / "bare"], [network(tmp_path, "a", cpu=9, openvino=3), tmp_path / "bare"]):
        chosen, why = hardware.choose(folders)
        assert chosen == "cpu"
        assert "export has not measured OpenVINO (--precision auto does)" in why


@NO_GPU
def test_a_processor_without_bf16_is_not_asked_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "flags", lambda: {"avx2"})
    chosen, why = hardware.choose([network(tmp_path, "a", cpu=9, openvino=3)])
    assert chosen == "cpu"
    assert "this processor has no bf16" in why


@NO_GPU
def test_without_openvino_onnx_runtime_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    chosen, why = hardware.choose([network(tmp_path, "a", cpu=9, openvino=3)])
    assert (chosen, "OpenVINO is not installed" in why) == ("cpu", True)


@NO_GPU
@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_every_committed_task_was_measured_on_both_engines(task: Any) -> None:
    folders = [REPOSITORY / each.name for each in task.networks]
    chosen, why = hardware.choose(folders)
    assert chosen in ("cpu", "openvino")
    assert "ms against" in why
