"""Judges a task's trained networks on photographs they were not trained on: `reports/<task>/`."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import keras
import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track

from fovea.errors import TrainingError, UnreadableImage
from fovea.pixels import Frame
from fovea.spec import THRESHOLD, Classes, Mask, Network, Task
from training import confounds, metrics, report, vessels
from training.inputs import load_program, network_inputs
from training.run import Run
from training.segmenter import read_summary
from training.splits import Entry

CHUNK = 16
"""Photographs that a classifier sees at once."""
PROGRESS = Console(stderr=True)


@dataclass(frozen=True)
class Marked:
    """What is kept of one photograph: counts for each (resolution, rater), and its part in the calibration."""

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
    """Judge the task's networks (or only `network`), write the report and print its headline figures.

    Args:
        task: Whose networks are judged.
        run: Its entries, split by the manifest that training wrote, and the folder with the weights.
        console: Where the headline figures are printed.
        judged: "test" for a folder that training used; "all" for data that training has never seen.
        network: The only network to judge.
        reports: The report goes to `<reports>/<task>/`.

    Raises:
        TrainingError: weights are missing or do not fit, or no photograph can be judged.
    """
    entries = [entry for entry in run.entries if judged == "all" or entry.split == "test"]
    if not entries:
        raise TrainingError(
            f"None of the {len(run.entries)} photographs belongs to the test split: give the whole folder that "
            "training used, or data that training has never seen."
        )
    networks = [each for each in task.networks if network in (None, each.name)]
    for each in networks:  # every lack is told before minutes are spent
        _require(task, each, entries, run.weights)
    folder = reports / task.name
    result: dict[str, Any] = {
        "task": task.name,
        "question": task.question,
        "judged": judged,
        "seed": run.seed,
        "resamples": metrics.RESAMPLES,
        "manifest_sha256": run.manifest_sha256,
        "sets": run.description["sets"],
        "segmenters": [],
        "classifiers": [],
    }
    for each in networks:
        for mask in each.masks:
            result["segmenters"].append(_judge_segmenter(task, each, mask, _marked(entries), run, folder))
        if any(isinstance(answer, Classes) for answer in each.answers):
            result["classifiers"].append(_judge_classifier(task, each, _labelled(task, entries), run, folder))
            result["confounds"] = _confounds(task, _labelled(task, entries), run, judged)
    report.write(run, folder, result)
    console.print(report.headlines(result))
    console.print(f"{folder / 'report.md'} has every figure.", highlight=False)
    return result


def _marked(entries: Sequence[Entry]) -> list[Entry]:
    return [entry for entry in entries if entry.sample.vessels is not None]


def _labelled(task: Task, entries: Sequence[Entry]) -> list[Entry]:
    return [entry for entry in entries if entry.sample.label in task.labels]


def _weights(network: Network, folder: Path) -> Path:
    return folder / f"{network.name}.{'pt2' if network.framework == 'torch' else 'keras'}"


def _require(task: Task, network: Network, entries: Sequence[Entry], folder: Path) -> None:
    weights = _weights(network, folder)
    needed = (weights, weights.with_suffix(".json")) if network.masks else (weights,)
    for path in needed:
        if not path.exists():
            raise TrainingError(
                f"{path} does not exist: train it with `python -m training {task.name} --network {network.name}`."
            )
    elsewhere = "or judge another network of the task with --network"
    if network.masks and not _marked(entries):
        raise TrainingError(
            f"{network.name} is judged on photographs with vessel masks, and none of the {len(entries)} to judge has "
            f"one: give a folder with HRF, CHASE_DB1 or DRIVE, {elsewhere}."
        )
    if not network.masks and not _labelled(task, entries):
        raise TrainingError(
            f"{network.name} is judged on photographs labelled {', '.join(task.labels)}, and none of the "
            f"{len(entries)} to judge has such a label: give a folder with labels, {elsewhere}."
        )


def _scopes(entries: Sequence[Entry]) -> Iterable[tuple[list[str], list[int]]]:
    """(data sets, places in `entries`): each set alone, then all together."""
    names = sorted({entry.sample.dataset for entry in entries})
    for sets in ([name] for name in names):
        yield sets, [place for place, entry in enumerate(entries) if entry.sample.dataset in sets]
    if len(names) > 1:
        yield names, list(range(len(entries)))


def _judge_segmenter(
    task: Task, network: Network, mask: Mask, entries: list[Entry], run: Run, folder: Path
) -> dict[str, Any]:
    weights = _weights(network, run.weights)
    program = load_program(weights)
    threshold = float(read_summary(weights.with_suffix(".json"))["threshold_folded"])
    marked = [
        _mark(program, entry, task, threshold)
        for entry in track(entries, network.name, console=PROGRESS, transient=True)
    ]
    ranked = sorted(marked, key=lambda one: one.tallies["network", "network"].dice)
    shown = [ranked[place] for place in sorted({0, len(ranked) // 2, len(ranked) - 1})]
    report.draw_masks(run, folder / f"{mask.name}.png", [_example(program, one, task) for one in shown])
    rows = []
    for resolution in ("network", "native"):
        for rater in ("network", "second observer"):
            scored = [one for one in marked if (resolution, rater) in one.tallies]
            for sets, places in _scopes([one.entry for one in scored]):
                tallies = [scored[place].tallies[resolution, rater] for place in places]
                scores = metrics.vessels(tallies, run.seed, graded=rater == "network")
                rows.append({"sets": sets, "resolution": resolution, "rater": rater, **asdict(scores)})
    calibration = []
    for sets, places in _scopes(entries):
        error = metrics.calibration_error(np.sum([marked[place].calibration for place in places], axis=0))
        patients = {entries[place].sample.patient for place in places}
        row = {"sets": sets, "photographs": len(places), "patients": len(patients), "calibration_error": error}
        calibration.append(row)
    return {
        "network": network.name,
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "mask": mask.name,
        "side": mask.side,
        "threshold": threshold,
        "rows": rows,
        "calibration": calibration,
    }


def _load(entry: Entry, task: Task) -> vessels.Case:
    try:
        return vessels.load([entry], task.image)[0]
    except UnreadableImage as error:
        raise TrainingError(f"{entry.sample.path} or its masks: {error}") from None


def _predict(program: torch.nn.Module, case: vessels.Case) -> npt.NDArray[np.float32]:
    """Vessel probability `[side, side]`; 0.5 is the threshold that training chose."""
    with torch.no_grad():
        answer = program(torch.from_numpy(case.picture)[None])[0, ..., 0].numpy()
    if not np.isfinite(answer).all():
        raise TrainingError(f"{case.entry.sample.path}: the network answers with NaN or infinity: train it again.")
    return np.asarray(answer, np.float32)


def _mark(program: torch.nn.Module, entry: Entry, task: Task, threshold: float) -> Marked:
    case = _load(entry, task)
    probability = _predict(program, case)
    sample = entry.sample
    assert sample.vessels is not None
    truth, inside = case.vessels >= THRESHOLD, case.inside == 1
    native_truth = vessels.mask(sample.vessels) > 0
    size = native_truth.shape
    native_inside = (
        vessels.mask(sample.field_of_view) > 0
        if sample.field_of_view is not None
        else to_source(case.inside, case.frame, size, cv2.INTER_NEAREST) == 1
    )
    native = to_source(probability, case.frame, size, cv2.INTER_LINEAR)
    tallies = {
        ("network", "network"): metrics.tally(sample.patient, probability, truth, inside),
        ("native", "network"): metrics.tally(sample.patient, native, native_truth, native_inside),
    }
    if sample.second_observer is not None:
        second = vessels.mask(sample.second_observer)
        small = vessels.at_network_resolution(second, case.frame, task.image.side) >= THRESHOLD
        for resolution, answer, true, within in (
            ("network", small, truth, inside),
            ("native", second > 0, native_truth, native_inside),
        ):
            count = metrics.tally(sample.patient, answer.astype(np.float32), true, within)
            tallies[resolution, "second observer"] = count
    # Folding divided the odds by threshold / (1 - threshold); calibration is a property of the odds as trained.
    vessel, rest = probability[inside] * threshold, (1 - probability[inside]) * (1 - threshold)
    return Marked(entry, tallies, metrics.calibration(vessel / (vessel + rest), truth[inside]))


def to_source(plane: npt.NDArray[Any], frame: Frame, size: tuple[int, ...], interpolation: int) -> npt.NDArray[Any]:
    """A plane of the network's square, laid back where `frame` says into a source of `size` (height, width), else 0."""
    square = cv2.resize(plane, (frame.width, frame.height), interpolation=interpolation)
    source = np.zeros(size, plane.dtype)
    top, left = max(frame.top, 0), max(frame.left, 0)
    part = square[top - frame.top : size[0] - frame.top, left - frame.left : size[1] - frame.left]
    source[top : top + part.shape[0], left : left + part.shape[1]] = part
    return source


