"""`--retrain`: champion against challenger on a frozen test split; the better-founded of the two goes into service.

The champion is the network in service. The challenger starts from it and trains on its training data and the new data
together. Both are judged on pictures neither has seen: the test split of the champion's manifest, never drawn anew,
and, told apart, the test part of the new patients. The challenger is promoted only when it is shown to be no worse.
"""

import argparse
import hashlib
import os
import shutil
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fovea.errors import TrainingError, UsageError
from fovea.spec import Network, Task
from training import metrics, plan, sources, splits, tables
from training.datasets import Sample
from training.evaluation import classify
from training.recipes import Recipe, recipe_for
from training.run import Run
from training.splits import Entry

MARGIN = 0.02
"""No worse means: the lower 95 % bound of the AUC's difference is above minus this."""
CALIBRATION_MARGIN = 0.05
"""Calibration holds while the challenger's calibration error is not larger than the champion's by more than this."""
LEAST = 20
"""Frozen test pictures below which nothing is decided."""


@dataclass(frozen=True)
class Decision:
    """Figures of both networks on one set of pictures; `difference` is challenger − champion."""

    pictures: int
    patients: int
    champion_auc: metrics.Estimate | None
    challenger_auc: metrics.Estimate | None
    difference: metrics.Estimate | None
    champion_calibration_error: float
    challenger_calibration_error: float

    @property
    def no_worse(self) -> bool:
        return self.difference is not None and self.difference.low is not None and self.difference.low > -MARGIN

    @property
    def calibrated(self) -> bool:
        return self.challenger_calibration_error <= self.champion_calibration_error + CALIBRATION_MARGIN


def retrain(task: Task, options: argparse.Namespace) -> int:
    """Train and judge a challenger; 1 if the champion stays."""
    network = task.networks[-1]
    champion = options.champion or options.into / f"{network.name}.keras"
    folder = plan.folder_of(task, options)
    manifest = folder / "manifest.csv"
    if not champion.exists():
        raise UsageError(f"{champion} does not exist: give the network in service with --from.")
    if champion.name != f"{network.name}.keras":
        raise UsageError(f"{champion} is not in service: copy it to {network.name}.keras in its folder first.")
    if not manifest.exists():
        raise UsageError(f"{manifest} does not exist: it says which pictures the network in service never saw.")
    old, digest = splits.obey(plan.suitable(task, sources.read(options.data, task)), manifest)
    plan.check_origin(champion, digest, manifest)
    new = plan.suitable(task, sources.read(options.retrain, task))
    entries = merge(old, new, recipe_for(network), options.seed)
    known = {entry.sha256 for entry in old}
    frozen = [e for e in entries if e.split == "test" and e.sha256 in known and e.sample.label in task.labels]
    if len(frozen) < LEAST:
        raise TrainingError(
            f"Only {len(frozen)} pictures are in the frozen test split; at least {LEAST} are needed to decide: give "
            "the data that the network in service was trained on with --data."
        )
    within = folder / "retraining"
    digest = splits.write(entries, options.data, within / "manifest.csv")
    run = Run(within, within / "weights", options.seed, tuple(entries), digest)
    plan.train(task, run, argparse.Namespace(**vars(options) | {"network": network.name, "weights": str(champion)}))
    fresh = [e for e in entries if e.split == "test" and e.sha256 not in known and e.sample.label in task.labels]
    promoted, report = decide(task, network, frozen, fresh, champion.parent, run)
    if promoted:  # from now on the network in service was trained on this split
        run.replace(manifest, partial(shutil.copyfile, within / "manifest.csv"))
    verdict = "promoted" if promoted else "not promoted: the champion stays in service"
    print(f"The challenger is {verdict}; {report} says why.")
    return 0 if promoted else 1


def compare(
    labels: tuple[str, ...],
    entries: list[Entry],
    champion: metrics.Values,
    challenger: metrics.Values,
    seed: int,
) -> Decision:
    """Paired bootstrap over patients of the macro AUC, one class against the rest.

    `champion` and `challenger` are probabilities `[len(entries), len(labels)]` for the same pictures.
    """
    truth = [str(entry.sample.label) for entry in entries]
    patients = [entry.sample.patient for entry in entries]
    actual = np.array([labels.index(label) for label in truth])

    def statistics(weights: metrics.Values) -> metrics.Values:
        one, other = (_macro_auc(actual, answers, weights) for answers in (champion, challenger))
        return np.array([one, other, other - one])

    old, new, difference = metrics.intervals(patients, statistics, seed)
    errors = (metrics.calibration_error(metrics.confidence(labels, truth, a)) for a in (champion, challenger))
    return Decision(len(entries), len(set(patients)), old, new, difference, *errors)


