"""An ablation: one split for all, what is finished is skipped, and when it says that a preparation helps."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from small_runs import FUNDUS

from fovea import quiet
from fovea.errors import TrainingError
from fovea.spec import Network, Task
from fovea.tasks import FUNDUS_LABELS
from training import plan
from training.preparation import PREPARATIONS
from training.run import Run
from training.splits import Entry

with quiet.native_stderr():
    from training import __main__ as program
    from training import ablation, metrics

NAME = FUNDUS.networks[0].name


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that no test here looks into."""
    root = tmp_path_factory.mktemp("data") / "own"
    for number in range(96):
        path = root / FUNDUS_LABELS[number % 4] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number]))
    return root


def bounds(*pairs: tuple[float | None, float | None]) -> list[dict[str, Any] | None]:
    return [{"value": 0.0, "low": low, "high": high} for low, high in pairs]


@pytest.mark.parametrize(
    ("differences", "said"),
    [
        (bounds((0.01, 0.05), (0.002, 0.1)), "helps"),
        (bounds((0.01, 0.05), (-0.001, 0.1)), "no difference shown"),
        (bounds((0.0, 0.05)), "no difference shown"),
        (bounds((-0.05, -0.01), (-0.2, -0.002)), "harms"),
        (bounds((-0.05, -0.01), (-0.2, 0.0)), "no difference shown"),
        (bounds((0.01, 0.05), (-0.05, -0.01)), "no difference shown"),
        (bounds((0.01, 0.05), (None, None)), "no difference shown"),
        ([*bounds((0.01, 0.05)), None], "no difference shown"),
        ([], "no difference shown"),
    ],
)
def test_only_what_every_seed_shows_is_a_verdict(differences: list[dict[str, Any] | None], said: str) -> None:
    assert ablation.verdict(differences) == said


def asked(data: Path, root: Path, *seeds: int) -> argparse.Namespace:
    places = [word for name in ("out", "reports", "results") for word in (f"--{name}", root / name)]
    words = ("fundus", "--ablate", "--seeds", *seeds, "--epochs", 1, "--weights", "none", *places)
    made = program.arguments().parse_args([str(word) for word in words])
    made.data = data
    return made


def recorded(root: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((root / "results" / "fundus_ablation.json").read_text())
    return results


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Training only leaves a record, and (preparation, seed) here; what is equalised answers better, a GAN worse."""
    monkeypatch.setattr(metrics, "RESAMPLES", 60)
    done: list[tuple[str, int]] = []

    def trains(_task: Task, run: Run, chosen: argparse.Namespace) -> None:
        done.append((chosen.prepare, run.seed))
        record = {
            "seed": run.seed,
            "preparation": chosen.prepare,
            "data": {"manifest_sha256": run.manifest_sha256},
            "stages": [{"epochs": chosen.epochs, "rate": 1e-3}],
            **{"start": "none", "epochs": 1, "seconds": 60, "parameters": 1000},
            **({"synthetic": {"Glaucoma": 2}} if chosen.prepare == "dcgan" else {}),
        }
        run.write_json(run.weights / f"{NAME}.json", record)

    def answers(task: Task, _network: Network, entries: list[Entry], weights: Path) -> npt.NDArray[np.float64]:
        how = weights.parent.parent.name
        assert task.image.equalisation == (how if how in ("clahe", "histogram") else "none")
        skill = {"clahe": 8.0, "dcgan": -8.0}.get(how, 0.3)
        logits = np.random.default_rng(3).normal(0, 1, (len(entries), len(FUNDUS_LABELS)))
        logits[np.arange(len(entries)), [FUNDUS_LABELS.index(str(entry.sample.label)) for entry in entries]] += skill
        spread: npt.NDArray[np.float64] = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return spread

    monkeypatch.setattr(plan, "train", trains)
    monkeypatch.setattr(ablation, "classify", answers)
    return done


def test_an_ablation_compares_all_on_one_split_per_seed_and_says_which_help(
    data: Path, tmp_path: Path, pretended: list[tuple[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    ablation.ablate(FUNDUS, asked(data, tmp_path, 7, 8))
    results = recorded(tmp_path)
    assert {each["preparation"]: each["verdict"] for each in results["preparations"]} == {
        "none": "baseline",
        "clahe": "helps",
        "histogram": "no difference shown",
        "superresolution": "no difference shown",
        "dcgan": "harms",
    }
    manifests = []
    for number in range(2):
        rows = [each["seeds"][number] for each in results["preparations"]]
        (manifest,) = {row["manifest_sha256"] for row in rows}
        manifests.append(manifest)
        assert [row["difference"] is None for row in rows] == [True, False, False, False, False]
        for row in rows[1:]:
            assert row["difference"]["value"] == pytest.approx(row["auc"]["value"] - rows[0]["auc"]["value"])
    assert manifests[0] != manifests[1]
    assert {"cpu", "cores"} <= results["machine"].keys()
    page = (tmp_path / "reports" / "fundus" / "ablation.md").read_text()
    assert ablation.NO_LEAK in page
    assert ablation.ONE_SEED not in page
    assert "2 times per preparation (seeds 7, 8, start none, epochs 1)" in page
    assert "Glaucoma 2" in page
    printed = capsys.readouterr().out
    assert all(how in printed for how in PREPARATIONS)


def test_an_ablation_goes_on_where_it_stopped_and_skips_what_is_finished(
    data: Path, tmp_path: Path, pretended: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = plan.train

    def cut(task: Task, run: Run, chosen: argparse.Namespace) -> None:
        if len(pretended) == 3:
            raise KeyboardInterrupt
        honest(task, run, chosen)

    monkeypatch.setattr(plan, "train", cut)
    with pytest.raises(KeyboardInterrupt):
        ablation.ablate(FUNDUS, asked(data, tmp_path, 7))
    monkeypatch.setattr(plan, "train", honest)
    for seeds in ((7,), (7,), (7, 8)):
        ablation.ablate(FUNDUS, asked(data, tmp_path, *seeds))
    assert pretended == [(how, seed) for seed in (7, 8) for how in PREPARATIONS]
    assert ablation.ONE_SEED not in (tmp_path / "reports" / "fundus" / "ablation.md").read_text()
    ablation.ablate(FUNDUS, asked(data, tmp_path, 8))
    assert ablation.ONE_SEED in (tmp_path / "reports" / "fundus" / "ablation.md").read_text()
    assert len(pretended) == 2 * len(PREPARATIONS)
    record = tmp_path / "out" / "ablation" / "clahe" / "seed-7" / "weights" / f"{NAME}.json"
    record.write_text(record.read_text().replace("0.001", "0.5"))
    with pytest.raises(TrainingError, match="networks of different epochs or starts: delete it"):
        ablation.ablate(FUNDUS, asked(data, tmp_path, 7))
