"""`make models PROFILE=phantom`: from a bare checkout to a served network that can tell its phantoms apart."""

import json
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

from fovea import phantoms
from fovea.client import Client
from fovea.server import Server
from fovea.tasks import TASKS

TASK = TASKS["glomeruli"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_task_is_trained_judged_exported_and_served_on_phantoms_alone(tmp_path: Path) -> None:
    command = ["make", "models", "PROFILE=phantom", f"TASKS={TASK.name}", f"PLACE={tmp_path}/"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads((tmp_path / "reports" / TASK.name / "report.json").read_text())
    scores = report["classifiers"][0]["rows"][-1]
    assert scores["photographs"] >= 20
    assert scores["macro"]["auc"]["value"] >= 0.95
    with Server(tmp_path / "model_repository", [TASK.name]) as server, Client(server.grpc_url) as client:
        answers = [client.ask(TASK, phantoms.encoded(TASK.modalities[0], seed)) for seed in range(1000, 1012)]
    # Odd seeds are sclerotic.
    right = [(answer.label == TASK.labels[0]) == (seed % 2 == 1) for seed, answer in enumerate(answers)]
    assert sum(right) >= 10
