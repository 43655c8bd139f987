"""`--seeds`: one training per seed, the first one's network in service, figures that a second run finds again."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_runs import FUNDUS, write_phantoms

from fovea import quiet
from training import figures, metrics
from training.recipes import RECIPES, Recipe, Stage

with quiet.native_stderr():
    import tensorflow as tf

    from training import repeats
    from training.__main__ import arguments

pytestmark = pytest.mark.filterwarnings("ignore:Even though the `tf.config")
NAME = "fundus_classifier"


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[argparse.Namespace]:
    write_phantoms(tmp_path / "data" / "phantoms", 40)
    monkeypatch.setitem(RECIPES, NAME, Recipe("cnn", Stage(1, 1e-3)))
    monkeypatch.setattr(metrics, "RESAMPLES", 20)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text(f"{figures.BEGIN}\nas it was\n{figures.END}\n")
    tf.config.run_functions_eagerly(True)
    yield arguments().parse_args(
        ["fundus", "--data", "data", "--weights", "none", "--seeds", "3", "4", "--results", "results"]
    )
    tf.config.run_functions_eagerly(False)


@pytest.mark.slow
def test_every_seed_is_trained_once_judged_on_its_own_split_and_the_first_goes_into_service(
    options: argparse.Namespace, capsys: pytest.CaptureFixture[str]
) -> None:
    options.data = Path(options.data)
    repeats.repeat(FUNDUS, options)
    results = json.loads(Path("results/fundus.json").read_text())
    assert [row["seed"] for row in results["seeds"]] == [3, 4]
    assert all(row["pictures"] == 8 and row["epochs"] == 1 for row in results["seeds"])
    home = Path("out/training/fundus")
    kept = {seed: home / f"seed-{seed}" / "weights" / f"{NAME}.keras" for seed in (3, 4)}
    assert (home / "seed-3" / "manifest.csv").read_bytes() != (home / "seed-4" / "manifest.csv").read_bytes()
    assert Path(f"weights/{NAME}.keras").read_bytes() == kept[3].read_bytes()
    assert (home / "manifest.csv").read_bytes() == (home / "seed-3" / "manifest.csv").read_bytes()
    assert Path("reports/fundus/report.md").exists()
    assert "as it was" in Path("README.md").read_text()  # only figures in training/results are the README's
    made = {seed: path.stat().st_mtime_ns for seed, path in kept.items()}
    repeats.repeat(FUNDUS, options)
    assert {seed: path.stat().st_mtime_ns for seed, path in kept.items()} == made
    again = json.loads(Path("results/fundus.json").read_text())
    assert again == results
    options.epochs, options.seeds = 2, [3]
    repeats.repeat(FUNDUS, options)
    assert kept[3].stat().st_mtime_ns > made[3]
    assert json.loads(Path("results/fundus.json").read_text())["seeds"][0]["epochs"] == 2
    capsys.readouterr()


def test_figures_that_lie_in_the_projects_own_folder_become_the_readmes_table(
    options: argparse.Namespace, capsys: pytest.CaptureFixture[str]
) -> None:
    options.data, options.results, options.seeds = Path(options.data), repeats.RESULTS, [3]
    repeats.repeat(FUNDUS, options)
    shown = Path("README.md").read_text()
    assert "as it was" not in shown
    assert shown == f"{figures.BEGIN}\n{figures.markdown(figures.load(repeats.RESULTS))}\n{figures.END}\n"
    assert "| `fundus` | 3 | phantoms | 8 (8) |" in shown
    capsys.readouterr()
