"""Every code block of the README is run; what takes long, or would run these tests again, is run in short."""

import json
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Collection
from pathlib import Path

import pytest
from conftest import ROOT

from benchmarks import results
from benchmarks.report import readme
from fovea.server import Server
from fovea.tasks import TASKS
from training import figures

README = (ROOT / "README.md").read_text(encoding="utf-8")
OWN = re.search(r"^## Bring a network of your own\n.*?(?=^## )", README, re.MULTILINE | re.DOTALL)
assert OWN  # its blocks are run in tests/test_own_network.py
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall(README.replace(OWN[0], ""))
COMMANDS = [line for kind, block in BLOCKS if kind == "bash" for line in block.splitlines() if line]
CLIENT = [line for line in COMMANDS if line.startswith("python -m client")]
TRAINING = [line for line in COMMANDS if re.match(r"python -m (training|export)", line)]
SHORT = ["--steps", "30", "--epochs", "1"]


@pytest.fixture
def folder(tmp_path: Path, photographs: list[bytes]) -> Path:
    """A user's folder with the files that the README names."""
    (tmp_path / "more").mkdir()
    for name, photograph in zip(("eye.jpg", "other.jpg", "more/one.jpg", "more/two.jpg"), photographs, strict=False):
        (tmp_path / name).write_bytes(photograph)
    return tmp_path


def run(command: list[str], folder: Path, codes: Collection[int] = (0,)) -> str:
    """Run as from the root, where the programs are, with the user's files at hand; returns stdout."""
    environment = {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode in codes, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    return done.stdout


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    assert {kind for kind, _ in BLOCKS} <= {"bash", "python", "text"}
    make = [line for line in COMMANDS if line.startswith("make ")]
    assert sorted(make + CLIENT + TRAINING) == sorted(COMMANDS)


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("make ")])
def test_every_make_command_has_a_target_and_a_line_of_help(line: str) -> None:
    target = line.split()[1]
    subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)
    shown = subprocess.run(["make"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert re.search(rf"make {target} ", shown)


def test_make_demo_runs_and_draws_overlays() -> None:
    done = subprocess.run(["make", "demo"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^phantom-\d\.jpg ", done.stdout, re.MULTILINE)) == 6
    assert len(list((ROOT / "out" / "demo").glob("phantom-*.png"))) >= 6
    since = re.search(r"First answer ([\d.]+) s after", done.stderr)
    assert since


@pytest.mark.parametrize("block", [block for kind, block in BLOCKS if kind == "python"])
def test_python_blocks_run_against_a_server(block: str, folder: Path, server: Server) -> None:
    block = block.replace("grpc://127.0.0.1:8001", server.grpc_url).replace("http://127.0.0.1:8000", server.http_url)
    assert run([sys.executable, "-c", textwrap.dedent(block)], folder).strip()


@pytest.mark.parametrize("line", CLIENT)
def test_client_commands_run_against_a_server(line: str, folder: Path, server: Server) -> None:
    printed = run([sys.executable, *shlex.split(line)[1:], "--url", server.grpc_url], folder)
    assert "eye.jpg" in printed or "one.jpg" in printed
    if "--evaluation" in line:
        assert (folder / "evaluation.csv").read_text().startswith("name,ground_truth\n")
    if "--csv" in line:
        assert (folder / "out.csv").read_text().count(",ok,") == 3


def shortened(command: list[str]) -> list[str]:
    """The same in little time: few phantoms (of discs enough to decide about a challenger), one epoch."""
    few = ["--count", "10"] if command[2] == "training.phantoms" and "glaucoma" not in command else []
    trains = command[2] == "training" and not {"--evaluate", "--show"} & set(command)
    return [*command[1:], *few, *(SHORT if trains else [])]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_training_commands_lead_from_phantoms_to_a_repository_that_serves(tmp_path: Path, photograph: bytes) -> None:
    for line in TRAINING:
        command = shlex.split(line)
        run([sys.executable, *shortened(command)], tmp_path, {0, 1} if "--retrain" in command else {0})
    assert {path.name for path in (tmp_path / "reports").iterdir()} == {"retina", "fundus", "oct"}
    assert len(list((tmp_path / "copy").rglob("*.jpg"))) == 120
    assert (tmp_path / "out/training/glaucoma/retraining/retraining.md").exists()
    from fovea.client import Client

    served = ["retina", "fundus", "oct"]
    with Server(tmp_path / "model_repository", served) as server, Client(server.grpc_url) as client:
        for task in served:
            assert client.ask(task, photograph).label


def test_the_benchmark_table_is_made_from_the_committed_samples() -> None:
    multi, offline, peers = (results.load(results.FOLDER, name) for name in ("multi", "offline", "peers"))
    shown = README.partition(readme.BEGIN)[2].partition(readme.END)[0].strip()
    assert shown == readme.markdown(multi, offline, peers)


def test_the_table_of_figures_is_made_from_the_committed_results() -> None:
    shown = README.partition(figures.BEGIN)[2].partition(figures.END)[0].strip()
    results = figures.load(ROOT / "training" / "results")
    assert {result["task"] for result in results} == set(TASKS) - {"retina"}
    assert shown == figures.markdown(results)


def test_the_figures_of_the_ablation_are_those_of_its_results() -> None:
    results = json.loads((ROOT / "training" / "results" / "fundus_ablation.json").read_text())
    baseline, *others = (each["seeds"][0] for each in results["preparations"])
    shown = [f"{each['difference']['value']:+.3f}".replace("-", "−") for each in others]
    said = f"macro AUC {', '.join(shown[:-1])} and {shown[-1]} against {baseline['auc']['value']:.3f} without"
    assert said in " ".join(README.split())
    assert {each["verdict"] for each in results["preparations"][1:]} == {"no difference shown"}


def test_every_file_the_readme_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]
