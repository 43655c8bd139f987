"""`python -m training <task>`: train a task's networks, or judge them with `--evaluate`."""

import argparse
import sys
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fovea import program, quiet
from fovea.errors import UsageError
from fovea.spec import Task
from fovea.tasks import TASKS, task_named
from training import datasets, splits
from training.run import Run

CONSOLE = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("task", help=f"one of {', '.join(TASKS)}")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder that holds the data sets (data/)")
    parser.add_argument("--network", help="train only this network of the task")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--steps", type=int, help="optimiser steps of a segmenter (7500)")
    parser.add_argument("--epochs", type=int, help="epochs of a classifier")
    parser.add_argument("--out", type=Path, help="checkpoints, history, plots, manifest (out/training/<task>)")
    parser.add_argument("--into", type=Path, default=Path("weights"), help="where finished networks go (weights/)")
    parser.add_argument(
        "--weights",
        default="imagenet",
        metavar="imagenet|none|FILE",
        help="where a picture classifier starts: downloaded by Keras (the default), from nothing, or from a file",
    )
    parser.add_argument("--evaluate", type=Path, metavar="DIR", help="judge the trained networks on this folder")
    parser.add_argument("--reports", type=Path, default=Path("reports"), help="where --evaluate writes (reports/)")
    return parser


def prepare(task: Task, options: argparse.Namespace) -> Run:
    """Read the data to train on and draw the split, or obey the one drawn before."""
    folder = options.out or Path("out/training") / task.name
    samples = datasets.read(options.data)
    manifest = folder / "manifest.csv"
    if manifest.exists():
        entries, digest = splits.obey(samples, manifest)
    else:
        entries = splits.assign(samples, options.seed)
        digest = splits.write(entries, options.data, manifest)
    return Run(folder, options.into, options.seed, tuple(entries), digest)


def judge(task: Task, options: argparse.Namespace) -> None:
    """Judge the trained networks on the test split of the data they were trained on, or on all of other data."""
    with quiet.native_stderr():
        from training import evaluation
    folder = options.out or Path("out/training") / task.name
    samples = datasets.read(options.evaluate)
    manifest = folder / "manifest.csv"
    if manifest.exists() and splits.knows(samples, manifest):
        entries, digest = splits.obey(samples, manifest)
        judged: Literal["test", "all"] = "test"
    else:
        entries, digest = splits.assign(samples, options.seed), "none: these photographs were not trained on"
        judged = "all"
    run = Run(folder, options.into, options.seed, tuple(entries), digest)
    evaluation.evaluate(task, run, Console(), judged=judged, network=options.network, reports=options.reports)


def main() -> int:
    options = arguments().parse_args()
    return program.run(lambda: train_or_judge(options), "Stopped; the same command goes on from the last checkpoint.")


def train_or_judge(options: argparse.Namespace) -> int:
    task = task_named(options.task)
    if options.network and options.network not in {network.name for network in task.networks}:
        names = ", ".join(network.name for network in task.networks)
        raise UsageError(f"Task {task.name} has no network {options.network!r}: choose one of {names}.")
    if any(count is not None and count < 1 for count in (options.steps, options.epochs)):
        raise UsageError("--steps and --epochs must be at least 1.")
    if options.seed < 0:
        raise UsageError("--seed must not be negative.")
    if options.evaluate:
        judge(task, options)
    else:
        train(task, prepare(task, options), options)
    return 0


def train(task: Task, run: Run, options: argparse.Namespace) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=CONSOLE) as bar:
        for network in task.networks:
            if options.network in (None, network.name):
                if network.framework == "torch":
                    from training import segmenter

                    schedule = segmenter.Schedule(**({"steps": options.steps} if options.steps else {}))
                    segmenter.train(task, network, list(run.entries), run, schedule, bar)
                else:
                    with quiet.native_stderr():
                        from training import classifier

                    base = options.weights if options.weights in ("imagenet", "none") else Path(options.weights)
                    classifier.train(task, network, run, base, options.epochs, bar)


if __name__ == "__main__":
    sys.exit(main())
