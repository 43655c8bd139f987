"""From what was asked on the command line to a run: which pictures, how they are split, where files go."""

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fovea import quiet
from fovea.errors import TrainingError
from fovea.spec import Task
from training import sources, splits
from training.datasets import Sample
from training.recipes import recipe_for
from training.run import Run
from training.splits import Entry

CONSOLE = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def folder_of(task: Task, options: argparse.Namespace) -> Path:
    """Where checkpoints, history, plots and the manifest of a task go."""
    return Path(options.out or Path("out/training") / task.name)


def prepare(task: Task, options: argparse.Namespace) -> Run:
    """Read the data to train on and draw the split, or obey the one drawn before."""
    folder = folder_of(task, options)
    samples = suitable(task, sources.read(options.data, task))
    manifest = folder / "manifest.csv"
    if manifest.exists() and any(folder.glob("*.history.json")):
        entries, digest = splits.obey(samples, manifest)
    else:  # nothing was trained on it yet: pictures may have been repaired, added or taken away
        entries = draw(task, samples, options)
        warn(task, entries)
        digest = "" if options.show else splits.write(entries, options.data, manifest)
    return Run(folder, options.into, options.seed, tuple(entries), digest)


def check_origin(weights: Path, digest: str, manifest: Path) -> None:
    """Refuse a manifest that is not the one a network was trained on: its test split may have been trained on.

    Raises:
        TrainingError: the record beside `weights` names another manifest than `digest`, that of `manifest`.
    """
    record = weights.with_suffix(".json")
    known = json.loads(record.read_text(encoding="utf-8"))["data"]["manifest_sha256"] if record.exists() else digest
    if known != digest:
        raise TrainingError(
            f"{weights} was trained on another split than {manifest} (SHA-256 {known[:8]}…, not {digest[:8]}…): give "
            "the folder of its training with --out."
        )


def draw(task: Task, samples: list[Sample], options: argparse.Namespace) -> list[Entry]:
    """A new split, as the recipe of the task's classifier wants it."""
    recipe = recipe_for(task.networks[-1])
    shares = recipe.test, recipe.validation
    return splits.assign(samples, options.seed, shares, recipe.near_duplicates, options.split_by)


def warn(task: Task, entries: list[Entry]) -> None:
    """Say which classes have too few patients to be tested; what cannot be measured must not come as a surprise."""
    for label in task.labels:
        splits_of = {entry.split for entry in entries if entry.sample.label == label}
        lacking = [split for split in ("validation", "test") if splits_of and split not in splits_of]
        if lacking:
            patients = len({entry.sample.patient for entry in entries if entry.sample.label == label})
            CONSOLE.print(
                f"{label} has {patients} patient{'s' * (patients != 1)}, too few for the {' and '.join(lacking)} "
                "split: give pictures of more, or split by picture with --split-by image (optimistic figures)."
            )


def suitable(task: Task, samples: list[Sample]) -> list[Sample]:
    """Leave out the sets that would teach the camera, where the recipe says so, and say it."""
    if not recipe_for(task.networks[-1]).every_class:
        return samples
    shown: dict[str, set[str | None]] = {}
    for sample in samples:
        shown.setdefault(sample.dataset, set()).add(sample.label)
    partial = sorted(name for name, labels in shown.items() if not set(task.labels) <= labels)
    if partial:
        CONSOLE.print(f"Left out {', '.join(partial)}: sets without every class of {task.name} would teach the camera.")
    return [sample for sample in samples if sample.dataset not in partial]


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

                    start = options.weights if options.weights in ("imagenet", "none") else Path(options.weights)
                    classifier.train(task, network, run, start, options.epochs, bar, options.prepare)
