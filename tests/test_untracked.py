"""Nothing is reported to anyone: OpenVINO's telemetry is never loaded, in no process of ours."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

RECORDS = """
from pathlib import Path
with Path(__file__).with_name("reported").open("a") as file:
    file.write("imported\\n")
class Telemetry:
    def __init__(self, *_, **__): ...
    def __getattr__(self, name):
        return lambda *_, **__: None
"""
SERVED = """
import runpy, sys, types
sys.modules["triton_python_backend_utils"] = types.ModuleType("triton_python_backend_utils")
runpy.run_path("src/fovea/backends/openvino/model.py")
"""
PROGRAMS = {
    "in process": "import fovea.engines",
    "in Triton's stub": SERVED,
    "in export": "import export.precision",
    "in benchmarks": "import benchmarks.contenders",
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_no_process_loads_openvinos_telemetry(program: str, tmp_path: Path) -> None:
    recorder = tmp_path / "openvino_telemetry"
    recorder.mkdir()
    (recorder / "__init__.py").write_text(RECORDS)
    (recorder / "backend.py").write_text("backend_ga4 = None\n")
    path = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=path, check=True)
    assert not (recorder / "reported").exists()


def test_the_recorder_would_see_an_import_that_is_not_guarded(tmp_path: Path) -> None:
    recorder = tmp_path / "openvino_telemetry"
    recorder.mkdir()
    (recorder / "__init__.py").write_text(RECORDS)
    path = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-c", "import openvino"], cwd=tmp_path, env=path, capture_output=True)
    assert (recorder / "reported").exists()


def test_openvino_is_imported_in_the_two_guarded_places_only() -> None:
    importing = re.compile(r"^\s*(import openvino|from openvino)\b", re.MULTILINE)
    folders = ("src", "export", "client", "benchmarks", "training")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    found = {path.relative_to(ROOT).as_posix() for path in files if importing.search(path.read_text())}
    assert found == {"src/fovea/untracked.py", "src/fovea/backends/openvino/model.py"}
