"""`python -m training` as its users meet it: exit codes, one sentence on stderr, and files that are whole or absent."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from small_runs import names, write_phantoms

from fovea.tasks import TASKS

ALONE = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "60"}
"""One thread, and a narrow terminal: a sentence must not be broken to fit it."""

FULL_DISK = """
import resource, signal, sys
from training.__main__ import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing beyond the limit is then an error, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
sys.exit(main())
"""

FULL_AT_CHECKPOINT = """
import resource, signal, sys
from training import classifier
from training.__main__ import main
honest = classifier._Keeper.on_epoch_end
def full(*arguments):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
    return honest(*arguments)
classifier._Keeper.on_epoch_end = full
sys.exit(main())
"""

CTRL_C = """
import os, signal, sys
from training import segmenter
from training.__main__ import main
honest = segmenter._step
def pressed(*arguments):
    os.kill(os.getpid(), signal.SIGINT)
    return honest(*arguments)
segmenter._step = pressed
sys.exit(main())
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six phantoms with vessels, of one class."""
    root = tmp_path_factory.mktemp("data")
    write_phantoms(root / "phantoms", 6, ["Normal"])
    return root


def run(*arguments: object, program: tuple[str, ...] = ("-m", "training")) -> tuple[int, str]:
    """Exit code and standard error; standard output must be empty."""
    command = [sys.executable, *program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=ALONE)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def sentence(stderr: str) -> str:
    """The last line: what is above it is the progress of a run."""
    line = stderr.rstrip("\n").splitlines()[-1]
    assert line.endswith(".")
    return line


def only_sentence(stderr: str) -> str:
    assert len(stderr.strip().splitlines()) == 1, stderr
    return sentence(stderr)


def test_an_unknown_task_exits_with_2_and_lists_those_there_are() -> None:
    code, stderr = run("cataract")
    assert code == 2
    assert only_sentence(stderr) == f"There is no task 'cataract': choose one of {', '.join(TASKS)}."


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--network", "fundus_classifier"), "choose one of retina_unet, retina_classifier"),
        (("--steps", "0"), "--steps and --epochs must be at least 1"),
        (("--epochs", "-3"), "--steps and --epochs must be at least 1"),
        (("--seed", "-1"), "--seed must not be negative"),
    ],
)
def test_an_option_that_makes_no_sense_exits_with_2(options: tuple[str, str], said: str, data: Path) -> None:
    code, stderr = run("retina", "--data", data, *options)
    assert code == 2
    assert said in only_sentence(stderr)


def test_missing_or_unknown_data_exit_with_1_and_say_what_is_known(tmp_path: Path) -> None:
    odd = tmp_path / "[bold]:eyes: a long name for a folder, to see whether it stays on its line"
    code, stderr = run("retina", "--data", odd)
    assert code == 1
    assert only_sentence(stderr) == f"{odd} is no folder: give the folder that holds the data sets with --data."
    odd.mkdir()
    code, stderr = run("retina", "--data", odd)
    assert code == 1
    assert f"{odd} holds nothing for the task retina: known are HRF, CHASE_DB1, DRIVE, IDRiD, PALM, " in only_sentence(
        stderr
    )


def test_a_place_that_cannot_be_written_exits_with_1(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    code, stderr = run("retina", "--data", data, "--out", tmp_path / "file" / "out")
    assert code == 1
    assert "could not be written" in only_sentence(stderr)
    assert names(tmp_path) == {"file"}


def test_a_damaged_photograph_is_named(tmp_path: Path) -> None:
    folder = write_phantoms(tmp_path / "phantoms", 6, ["Normal"])
    for picture in (folder / "Normal").iterdir():
        picture.write_bytes(picture.read_bytes()[:-50])
    options = ("--data", tmp_path, "--out", tmp_path / "out", "--into", tmp_path / "weights")
    code, stderr = run("retina", "--network", "retina_unet", *options)
    assert code == 1
    assert "phantoms/Normal/" in sentence(stderr)


def test_a_base_that_is_no_weights_file_exits_with_1_and_the_cure(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "phantoms", 20)
    wrong = tmp_path / "wrong.weights.h5"
    wrong.write_text("no weights")
    options = ("--data", tmp_path, "--out", tmp_path / "out", "--into", tmp_path / "weights", "--weights", wrong)
    code, stderr = run("fundus", *options)
    assert code == 1
    assert "wrong.weights.h5" in sentence(stderr)
    assert "--weights none" in sentence(stderr)
    assert not (tmp_path / "weights").exists()


def test_a_full_disk_leaves_nothing_half_written_and_the_run_goes_on_when_there_is_room(
    data: Path, tmp_path: Path
) -> None:
    out, weights = tmp_path / "out", tmp_path / "weights"
    options = ("retina", "--network", "retina_unet", "--steps", 2, "--data", data, "--out", out, "--into", weights)
    code, stderr = run(*options, program=("-c", FULL_DISK))
    assert code == 1
    assert "retina_unet.ckpt could not be written (File too large): free some room, then resume." in sentence(stderr)
    assert names(tmp_path) <= {"out/manifest.csv", "out/retina_unet.history.json"}
    code, stderr = run(*options)
    assert code == 0
    assert names(weights) == {"retina_unet.pt2", "retina_unet.json"}
    assert "out/retina_unet.history.png" in names(tmp_path)
    assert not [name for name in names(tmp_path) if ".part" in name]


def test_ctrl_c_exits_with_130_keeps_the_step_it_was_in_and_says_how_to_go_on(data: Path, tmp_path: Path) -> None:
    options = ("--data", data, "--out", tmp_path / "out", "--into", tmp_path / "weights", "--steps", 2)
    code, stderr = run("retina", "--network", "retina_unet", *options, program=("-c", CTRL_C))
    assert code == 130
    assert sentence(stderr) == "Stopped; the same command goes on from the last checkpoint."
    saved = torch.load(tmp_path / "out" / "retina_unet.ckpt", weights_only=True)
    assert saved["state"]["step"] == 1
    assert not (tmp_path / "weights").exists()


def judge(folder: Path, *options: object) -> None:
    command = [sys.executable, "-m", "training", "retina", "--evaluate", folder, *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT, env=ALONE)
    assert done.returncode == 0, done.stderr
    assert "report.md" in done.stdout


@pytest.mark.slow
def test_a_task_is_trained_on_a_disk_that_fills_judged_and_judged_elsewhere(tmp_path: Path) -> None:
    """The commands of the README on phantoms, at the smallest schedule."""
    write_phantoms(tmp_path / "data" / "phantoms", 40)
    write_phantoms(tmp_path / "other" / "phantoms", 8, first=100)
    home = ("--out", tmp_path / "out", "--into", tmp_path / "weights", "--reports", tmp_path / "reports")
    training = ("retina", "--data", tmp_path / "data", "--steps", 2, "--epochs", 1, *home)
    code, stderr = run(*training, "--network", "retina_unet")
    assert code == 0, stderr
    for full, file in ((FULL_DISK, ".npy"), (FULL_AT_CHECKPOINT, ".keras")):
        code, stderr = run(*training, "--network", "retina_classifier", program=("-c", full))
        assert code == 1
        assert f"{file} could not be written (File too large): free some room, then resume." in sentence(stderr)
    assert not [name for name in names(tmp_path) if ".part" in name or name.endswith(".keras")]
    code, stderr = run(*training, "--network", "retina_classifier")
    assert code == 0, stderr
    assert names(tmp_path / "weights") == {
        "retina_unet.pt2",
        "retina_unet.json",
        "retina_classifier.keras",
        "retina_classifier.json",
    }
    before = (tmp_path / "out" / "manifest.csv").read_bytes()
    for folder, judged in (("data", "test"), ("other", "all")):
        judge(tmp_path / folder, *home)
        report = json.loads((tmp_path / "reports" / "retina" / "report.json").read_text())
        assert report["judged"] == judged
        (scores,) = report["classifiers"][0]["rows"]
        assert scores["photographs"] == {"test": 8, "all": 8}[judged]
    assert (tmp_path / "out" / "manifest.csv").read_bytes() == before