def _example(program: torch.nn.Module, one: Marked, task: Task) -> report.Example:
    case = _load(one.entry, task)
    title = f"{one.entry.sample.dataset}, Dice {one.tallies['network', 'network'].dice:.3f}"
    truth, inside = case.vessels >= THRESHOLD, case.inside == 1
    return report.Example(title, case.picture, _predict(program, case), truth, inside)


def _judge_classifier(task: Task, network: Network, entries: list[Entry], run: Run, folder: Path) -> dict[str, Any]:
    labels = task.labels
    weights = _weights(network, run.weights)
    probabilities = _classify(task, network, entries, run.weights)
    truth = [str(entry.sample.label) for entry in entries]
    rows = _class_rows(labels, entries, probabilities, run.seed)
    overall = rows[-1]  # _scopes yields all sets together last
    title = f"{network.name}: {', '.join(overall['sets'])}\n{len(entries)} photographs, {overall['patients']} patients"
    report.draw_confusion(run, folder / "confusion.png", labels, overall["confusion"], title)
    report.draw_roc(run, folder / "roc.png", overall, labels, truth, probabilities, title)
    return {
        "network": network.name,
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "labels": list(labels),
        "rows": rows,
    }


def _class_rows(
    labels: Sequence[str], entries: Sequence[Entry], probabilities: npt.NDArray[np.float64], seed: int
) -> list[dict[str, Any]]:
    rows = []
    for sets, places in _scopes(entries):
        truth = [str(entries[place].sample.label) for place in places]
        patients = [entries[place].sample.patient for place in places]
        rows.append({"sets": sets, **asdict(metrics.classes(labels, truth, probabilities[places], patients, seed))})
    return rows


