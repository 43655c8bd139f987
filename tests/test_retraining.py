"""Champion and challenger: what is compared, when the challenger goes into service, and that neither is lost."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from small_runs import FUNDUS, new_run, write_phantoms

from fovea import quiet
from fovea.spec import Network, Task
from training import sources, splits
from training.recipes import recipe_for
from training.run import Run
from training.splits import Entry

with quiet.native_stderr():
    from training import retraining

NETWORK = FUNDUS.networks[0]
LABELS = FUNDUS.labels
RECIPE = recipe_for(NETWORK)


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    folder = write_phantoms(tmp_path_factory.mktemp("data") / "phantoms", 64)
    return [replace(entry, split="test") for entry in splits.assign(sources.read(folder, FUNDUS), 1)]


def answers(entries: list[Entry], skill: float, seed: int) -> npt.NDArray[np.float64]:
    """Probabilities that know the truth the better the larger `skill` is."""
    logits = np.random.default_rng(seed).normal(0, 1, (len(entries), len(LABELS)))
    logits[np.arange(len(entries)), [LABELS.index(str(entry.sample.label)) for entry in entries]] += skill
    spread: npt.NDArray[np.float64] = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return spread


def decide(entries: list[Entry], champion: float, challenger: float, run: Run, patch: pytest.MonkeyPatch) -> bool:
    """Let two networks of that skill meet; the champion is in service in `<folder>/service`."""
    service = run.folder / "service"
    for folder, content in ((service, b"old"), (run.weights, b"new")):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{NETWORK.name}.keras").write_bytes(content)
        (folder / f"{NETWORK.name}.json").write_text("{}")

    def told(_task: Task, _network: Network, judged: list[Entry], weights: Path) -> npt.NDArray[np.float64]:
        return answers(judged, champion if weights == service else challenger, 5)

    patch.setattr(retraining, "classify", told)
    return retraining.decide(FUNDUS, NETWORK, entries, entries[:8], service, run)[0]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path, tmp_path / "challenger", 7, (), "0" * 64)


@pytest.mark.parametrize(("champion", "challenger", "promoted"), [(2, 2, True), (1, 3, True), (3, 1, False)])
def test_a_challenger_goes_into_service_only_if_it_is_shown_to_be_no_worse(
    champion: float,
    challenger: float,
    promoted: bool,
    entries: list[Entry],
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert decide(entries, champion, challenger, run, monkeypatch) is promoted
    service = run.folder / "service"
    assert (service / f"{NETWORK.name}.keras").read_bytes() == (b"new" if promoted else b"old")
    kept = service / f"{NETWORK.name}.before-{hashlib.sha256(b'old').hexdigest()[:8]}.keras"
    assert kept.exists() is promoted
    assert not promoted or kept.read_bytes() == b"old"
    assert (run.weights / f"{NETWORK.name}.keras").read_bytes() == b"new"
    facts = json.loads((run.folder / "retraining.json").read_text())
    assert facts["promoted"] is promoted
    page = (run.folder / "retraining.md").read_text()
    assert ("the challenger is promoted" in page) is promoted
    assert ("champion stays in service" in page) is not promoted


def test_no_worse_needs_certainty_where_the_test_split_is_small(
    entries: list[Entry],
) -> None:
    """A challenger a little worse passes nobody's eye; the interval's lower bound is what decides."""
    few = entries[:24]
    one = retraining.compare(LABELS, few, answers(few, 1, 0), answers(few, 1, 2), 3)
    assert one.difference is not None
    assert one.difference.low is not None
    assert one.difference.low < -retraining.MARGIN < one.difference.value
    assert not one.no_worse


def test_a_challenger_that_is_sure_of_wrong_answers_is_not_promoted(entries: list[Entry]) -> None:
    calm = answers(entries, 1.5, 1)
    sure = calm**8 / (calm**8).sum(axis=1, keepdims=True)
    decision = retraining.compare(LABELS, entries, calm, sure, 3)
    assert decision.no_worse
    assert not decision.calibrated


def test_new_pictures_never_thaw_the_frozen_test_split(tmp_path: Path) -> None:
    """A known patient keeps the split, in whatever folder; an equal picture is not taken twice; and so is its owner."""
    home = write_phantoms(tmp_path / "old", 24)
    for path in sorted(home.rglob("*.png")):
        path.rename(path.with_name(f"p{path.stem}__1.png"))
    old = list(new_run(home, tmp_path / "out").entries)
    tested = next(entry for entry in old if entry.split == "test").sample
    trained = next(entry for entry in old if entry.split == "train").sample
    folder = write_phantoms(tmp_path / "new", 16, first=100)
    fresh = sorted((folder / str(tested.label)).iterdir())
    fresh[0].rename(fresh[0].with_name(f"{tested.path.stem.split('__')[0]}__2.png"))
    fresh[1].rename(fresh[1].with_name("stranger__1.png"))
    (folder / str(tested.label) / "stranger__2.png").write_bytes(tested.path.read_bytes())
    (folder / str(trained.label) / "copy.png").write_bytes(trained.path.read_bytes())
    merged = retraining.merge(old, sources.read(folder, FUNDUS), RECIPE, 3)
    assert merged[: len(old)] == old
    split_of = {entry.sample.path.name: entry.split for entry in merged[len(old) :]}
    assert len(split_of) == 16
    assert split_of[f"{tested.path.stem.split('__')[0]}__2.png"] == "test"
    assert split_of["stranger__1.png"] == "test"  # has a picture of somebody who is tested
    patients = {split: {e.sample.patient for e in merged if e.split == split} for split in ("train", "test")}
    assert not patients["train"] & patients["test"]
