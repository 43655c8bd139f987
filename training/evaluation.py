"""Judges a task's trained networks on photographs they were not trained on: `reports/<task>/`."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track

from fovea.errors import TrainingError
from fovea.pixels import Frame
from fovea.spec import THRESHOLD, Network, Task
from training import calibration, classifier, confounds, metrics, report, report_classes, vessels
from training.datasets import WITHOUT_PATIENTS
from training.inputs import load_program, network_inputs
from training.run import Run
from training.segmenter import read_summary
from training.splits import Entry

Plane = npt.NDArray[Any]  # [height, width]

CHUNK = 16
"""Photographs that a classifier sees at once."""
PROGRESS = Console(stderr=True)


@dataclass(frozen=True)
class Marked:
    """What is kept of one photograph: pixel counts for each (resolution, rater), and its part in the calibration."""

    entry: Entry
    tallies: dict[tuple[str, str], metrics.Tally]
    calibration: metrics.Values


def evaluate(
    task: Task,
    run: Run,
    console: Console,
    judged: Literal["test", "all"] = "test",
    network: str | None = None,
    reports: Path = Path("reports"),
) -> dict[str, Any]:
    """Judge the task's networks (or only `network`) and write `<reports>/<task>/`; headline figures go to `console`.

    `judged` is "test" for a folder that training used (its test split is judged), "all" for data it has never seen.

    Raises:
        TrainingError: weights are missing or do not fit, or there is nothing to judge them on.
    """
    entries = [entry for entry in run.entries if judged == "all" or entry.split == "test"]
    if not entries:
        raise TrainingError(
            f"None of the {len(run.entries)} photographs belongs to the test split: give the whole folder that "
            "training used, or data that training has never seen."
        )
    folder = reports / task.name
    marked = [entry for entry in entries if entry.sample.vessels is not None]
    labelled = [entry for entry in entries if entry.sample.label in task.labels]
    networks = [each for each in task.networks if network in (None, each.name)]
    for each in networks:  # every lack is told before minutes are spent
        wanted = "with vessel masks" if each.masks else f"labelled {', '.join(task.labels)}"
        _require(task, each, marked if each.masks else labelled, wanted, run.weights)
    result: dict[str, Any] = {
        "task": task.name,
        "question": task.question,
        "judged": judged,
        "seed": run.seed,
        "resamples": metrics.RESAMPLES,
        **run.describe(run.entries),
        "shared_patients": _shared(run, entries),
        "segmenters": [],
        "classifiers": [],
    }
    for each in networks:
        weights = run.weights / each.file
        identity = {"network": each.name, "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
        if each.masks:
            result["segmenters"].append(identity | _judge_segmenter(task, each, marked, run, folder))
        else:
            result["classifiers"].append(identity | _judge_classifier(task, each, labelled, run, folder))
            result["confounds"] = _judge_confounds(task, labelled, run, judged)
    report.write(run, folder, result)
    console.print(report.headlines(result))
    console.print(f"{folder / 'report.md'} has every figure.", highlight=False)
    return result


def _shared(run: Run, judged: Sequence[Entry]) -> str:
    """What to say where patients who are judged were, or may have been, trained on."""
    told = []
    known = {entry.sample.patient for entry in run.entries if entry.split != "test"}
    patients = {entry.sample.patient for entry in judged if entry.split == "test"}
    if patients & known:
        told.append(
            f"{len(patients & known)} of {len(patients)} patients judged here have pictures in the training split too, "
            "which was drawn by image: the figures are optimistic and say nothing about other patients."
        )
    unnamed = sorted({entry.sample.dataset for entry in judged} & WITHOUT_PATIENTS)
    if unnamed:
        told.append(
            f"{' and '.join(unnamed)} do not say whose a picture is: each counts as a patient, and one person's may "
            "lie on both sides of the split."
        )
    return " ".join(told)


def _require(task: Task, network: Network, entries: Sequence[Entry], wanted: str, folder: Path) -> None:
    weights = folder / network.file
    for path in (weights, weights.with_suffix(".json")) if network.masks else (weights,):
        if not path.exists():
            command = f"python -m training {task.name} --network {network.name}"
            raise TrainingError(f"{path} does not exist: make it with `{command}`.")
    if not entries:
        cure = "give a folder that has some, or judge another network of the task with --network"
        raise TrainingError(f"{network.name} is judged on photographs {wanted}, and none came: {cure}.")


def _scopes(entries: Sequence[Entry]) -> Iterator[tuple[list[str], list[int]]]:
    """(data sets, places in `entries`): each set alone, at last all together."""
    names = sorted({entry.sample.dataset for entry in entries})
    for sets in [[name] for name in names] + ([names] if len(names) > 1 else []):
        yield sets, [place for place, entry in enumerate(entries) if entry.sample.dataset in sets]


def _judge_segmenter(task: Task, network: Network, entries: list[Entry], run: Run, folder: Path) -> dict[str, Any]:
    weights = run.weights / network.file
    program, mask = load_program(weights), network.masks[0]
    threshold = float(read_summary(weights.with_suffix(".json"))["threshold_folded"])
    every = track(entries, network.name, console=PROGRESS, transient=True)
    marked = [_mark(program, entry, task, threshold) for entry in every]
    rows = []
    for resolution, rater in product(("network", "native"), ("network", "second observer")):
        scored = [one for one in marked if (resolution, rater) in one.tallies]
        for sets, places in _scopes([one.entry for one in scored]):
            tallies = [scored[place].tallies[resolution, rater] for place in places]
            scores = metrics.vessels(tallies, run.seed, graded=rater == "network")
            row = {"sets": sets, "resolution": resolution, "rater": rater, **asdict(scores)}
            if (resolution, rater) == ("network", "network"):
                bins = np.sum([scored[place].calibration for place in places], axis=0)
                row["calibration_error"] = metrics.calibration_error(bins)
            rows.append(row)
    ranked = sorted(marked, key=lambda one: one.tallies["network", "network"].dice)
    shown = [ranked[place] for place in sorted({0, len(ranked) // 2, len(ranked) - 1})]
    report.draw_masks(run, folder / f"{mask.name}.png", [_example(program, one, task) for one in shown])
    return {"mask": mask.name, "side": mask.side, "threshold": threshold, "rows": rows}


def _load(entry: Entry, task: Task) -> vessels.Case:
    return vessels.load([entry], task.image)[0]


def _predict(program: torch.nn.Module, case: vessels.Case) -> npt.NDArray[np.float32]:
    """Vessel probability `[side, side]`; 0.5 is the threshold that training chose."""
    with torch.no_grad():
        answer = program(torch.from_numpy(case.picture)[None])[0, ..., 0].numpy()
    if not np.isfinite(answer).all():
        raise TrainingError(f"{case.entry.sample.path}: the network answers with NaN or infinity: train it again.")
    return np.asarray(answer, np.float32)


def _mark(program: torch.nn.Module, entry: Entry, task: Task, threshold: float) -> Marked:
    case, sample = _load(entry, task), entry.sample
    probability = _predict(program, case)
    assert sample.vessels is not None
    native_truth = vessels.mask(sample.vessels) > 0
    size = native_truth.shape
    if sample.field_of_view is not None:
        native_inside = vessels.mask(sample.field_of_view) > 0
    else:
        native_inside = to_source(case.inside, case.frame, size, cv2.INTER_NEAREST) == 1
    truth = {"network": case.vessels >= THRESHOLD, "native": native_truth}
    inside = {"network": case.inside == 1, "native": native_inside}
    answers = {
        ("network", "network"): probability,
        ("native", "network"): to_source(probability, case.frame, size, cv2.INTER_LINEAR),
    }
    if sample.second_observer is not None:
        second = vessels.mask(sample.second_observer)
        small = vessels.at_network_resolution(second, case.frame, task.image.side)
        answers["network", "second observer"] = (small >= THRESHOLD).astype(np.float32)
        answers["native", "second observer"] = (second > 0).astype(np.float32)
    tallies = {
        (resolution, rater): metrics.tally(sample.patient, answer, truth[resolution], inside[resolution])
        for (resolution, rater), answer in answers.items()
    }
    # Folding divided the odds by threshold / (1 - threshold); calibrated are the odds as trained.
    vessel, rest = (part[inside["network"]] for part in (probability * threshold, (1 - probability) * (1 - threshold)))
    return Marked(entry, tallies, metrics.calibration(vessel / (vessel + rest), truth["network"][inside["network"]]))


def to_source(plane: Plane, frame: Frame, size: tuple[int, ...], interpolation: int) -> Plane:
    """A plane of the network's square, laid back where `frame` says into a source of `size` (height, width), else 0."""
    square = cv2.resize(plane, (frame.width, frame.height), interpolation=interpolation)
    source = np.zeros(size, plane.dtype)
    top, left = max(frame.top, 0), max(frame.left, 0)
    part = square[top - frame.top : size[0] - frame.top, left - frame.left : size[1] - frame.left]
    source[top : top + part.shape[0], left : left + part.shape[1]] = part
    return source