def _classify(task: Task, network: Network, entries: list[Entry], folder: Path) -> npt.NDArray[np.float64]:
    """Probabilities `[len(entries), len(labels)]`."""
    path = _weights(network, folder)
    try:
        model = keras.models.load_model(path, compile=False)
    except ValueError as error:
        raise TrainingError(f"{path} is no Keras network ({error}): train it again.") from None
    answers = []
    for first in track(range(0, len(entries), CHUNK), network.name, console=PROGRESS, transient=True):
        chunk = network_inputs(task, network, entries[first : first + CHUNK], folder)
        answer = model.predict_on_batch(chunk)
        if isinstance(answer, (list, tuple)):
            answer = dict(zip(model.output_names, answer, strict=True))
        answers.append(np.asarray(answer["probabilities"] if isinstance(answer, dict) else answer, np.float64))
    probabilities = np.concatenate(answers)
    expected = len(entries), len(task.labels)
    if probabilities.shape != expected or not np.allclose(probabilities.sum(axis=1), 1, atol=1e-3, rtol=0):
        raise TrainingError(
            f"{path} should answer probabilities {expected} that sum to 1 for each photograph, and answers "
            f"{probabilities.shape}: train it for these classes."
        )
    return probabilities


def _confounds(task: Task, entries: list[Entry], run: Run, judged: str) -> dict[str, Any]:
    if judged == "all":
        return {"not_measured": "the probes need the folder that training used, and this is another one."}
    trained = [entry for entry in _labelled(task, run.entries) if entry.split != "test"]
    found = confounds.measure(task.labels, task.image, trained, entries, run.seed)
    return {
        "trained_on": len(trained),
        "trained_sets": sorted({entry.sample.dataset for entry in trained}),
        "rows": [
            {"seen": seen, **row}
            for seen, probabilities in found.items()
            for row in _class_rows(task.labels, entries, probabilities, run.seed)
        ],
    }
