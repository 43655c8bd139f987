"""An evaluation as JSON, as a Markdown page, as a console table and as pictures, in `reports/<task>/`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from rich.table import Table
from sklearn.metrics import roc_curve

from fovea import pixels
from training.metrics import RESAMPLES
from training.run import Run

FOUND, FALSE, MISSED = (240, 240, 240), (230, 159, 0), (86, 180, 233)  # told apart by the colour-blind too
"""Colours of vessel pixels that the network found, invented and missed (doi:10.1038/nmeth.1618)."""
CONFOUNDED_ABOVE = 0.8


@dataclass(frozen=True)
class Example:
    """One judged photograph at the network's resolution, for the picture of masks."""

    title: str
    picture: pixels.Picture  # [side, side, 3]
    probability: npt.NDArray[np.float32]  # [side, side]
    truth: npt.NDArray[np.bool_]
    inside: npt.NDArray[np.bool_]


def write(run: Run, folder: Path, report: dict[str, Any]) -> None:
    """Write `report.json` and `report.md`; the pictures that the page shows are drawn by the functions below."""
    run.write_json(folder / "report.json", report)
    run.replace(folder / "report.md", lambda part: part.write_text(page(report), encoding="utf-8"))


def page(report: dict[str, Any]) -> str:
    """The Markdown page."""
    judged = (
        "the photographs that training had set aside (the split is by patient)"
        if report["judged"] == "test"
        else "every photograph of data that training has never seen"
    )
    blocks = [
        f"# Evaluation of `{report['task']}`",
        f"{report['question']}",
        f"Judged on {judged}. In brackets: 95 % percentile intervals over {report['resamples']:,} resamples of "
        f"*patients*, seed {report['seed']}. An asterisk marks a figure that some resamples did not have, because they "
        "drew no patient of a class; its interval is over the others. – is undefined. "
        "For research; not a medical device.",
    ]
    for segmenter in report["segmenters"]:
        blocks += _segmenter(segmenter)
    for classifier in report["classifiers"]:
        blocks += _classifier(classifier)
    if "confounds" in report:
        blocks += _confounds(report["confounds"])
    blocks += [
        "## Origin",
        f"Split manifest SHA-256 `{report['manifest_sha256']}`.",
        _table(
            ("data set", "licence", "training", "validation", "test"),
            [(name, s["licence"], s["train"], s["validation"], s["test"]) for name, s in report["sets"].items()],
        ),
    ]
    return "\n\n".join(blocks) + "\n"


def _segmenter(judged: dict[str, Any]) -> list[str]:
    side = judged["side"]
    rows = [
        (
            *_scope(row),
            f"{side}×{side}" if row["resolution"] == "network" else "native",
            row["rater"],
            _figure(row["dice"]),
            _spread(row),
            *(_figure(row[name]) for name in ("auc", "sensitivity", "specificity", "accuracy")),
        )
        for row in judged["rows"]
    ]
    head = ("data sets", "photographs", "patients", "resolution", "rater", "Dice", "Dice per photograph (mean ± SD)")
    errors = [(*_scope(row), f"{row['calibration_error']:.4f}") for row in judged["calibration"]]
    return [
        f"## {judged['mask'].capitalize()}: `{judged['network']}`",
        f"Pixels in the field of view only, pooled over the photographs. The threshold, {judged['threshold']:.3f} of "
        "the probability as trained, is the one with the best Dice on *training* photographs and is folded into the "
        f"network: it answers 0.5 there. Native is the photograph's own resolution; {side}×{side} is the network's. "
        "The second observer is a person who traced the same photographs, judged against the first. "
        f"Weights SHA-256 `{judged['weights_sha256']}`.",
        _table((*head, "AUC", "sensitivity", "specificity", "accuracy"), rows),
        "Expected calibration error of the pixels (15 bins, threshold unfolded):",
        _table(("data sets", "photographs", "patients", "calibration error"), errors),
        f"![Worst, middle and best photograph]({judged['mask']}.png)",
    ]


