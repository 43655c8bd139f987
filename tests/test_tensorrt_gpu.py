"""TensorRT itself, on a GPU: `pytest -m gpu`. Not run yet: no machine with one was at hand."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, ROOT

from export import pictures, tensorrt, tensorrt_graph, tensorrt_parity
from fovea import plan
from fovea.errors import ExportError
from fovea.spec import Network, Task
from fovea.tasks import TASKS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(importlib.util.find_spec("tensorrt") is None, reason="TensorRT is not installed"),
    pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="no NVIDIA GPU"),
]
PAIRS = [(task, network) for task in TASKS.values() for network in task.networks]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_built_judged_and_placed(task: str, precision: str, tmp_path: Path) -> None:
    for network in TASKS[task].networks:
        shutil.copytree(REPOSITORY / network.name, tmp_path / "r" / network.name)
    command = [sys.executable, "-m", "export", task, "--to", "tensorrt", "--precision", precision]
    done = subprocess.run([*command, "--repository", str(tmp_path / "r")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    plan.check("tensorrt", [TASKS[task]], tmp_path / "r")


@pytest.mark.parametrize(("task", "network"), [pytest.param(*pair, id=pair[1].name) for pair in PAIRS])
def test_an_engine_answers_as_onnx_runtime_does_at_every_batch_size_of_its_profile(
    task: Task, network: Network
) -> None:
    """On phantoms, and on real photographs where FOVEA_DATA names a folder of them: of any kind will do."""
    from export import tensorrt_engine

    here = tensorrt.machine()
    source = tensorrt_graph.source(task, network, REPOSITORY, "fp32")
    content, _ = tensorrt._kept(here, network, source) or tensorrt._built(here, task, network, source)
    engine = tensorrt_engine.Engine(content)
    seen = pictures.stacks(task, [Path(os.environ["FOVEA_DATA"])] if "FOVEA_DATA" in os.environ else [])
    if network.reads != "image":
        seen = {name: stack[..., :1] for name, stack in seen.items()}
    judged = tensorrt_parity.measure(
        network, "fp32", source.reference, lambda batch: engine.run(network.reads, batch), seen
    )
    tensorrt_parity.enforce(judged)
    with pytest.raises(ExportError, match=f"does not take a batch of {network.max_batch + 1}"):
        engine.run(network.reads, next(iter(seen.values()))[:1].repeat(network.max_batch + 1, axis=0))


def test_a_second_build_starts_from_the_timings_of_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    task = TASKS["glaucoma"]
    (network,) = task.networks
    here = tensorrt.machine()
    source = tensorrt_graph.source(task, network, REPOSITORY, "fp32")
    tensorrt._built(here, task, network, source)
    timings = here.timings.read_bytes()
    tensorrt._built(here, task, network, source)
    assert len(here.timings.read_bytes()) >= len(timings) > 0
    assert "discarded" not in capsys.readouterr().err
