"""`--ablate`: does a preparation of the pictures help? Each is trained on the baseline's split and seeds, and compared.

One seed's figure is as much luck as merit, so an option is said to help only where every seed shows it.
"""

import argparse
import copy
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fovea.errors import TrainingError
from fovea.spec import Network, Task
from training import metrics, plan, tables
from training.evaluation import classify
from training.preparation import MEANING, PREPARATIONS, Preparation, prepared
from training.repeats import machine
from training.retraining import compare
from training.run import Run
from training.splits import Entry

NO_LEAK = (
    "No preparation sees what it is judged on: the split is drawn by patient before anything is trained, the "
    "autoencoder and the GANs learn from its training pictures only, equalisation treats every picture alone with "
    "settings fixed beforehand, and generated pictures join the training split only."
)
SOFT = (
    "Generated pictures are 64 pixels, enlarged: their softness alone marks a class in training, which is one way in "
    "which they can do harm."
)
ONE_SEED = "One seed cannot tell a preparation from the luck of one training: take its verdict as a hint, give --seeds."


def ablate(task: Task, options: argparse.Namespace) -> None:
    """Train what is not trained yet, judge all on the test split, and write and print what each preparation changes.

    Raises:
        TrainingError: nothing to judge on, or networks trained before for other epochs or from another start.
        UsageError: the task's classifier reads a mask.
    """
    for preparation in PREPARATIONS:
        prepared(task, preparation)  # refused before an hour is spent
    home = plan.folder_of(task, options) / "ablation"
    network = task.networks[-1]
    rows: dict[Preparation, list[dict[str, Any]]] = {preparation: [] for preparation in PREPARATIONS}
    for seed in dict.fromkeys(options.seeds or [options.seed]):
        options = copy.copy(options)
        options.seed, options.out = seed, home / "none" / f"seed-{seed}"
        baseline = plan.prepare(task, options)
        answers: metrics.Values | None = None
        for preparation in PREPARATIONS:
            run = _trained(task, network, baseline, home / preparation / f"seed-{seed}", preparation, options)
            tested = [entry for entry in run.entries if entry.split == "test" and entry.sample.label in task.labels]
            if not tested:
                raise TrainingError("No labelled picture in the test split: give more patients of every class.")
            own = classify(prepared(task, preparation), network, tested, run.weights)
            answers = own if answers is None else answers
            rows[preparation].append(_row(task, network, run, tested, answers, own))
    results = {
        "task": task.name,
        "network": network.name,
        "machine": machine(),
        **_same(home, rows),
        "resamples": metrics.RESAMPLES,
        "preparations": [
            {"preparation": name, "verdict": verdict([row["difference"] for row in seeds]), "seeds": seeds}
            for name, seeds in rows.items()
        ],
    }
    results["preparations"][0]["verdict"] = "baseline"
    figures = options.results / f"{task.name}_ablation.json"
    baseline.write_json(figures, results)
    path = options.reports / task.name / "ablation.md"
    baseline.replace(path, lambda part: part.write_text(page(results), encoding="utf-8"))
    Console().print(table(results))
    if len(rows["none"]) == 1:
        plan.CONSOLE.print(ONE_SEED)
    print(f"{path} and {figures} have the figures.")


def _trained(
    task: Task, network: Network, baseline: Run, folder: Path, preparation: Preparation, options: argparse.Namespace
) -> Run:
    """The run of one preparation on the baseline's split, trained to its end; one that was trained before is kept."""
    run = replace(baseline, folder=folder, weights=folder / "weights")
    if folder != baseline.folder:
        run.replace(folder / "manifest.csv", partial(shutil.copyfile, baseline.folder / "manifest.csv"))
    record = run.weights / f"{network.name}.json"
    if record.exists():
        made = json.loads(record.read_text(encoding="utf-8"))
        known = made["seed"], made["data"]["manifest_sha256"], made.get("preparation")
        asked = {options.epochs or stage["epochs"] for stage in made["stages"]}
        if known == (run.seed, run.manifest_sha256, preparation) and asked == {s["epochs"] for s in made["stages"]}:
            return run
    plan.CONSOLE.print(f"{preparation}, seed {run.seed}")
    plan.train(task, run, argparse.Namespace(**vars(options) | {"prepare": preparation, "network": network.name}))
    return run


def _row(
    task: Task, network: Network, run: Run, tested: list[Entry], baseline: metrics.Values, own: metrics.Values
) -> dict[str, Any]:
    """The figures of one training; `difference` is its macro AUC less the baseline's, None for the baseline itself."""
    made = json.loads((run.weights / f"{network.name}.json").read_text(encoding="utf-8"))
    truth, patients = [str(entry.sample.label) for entry in tested], [entry.sample.patient for entry in tested]
    scores = metrics.classes(task.labels, truth, own, patients, run.seed)
    decision = compare(task.labels, tested, baseline, own, run.seed)
    estimates = {"accuracy": scores.accuracy, "auc": scores.macro.auc, "difference": decision.difference}
    return {
        "seed": run.seed,
        "start": made["start"],
        "stages": made["stages"],
        "epochs": made["epochs"],
        "seconds": made["seconds"],
        "parameters": made["parameters"],
        "pictures": scores.photographs,
        "patients": scores.patients,
        "manifest_sha256": run.manifest_sha256,
        **{name: estimate and asdict(estimate) for name, estimate in estimates.items()},
        **({"difference": None} if made["preparation"] == "none" else {}),
        **{name: made[name] for name in ("synthetic", "superresolution") if name in made},
    }