def _classifier(judged: dict[str, Any]) -> list[str]:
    names = ("precision", "recall", "f1", "auc")
    heads = [
        (*_scope(row), _figure(row["accuracy"]), *(_figure(row["macro"][name]) for name in names), _ece(row))
        for row in judged["rows"]
    ]
    each = [
        (*_scope(row)[:1], label, sum(row["confusion"][index]), *_one(row, label, names))
        for row in judged["rows"]
        for index, label in enumerate(judged["labels"])
    ]
    columns = ("precision", "recall", "F1", "AUC")
    return [
        f"## Classes: `{judged['network']}`",
        "Precision, recall, F1 and one-vs-rest AUC are means over the classes that the data sets in the row have; "
        "a class that is never answered has precision 0. "
        f"Weights SHA-256 `{judged['weights_sha256']}`.",
        _table(
            ("data sets", "photographs", "patients", "accuracy", *(f"macro {c}" for c in columns), "calibration error"),
            heads,
        ),
        _table(("data sets", "class", "photographs", *columns), each),
        "![Confusion matrix](confusion.png) ![ROC curves](roc.png)",
    ]


def _confounds(measured: dict[str, Any]) -> list[str]:
    title = "## Class and camera"
    if "not_measured" in measured:
        return [title, f"Not measured: {measured['not_measured']}"]
    overall = {row["seen"]: row["macro"]["auc"] for row in measured["rows"]}  # the last row of each joins all sets
    telling = [seen for seen, auc in overall.items() if auc and auc["value"] > CONFOUNDED_ABOVE]
    verdict = (
        f"**Class and camera are confounded in these data**: over all of them, the {' or the '.join(telling)} alone "
        f"passes an AUC of {CONFOUNDED_ABOVE}. The classifier's figures say little about another camera. Within one "
        "data set the camera is the same, but a thumbnail keeps colours that a disease may change."
        if telling
        else f"Over all data sets, no probe passes an AUC of {CONFOUNDED_ABOVE}."
    )
    rows = [
        (row["seen"], *_scope(row), _figure(row["macro"]["auc"]), _figure(row["macro"]["f1"]))
        for row in measured["rows"]
    ]
    return [
        title,
        "The same split, classified by a logistic regression that never sees the retina in detail: only the outer ring "
        "of the field of view (from 94 % of its radius, with the outline's shape), only a 16×16 thumbnail, only the "
        f"name of the data set. Trained on {measured['trained_on']} photographs of "
        f"{', '.join(measured['trained_sets'])}. {verdict}",
        _table(("seen", "data sets", "photographs", "patients", "macro AUC", "macro F1"), rows),
    ]


def headlines(report: dict[str, Any]) -> Table:
    """The headline figures for the console."""
    table = Table(title=f"{report['task']}, {report['judged']}", title_justify="left")
    for column in ("judged", "data sets", "photographs", "patients", "figure", "value (95 % interval)"):
        table.add_column(column, overflow="fold")
    for segmenter in report["segmenters"]:
        for row in segmenter["rows"]:
            who = segmenter["network"] if row["rater"] == "network" else row["rater"]
            table.add_row(who, *map(str, _scope(row)), f"Dice, {row['resolution']} pixels", _figure(row["dice"]))
            if row["auc"]:
                table.add_row(who, *map(str, _scope(row)), f"AUC, {row['resolution']} pixels", _figure(row["auc"]))
    for classifier in report["classifiers"]:
        for row in classifier["rows"]:
            figures = {"accuracy": row["accuracy"], "macro F1": row["macro"]["f1"], "macro AUC": row["macro"]["auc"]}
            for name, estimate in figures.items():
                table.add_row(classifier["network"], *map(str, _scope(row)), name, _figure(estimate))
    for row in report.get("confounds", {}).get("rows", ()):
        table.add_row(f"only the {row['seen']}", *map(str, _scope(row)), "macro AUC", _figure(row["macro"]["auc"]))
    return table


def _scope(row: dict[str, Any]) -> tuple[str, int, int]:
    return ", ".join(row["sets"]), row["photographs"], row["patients"]