def _example(program: torch.nn.Module, one: Marked, task: Task) -> report.Example:
    case, dice = _load(one.entry, task), one.tallies["network", "network"].dice
    truth, inside = case.vessels >= THRESHOLD, case.inside == 1
    title = f"{one.entry.sample.dataset}, Dice {dice:.3f}"
    return report.Example(title, case.picture, _predict(program, case), truth, inside)


def _judge_classifier(task: Task, network: Network, entries: list[Entry], run: Run, folder: Path) -> dict[str, Any]:
    probabilities = classify(task, network, entries, run.weights)
    rows = _class_rows(task.labels, entries, probabilities, run.seed)
    truth = [str(entry.sample.label) for entry in entries]
    report_classes.draw(run, folder, network.name, task.labels, rows[-1], truth, probabilities)
    made = _read_summary(run.weights / network.file)
    heat = float(made["temperature"])
    # What was folded in is taken out again: the same network before its temperature.
    cold = calibration.reheated(probabilities, 1 / heat)
    curves = {"before": cold, "after": probabilities}
    bins = {when: metrics.confidence(task.labels, truth, answers) for when, answers in curves.items()}
    report_classes.draw_reliability(run, folder / "reliability.png", network.name, bins)
    assert task.classes is not None
    scores = 1 - probabilities[:, task.labels.index(task.classes.healthy)]
    found = np.array(truth) != task.classes.healthy
    points = [
        point | {"judged": metrics.operating_point(point["threshold"], scores, found)}
        for point in made["operating_points"]
    ]
    return {
        "labels": list(task.labels),
        "healthy": task.classes.healthy,
        "rows": rows,
        "temperature": heat,
        "calibration_error": {when: metrics.calibration_error(each) for when, each in bins.items()},
        "operating_points": points,
    }