def _same(home: Path, rows: dict[Preparation, list[dict[str, Any]]]) -> dict[str, Any]:
    """Start and epochs of all, which must be equal for a comparison to be one."""
    schedules = {json.dumps([row["start"], row["stages"]]) for seeds in rows.values() for row in seeds}
    if len(schedules) > 1:
        raise TrainingError(
            f"{home} holds networks of different epochs or starts: delete it, or give the --epochs and --weights that "
            "they were trained with."
        )
    start, stages = json.loads(schedules.pop())
    return {"start": start, "epochs": sum(stage["epochs"] for stage in stages)}


def verdict(differences: Sequence[dict[str, Any] | None]) -> str:
    """What the 95 % intervals of all seeds say together; without an interval nothing is shown."""
    bounds = [(each["low"], each["high"]) for each in differences if each and each["low"] is not None]
    if bounds and len(bounds) == len(differences):
        if all(low > 0 for low, _ in bounds):
            return "helps"
        if all(high < 0 for _, high in bounds):
            return "harms"
    return "no difference shown"


def difference(estimate: dict[str, Any] | None) -> str:
    """+0.012 (−0.003…+0.027)."""
    if estimate is None:
        return "–"
    value, low, high = (
        "?" if number is None else f"{number:+.3f}".replace("-", "−")
        for number in (estimate["value"], estimate["low"], estimate["high"])
    )
    return f"{value} ({low}…{high})"


def table(results: dict[str, Any]) -> Table:
    """For the console: one line per preparation and seed."""
    title = f"{results['task']}: what preparing the pictures changes"
    drawn = tables.console(title, ("preparation", "seed"), ("accuracy", "macro AUC", "difference", "verdict"))
    for each in results["preparations"]:
        for number, row in enumerate(each["seeds"]):
            values = (f"{row[name]['value']:.3f}" if row[name] else "–" for name in ("accuracy", "auc"))
            figures = *values, difference(row["difference"])
            names = (each["preparation"], each["verdict"]) if number == 0 else ("", "")
            drawn.add_row(names[0], str(row["seed"]), *figures, names[1])
    return drawn


def page(results: dict[str, Any]) -> str:
    """The same for people, with what it rests on."""
    count = len(results["preparations"][0]["seeds"])
    seeds = ", ".join(str(row["seed"]) for row in results["preparations"][0]["seeds"])
    verdicts = [
        (f"`{each['preparation']}`", MEANING[each["preparation"]], each["verdict"]) for each in results["preparations"]
    ]
    rows = [
        (
            f"`{each['preparation']}`",
            row["seed"],
            f"{row['pictures']} ({row['patients']})",
            tables.figure(row["accuracy"]),
            tables.figure(row["auc"]),
            difference(row["difference"]),
            ", ".join(f"{label} {number}" for label, number in row.get("synthetic", {}).items()) or "–",
            round(row["seconds"] / 60, 1),
        )
        for each in results["preparations"]
        for row in each["seeds"]
    ]
    taught = [
        "On training pictures that were halved and enlarged again, the autoencoder brings the mean error to "
        f"{row['superresolution']['grey_levels_lost']['restored']:.2f} grey levels from "
        f"{row['superresolution']['grey_levels_lost']['enlarged']:.2f} (seed {row['seed']})."
        for each in results["preparations"]
        for row in each["seeds"]
        if "superresolution" in row
    ]
    head = (
        "preparation",
        "seed",
        "pictures (patients)",
        "accuracy",
        "macro AUC",
        "difference in macro AUC",
        "generated",
        "minutes, classifier alone",
    )
    times = f"{count} times" if count > 1 else "once"
    several = "seeds" if count > 1 else "seed"
    return "\n\n".join(
        [
            f"# Preparing the pictures of `{results['task']}`: what it changes",
            f"`{results['network']}` was trained {times} per preparation ({several} {seeds}, start "
            f"{results['start']}, epochs {results['epochs']}), each time on the split and from the "
            f"initial weights of the baseline. {NO_LEAK}",
            tables.table(("preparation", "what it is", "verdict"), verdicts),
            "It *helps* where the 95 % interval of the difference in macro AUC lies above 0 in every seed, and *harms* "
            "where it lies below 0 in every one; all else is no difference shown, which is not the same as none. The "
            "intervals are of a paired bootstrap over the patients of the test split "
            f"({results['resamples']} resamples); they do not cover the luck of a training, for which there are seeds."
            + (f" {ONE_SEED}" if count == 1 else ""),
            tables.table(head, rows),
            SOFT,
            *taught,
            f"Trained on {results['machine']['cpu']}, {results['machine']['cores']} cores.",
            "",
        ]
    )