def _figure(estimate: dict[str, Any] | None) -> str:
    if estimate is None:
        return "–"
    if estimate["low"] is None:
        return f"{estimate['value']:.4f} (one patient)"
    star = "*" if estimate["resamples"] < RESAMPLES else ""
    return f"{estimate['value']:.4f} ({estimate['low']:.4f}–{estimate['high']:.4f}){star}"


def _spread(row: dict[str, Any]) -> str:
    return f"{row['dice_mean']:.4f}" + ("" if row["dice_sd"] is None else f" ± {row['dice_sd']:.4f}")


def _ece(row: dict[str, Any]) -> str:
    return f"{row['calibration_error']:.4f}"


def _one(row: dict[str, Any], label: str, names: Sequence[str]) -> list[str]:
    if label in row["absent"]:
        return ["absent"] * len(names)
    return [_figure(row["by_class"][label][name]) for name in names]


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def draw_confusion(run: Run, path: Path, labels: Sequence[str], confusion: Sequence[Sequence[int]], title: str) -> None:
    """Counts, coloured by their share of the true class."""
    counts = np.array(confusion)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(6, 5.2), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if share[row, column] > 0.5 else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=12)
    axes.set_xticks(range(len(labels)), labels, rotation=20, ha="right")
    axes.set_yticks(range(len(labels)), [f"{x}\n(n = {n})" for x, n in zip(labels, counts.sum(axis=1), strict=True)])
    axes.set(xlabel="answer", ylabel="truth")
    axes.set_title(title, fontsize=10)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    run.replace(path, lambda part: figure.savefig(part, dpi=120))


def draw_roc(
    run: Run,
    path: Path,
    scores: dict[str, Any],
    labels: Sequence[str],
    truth: Sequence[str],
    probabilities: npt.NDArray[np.float64],
    title: str,
) -> None:
    """One-vs-rest curves of the classes that `truth` has; `probabilities` is `[len(truth), len(labels)]`."""
    figure = Figure(figsize=(6, 5.2), layout="constrained")
    axes = figure.subplots()
    actual = np.array(truth)
    for label, score in scores["by_class"].items():
        if score["auc"] is not None:
            false, true, _ = roc_curve(actual == label, probabilities[:, labels.index(label)])
            axes.plot(false, true, label=f"{label}  {_figure(score['auc'])}")
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="chance")
    axes.set(xlabel="1 − specificity", ylabel="sensitivity", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.set_title(title, fontsize=10)
    axes.legend(loc="lower right", fontsize=8)
    run.replace(path, lambda part: figure.savefig(part, dpi=120))


def draw_masks(run: Run, path: Path, examples: Sequence[Example]) -> None:
    """One row per photograph: the picture, the probability, and what was found, invented and missed."""
    figure = Figure(figsize=(9, 3.1 * len(examples) + 0.3), layout="constrained")
    for row, example in zip(figure.subplots(len(examples), 3, squeeze=False), examples, strict=True):
        claimed = (example.probability >= 0.5) & example.inside
        truth = example.truth & example.inside
        verdict = np.zeros((*truth.shape, 3), np.uint8)
        verdict[example.inside] = 24
        for colour, part in ((FOUND, claimed & truth), (FALSE, claimed & ~truth), (MISSED, truth & ~claimed)):
            verdict[part] = colour
        row[0].imshow(example.picture)
        row[1].imshow(np.where(example.inside, example.probability, 0), cmap="gray", vmin=0, vmax=1)
        row[2].imshow(verdict)
        for axes, title in zip(row, (example.title, "probability", "against the first observer"), strict=True):
            axes.set_title(title, fontsize=9)
            axes.set_axis_off()
    named = {"found": FOUND, "invented": FALSE, "missed": MISSED}
    handles = [Patch(facecolor="#%02x%02x%02x" % c, edgecolor="grey", label=name) for name, c in named.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9)
    run.replace(path, lambda part: figure.savefig(part, dpi=120))