def _read_summary(weights: Path) -> dict[str, Any]:
    """What training wrote beside a classifier."""
    path = weights.with_suffix(".json")
    try:
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        {summary["temperature"], *map(str, summary["operating_points"])}
    except (OSError, ValueError, KeyError, TypeError):
        raise TrainingError(f"{path} is missing or of an older training: train that network again.") from None
    return summary


def _class_rows(
    labels: Sequence[str], entries: Sequence[Entry], probabilities: metrics.Values, seed: int
) -> list[dict[str, Any]]:
    rows = []
    for sets, places in _scopes(entries):
        truth = [str(entries[place].sample.label) for place in places]
        patients = [entries[place].sample.patient for place in places]
        rows.append({"sets": sets, **asdict(metrics.classes(labels, truth, probabilities[places], patients, seed))})
    return rows


def classify(task: Task, network: Network, entries: list[Entry], folder: Path) -> metrics.Values:
    """Probabilities `[len(entries), len(labels)]`."""
    path, answers = folder / network.file, []
    model = classifier.load(path)
    for first in track(range(0, len(entries), CHUNK), network.name, console=PROGRESS, transient=True):
        answer = model.predict_on_batch(network_inputs(task, network, entries[first : first + CHUNK], folder))
        if isinstance(answer, (list, tuple)):
            answer = dict(zip(model.output_names, answer, strict=True))
        answers.append(classifier.probabilities(answer["probabilities"] if isinstance(answer, dict) else answer))
    probabilities: metrics.Values = np.concatenate(answers)
    expected, came = (len(entries), len(task.labels)), probabilities.shape
    if came != expected or not np.allclose(probabilities.sum(axis=1), 1, atol=1e-3, rtol=0):
        raise TrainingError(f"{path} should answer {expected} probabilities summing to 1, not {came}: train it again.")
    return probabilities


def _judge_confounds(task: Task, entries: list[Entry], run: Run, judged: str) -> dict[str, Any]:
    if judged == "all":
        return {"not_measured": "the probes learn from the folder that training used, and this is another one."}
    trained = [entry for entry in run.entries if entry.split != "test" and entry.sample.label in task.labels]
    found = confounds.measure(task.labels, task.image, trained, entries, run.seed)
    scored = {seen: _class_rows(task.labels, entries, answers, run.seed) for seen, answers in found.items()}
    rows = [{"seen": seen, **row} for seen, each in scored.items() for row in each]
    return {"trained_on": len(trained), "trained_sets": sorted({e.sample.dataset for e in trained}), "rows": rows}