def _macro_auc(actual: npt.NDArray[np.int64], answers: metrics.Values, weights: metrics.Values) -> float:
    areas = []
    for index in np.unique(actual):
        level = np.unique(answers[:, index], return_inverse=True)[1]
        size = level.max() + 1
        positives = np.bincount(level, weights * (actual == index), size).astype(np.float64)
        negatives = np.bincount(level, weights * (actual != index), size).astype(np.float64)
        areas.append(metrics.area(positives, negatives))
    return float(np.mean(areas))


def decide(
    task: Task, network: Network, frozen: list[Entry], new: list[Entry], champion: Path, run: Run
) -> tuple[bool, Path]:
    """Judge both, write `<folder>/retraining.{json,md}`, and promote the challenger if it is shown to be no worse.

    `champion` is the folder of the network in service, `run.weights` that of the challenger. A promotion keeps the
    champion in `<champion>/<network>.before-<its SHA-256's first 8>.keras`.

    Returns:
        Whether it was promoted, and the report.
    """
    judged = {"frozen test split": frozen} | ({"test part of the new data": new} if new else {})
    decisions = {
        where: compare(
            task.labels,
            entries,
            classify(task, network, entries, champion),
            classify(task, network, entries, run.weights),
            run.seed,
        )
        for where, entries in judged.items()
    }
    first = decisions["frozen test split"]
    promoted = first.no_worse and first.calibrated
    facts = {
        "task": task.name,
        "network": network.name,
        "promoted": promoted,
        "margin": MARGIN,
        "calibration_margin": CALIBRATION_MARGIN,
        "decisions": {where: asdict(decision) for where, decision in decisions.items()},
        **run.describe(run.entries),
    }
    if promoted:
        _promote(network, champion, run)
    run.write_json(run.folder / "retraining.json", facts)
    path = run.folder / "retraining.md"
    run.replace(path, lambda part: part.write_text(page(task, promoted, decisions), encoding="utf-8"))
    return promoted, path


def merge(old: list[Entry], new: list[Sample], recipe: Recipe, seed: int) -> list[Entry]:
    """Old entries as they were split, and new pictures: known patients to their split, unknown ones drawn.

    Pictures that are among the old ones, byte for byte, are left out: they have their split.
    """
    split_of = {entry.sample.patient: entry.split for entry in old}
    split_by_sha = {entry.sha256: entry.split for entry in old}
    drawn = splits.assign(new, seed, (recipe.test, recipe.validation), recipe.near_duplicates)
    for entry in drawn:
        if entry.sha256 in split_by_sha:  # whoever has a picture of an old patient is that patient
            split_of.setdefault(entry.sample.patient, split_by_sha[entry.sha256])
    fresh = [entry for entry in drawn if entry.sha256 not in split_by_sha]
    return [*old, *(replace(entry, split=split_of.get(entry.sample.patient, entry.split)) for entry in fresh)]


def _promote(network: Network, champion: Path, run: Run) -> None:
    old = champion / f"{network.name}.keras"
    digest = hashlib.sha256(old.read_bytes()).hexdigest()[:8]
    copies = {}  # all are written before any is put in its place
    for suffix in (".keras", ".json"):
        target = champion / f"{network.name}{suffix}"
        if target.exists():
            run.replace(champion / f"{network.name}.before-{digest}{suffix}", partial(shutil.copyfile, target))
        copies[target] = target.with_name(f".{target.name}.new")
        run.replace(copies[target], partial(shutil.copyfile, run.weights / target.name))
    for target, copy in copies.items():
        os.replace(copy, target)


def page(task: Task, promoted: bool, decisions: dict[str, Decision]) -> str:
    """The decision for people."""
    first = decisions["frozen test split"]
    reasons = [
        f"the lower bound of the AUC's difference is {'above' if first.no_worse else 'not above'} −{MARGIN:g}",
        f"calibration {'holds' if first.calibrated else 'does not hold'}",
    ]
    rows = [
        (
            where,
            f"{each.pictures} ({each.patients})",
            *(tables.figure(asdict(e) if e else None) for e in (each.champion_auc, each.challenger_auc)),
            tables.figure(asdict(each.difference) if each.difference else None),
            f"{each.champion_calibration_error:.4f}",
            f"{each.challenger_calibration_error:.4f}",
        )
        for where, each in decisions.items()
    ]
    head = ("judged on", "pictures (patients)", "champion AUC", "challenger AUC", "difference", "calibration error", "")
    verdict = "promoted" if promoted else "not promoted: the champion stays in service"
    return "\n\n".join(
        [
            f"# Retraining of `{task.name}`: the challenger is {verdict}",
            f"On the frozen test split, {' and '.join(reasons)}. Macro AUC, one class against the rest; in brackets 95 "
            "% intervals over patients, the difference paired. The test part of the new data is told for information.",
            tables.table(head, rows),
            "",
        ]
    )
