"""`python -m training <task>`: train a task's networks, or judge them with `--evaluate`."""

import argparse
import sys
from pathlib import Path
from typing import Literal

from rich.console import Console

from fovea import program, quiet
from fovea.errors import TrainingError, UsageError
from fovea.spec import Task
from fovea.tasks import TASKS, task_named
from training import plan, preparation, sources, splits
from training.run import Run


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("task", help=f"one of {', '.join(TASKS)}")
    parser.add_argument(
        "--data", default="data", help="folder that holds the data sets (data/), or a store: mongodb://… or its folder"
    )
    parser.add_argument("--network", help="train only this network of the task")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        metavar="N",
        help="train and judge once per seed, split anew each time; the first one's networks go to --into",
    )
    parser.add_argument("--results", type=Path, default=Path("training/results"), help="where --seeds writes figures")
    parser.add_argument("--steps", type=int, help="optimiser steps of a segmenter (7500)")
    parser.add_argument("--epochs", type=int, help="epochs of a classifier")
    parser.add_argument("--out", type=Path, help="checkpoints, history, plots, manifest (out/training/<task>)")
    parser.add_argument("--into", type=Path, default=Path("weights"), help="where finished networks go (weights/)")
    parser.add_argument(
        "--weights",
        default="imagenet",
        metavar="imagenet|none|FILE",
        help="where a picture classifier starts: a trunk downloaded by Keras (the default), nothing, a trunk's "
        ".weights.h5, or a network (.keras) of the same task",
    )
    parser.add_argument(
        "--split-by",
        choices=("patient", "image"),
        default="patient",
        help="image: where patients are too few; the figures are then optimistic (patient)",
    )
    parser.add_argument("--show", action="store_true", help="only write contact sheets of what the network will see")
    parser.add_argument(
        "--retrain",
        metavar="DATA",
        help="train a challenger on --data and these pictures, and promote it if it is shown to be no worse",
    )
    parser.add_argument(
        "--from",
        dest="champion",
        type=Path,
        metavar="FILE",
        help="the network in service that --retrain starts from (weights/<network>.keras)",
    )
    parser.add_argument(
        "--prepare",
        choices=preparation.PREPARATIONS,
        default="none",
        help="what a picture classifier's pictures go through: equalisation (clahe, histogram), a sharpening "
        "autoencoder that becomes its first part, generated pictures for rare classes (none)",
    )
    parser.add_argument(
        "--ablate", action="store_true", help="train with each --prepare on one split per seed, and say which help"
    )
    parser.add_argument("--evaluate", metavar="DATA", help="judge the trained networks on this folder or store")
    parser.add_argument("--reports", type=Path, default=Path("reports"), help="where --evaluate writes (reports/)")
    return parser


def judge(task: Task, options: argparse.Namespace) -> None:
    """Judge the trained networks on the test split of the data they were trained on, or on all of other data."""
    with quiet.native_stderr():
        from training import evaluation, evidence
    folder = plan.folder_of(task, options)
    task = preparation.as_trained(task, options.into)
    samples = sources.read(options.evaluate, task)
    manifest = folder / "manifest.csv"
    if not manifest.exists():
        raise TrainingError(
            f"{manifest} does not exist: it says which pictures the networks were trained on; give its folder with "
            "--out."
        )
    if splits.knows(samples, manifest):
        entries, digest = splits.obey(plan.suitable(task, samples), manifest)
        for network in task.networks:
            if options.network in (None, network.name):
                plan.check_origin(options.into / network.file, digest, manifest)
        judged: Literal["test", "all"] = "test"
    else:
        entries, digest = splits.assign(samples, options.seed), "none: these photographs were not trained on"
        judged = "all"
    run = Run(folder, options.into, options.seed, tuple(entries), digest)
    evaluation.evaluate(task, run, Console(), judged=judged, network=options.network, reports=options.reports)
    if judged == "test":
        evidence.write(task, run, options.reports / task.name / "evidence.npz")


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
    if any(not 0 <= seed < 2**32 for seed in (options.seed, *(options.seeds or ()))):
        raise UsageError(f"--seed must not be negative, nor {2**32} or more.")
    modes = [f"--{mode}" for mode in ("evaluate", "show", "retrain", "ablate") if getattr(options, mode)]
    if len(modes) > 1 or (options.seeds and not {*modes} <= {"--ablate"}):
        raise UsageError(f"{' and '.join(modes + ['--seeds'] * bool(options.seeds))} exclude each other: give one.")
    if options.champion and not options.retrain:
        raise UsageError("--from names the network that --retrain starts from: give both.")
    if options.prepare != "none" and (options.evaluate or options.retrain or options.seeds or options.ablate):
        raise UsageError(
            "--prepare goes with one training: --evaluate knows what a network was trained on, and --ablate compares "
            "all preparations over --seeds."
        )
    if options.ablate and options.split_by == "image":
        raise UsageError("--ablate judges on splits by patient: leave out --split-by image.")
    task = preparation.prepared(task, options.prepare)
    images = plan.folder_of(task, options) / "images"
    for asked in ("evaluate", "retrain") if options.evaluate else ("data", "retrain"):
        if getattr(options, asked):
            setattr(options, asked, sources.folder_of(getattr(options, asked), images / asked))
    if options.evaluate:
        judge(task, options)
    elif options.show:
        show(task, plan.prepare(task, options))
    elif options.retrain:
        with quiet.native_stderr():
            from training import retraining
        return retraining.retrain(task, options)
    elif options.ablate:
        with quiet.native_stderr():
            from training import ablation
        ablation.ablate(task, options)
    elif options.seeds:
        with quiet.native_stderr():
            from training import repeats
        repeats.repeat(task, options)
    else:
        plan.train(task, plan.prepare(task, options), options)
    return 0


def show(task: Task, run: Run) -> None:
    with quiet.native_stderr():
        from training import sheets

    Console().print(sheets.counts(task, run))
    for path in sheets.draw(task, run):
        print(path)


if __name__ == "__main__":
    sys.exit(main())
