"""`--seeds`: train and judge a task once per seed, each on a split of its own; the figures of all go into one file.

One run's figure is as much luck of the draw as merit. The networks of the first seed named go into service, so that
the choice is made before any figure is seen.
"""

import argparse
import copy
import json
import os
import platform
import shutil
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console

from fovea.spec import Network, Task
from training import evaluation, figures, plan, tables
from training.recipes import Stage, recipe_for
from training.run import Run
from training.trunks import pretrained

RESULTS = Path("training/results")
"""Figures that lie there are those the README shows."""
FIGURES = ("auc", "average_precision", "f1", "precision", "recall", "sensitivity_at_95")


def repeat(task: Task, options: argparse.Namespace) -> None:
    """Train what is not trained yet, judge every seed's test split, write `<results>/<task>.json` and print it."""
    home = plan.folder_of(task, options)
    rows = []
    for number, seed in enumerate(dict.fromkeys(options.seeds)):
        one = copy.copy(options)
        one.seed, one.out = seed, home / f"seed-{seed}"
        one.into, one.reports = one.out / "weights", one.out / "reports"
        run = plan.prepare(task, one)
        if not _trained(task, run, one):
            plan.train(task, run, one)
        if number == 0:
            _into_service(task, run, home, options.into)
            one.reports = options.reports
        plan.CONSOLE.print(f"seed {seed}")
        report = evaluation.evaluate(task, run, Console(), network=options.network, reports=one.reports)
        rows.append(_row(task, run, report))
    results = {"task": task.name, "machine": machine(), "seeds": rows}
    path = options.results / f"{task.name}.json"
    Run(home, options.into, options.seeds[0], (), "").write_json(path, results)
    Console().print(tables.seeds(results))
    if options.results == RESULTS:
        figures.write(options.results, Path("README.md"))
    print(f"{path} has the figures.")


def _trained(task: Task, run: Run, options: argparse.Namespace) -> bool:
    """Whether the networks were trained to their end in this run, from this start and for these epochs."""
    for network in task.networks:
        path = run.weights / f"{network.name}.json"
        if options.network not in (None, network.name):
            continue
        if not path.exists():
            return False
        made = json.loads(path.read_text(encoding="utf-8"))
        if (made["seed"], made["data"]["manifest_sha256"]) != (run.seed, run.manifest_sha256):
            return False
        if network.framework == "keras":
            start, stages = schedule(network, options)
            if (made["start"], made["stages"]) != (start, [asdict(stage) for stage in stages]):
                return False
    return True


def schedule(network: Network, options: argparse.Namespace) -> tuple[str, tuple[Stage, ...]]:
    """The start, as records name it, and the stages that these options ask for."""
    recipe, named = recipe_for(network), options.weights in ("imagenet", "none")
    start = options.weights if named else Path(options.weights)
    if named and not pretrained(recipe.trunk):
        start = "none"
    stages = recipe.stages_from(start)
    if options.epochs is not None:
        stages = tuple(replace(stage, epochs=options.epochs) for stage in stages)
    return (start if isinstance(start, str) else start.name), stages


def _into_service(task: Task, run: Run, home: Path, weights: Path) -> None:
    """The run's networks and manifest to where evaluation, export and retraining look for them."""
    files = {run.folder / "manifest.csv": home / "manifest.csv"}
    for network in task.networks:
        for path in run.weights.glob(f"{network.name}.*"):
            files[path] = weights / path.name
    for source, target in files.items():
        run.replace(target, partial(shutil.copyfile, source))


def _row(task: Task, run: Run, report: dict[str, Any]) -> dict[str, Any]:
    judged = report["classifiers"][-1]
    whole = judged["rows"][-1]
    made = json.loads((run.weights / f"{judged['network']}.json").read_text(encoding="utf-8"))
    probes = {row["seen"]: row["macro"]["auc"] for row in report.get("confounds", {}).get("rows", ())}
    return {
        "seed": run.seed,
        "network": judged["network"],
        "start": made["start"],
        "epochs": made["epochs"],
        "seconds": made["seconds"],
        "sets": report["sets"],
        "pictures": whole["photographs"],
        "patients": whole["patients"],
        "shared_patients": report["shared_patients"],
        "accuracy": whole["accuracy"],
        "macro": {name: whole["macro"][name] for name in FIGURES},
        "calibration_error": judged["calibration_error"],
        "probes": probes,
    }


def machine() -> dict[str, Any]:
    """What the training ran on, for whoever compares the seconds."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "gpus": [device.name for device in tf.config.list_physical_devices("GPU")],
        "python": platform.python_version(),
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "numpy": np.__version__,
    }
