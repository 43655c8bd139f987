"""The part of an evaluation that is about classes: the page's tables, confusion, curves, reliability."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from training import tables
from training.metrics import Values, calibration_error, wilson
from training.run import Run


def blocks(judged: dict[str, Any]) -> list[str]:
    """The page's part about one classifier."""
    names = ("precision", "recall", "f1", "auc", "average_precision", "sensitivity_at_95")
    columns = ("precision", "recall", "F1", "AUC", "AUC of precision and recall", "sensitivity at 95 % specificity")
    heads: list[Sequence[object]] = []
    each: list[Sequence[object]] = []
    for row in judged["rows"]:
        macro = [tables.figure(row["macro"][name]) for name in names]
        heads.append((*tables.scope(row), tables.figure(row["accuracy"]), *macro, f"{row['calibration_error']:.4f}"))
        for label, counts in zip(judged["labels"], row["confusion"], strict=True):
            scores = row["by_class"].get(label)
            figures = [tables.figure(scores[name]) if scores else "absent" for name in names]
            each.append((", ".join(row["sets"]), label, sum(counts), *figures))
    head = (*tables.SCOPE, "accuracy", *(f"macro {column}" for column in columns), "calibration error")
    return [
        f"## Classes: `{judged['network']}`",
        "Macro figures are means over the classes that the data sets of the row have, one against the rest; a class "
        "that is never answered has precision 0. The calibration error (expected, 15 bins) is that of the top class.",
        tables.table(head, heads),
        tables.table(("data sets", "class", "photographs", *columns), each),
        "![Confusion matrix](confusion.png) ![ROC and precision-recall curves](curves.png)",
        "### Calibration",
        f"The temperature {judged['temperature']:.3f}, fitted on the validation split, is folded into the network. "
        f"Calibration error before it {judged['calibration_error']['before']:.4f}, with it "
        f"{judged['calibration_error']['after']:.4f}.",
        "![Reliability](reliability.png)",
        *_operating_points(judged),
        f"Weights SHA-256 `{judged['weights_sha256']}`.",
    ]


def _operating_points(judged: dict[str, Any]) -> list[str]:
    if not judged["operating_points"]:
        return ["No operating points: the validation split did not show both sick and healthy."]
    rows = []
    for point in judged["operating_points"]:
        shares = []
        for name in ("sensitivity", "specificity"):
            right, cases = point["judged"][name]
            low, high = wilson(right, cases) if cases else (0.0, 0.0)
            shares += [f"{point[name]:.3f}", f"{right / cases:.3f} ({low:.3f}–{high:.3f})" if cases else "–"]
        rows.append((point["name"], f"{point['threshold']:.4f}", *shares))
    head = ("operating point", "threshold", "sensitivity chosen", "here", "specificity chosen", "here")
    return [
        "### Operating points",
        f"Something is found where 1 − P({judged['healthy']}) reaches the threshold. Chosen on the validation split "
        f"({judged['operating_points'][0]['positives']} with, {judged['operating_points'][0]['negatives']} without); "
        "measured here, in brackets the Wilson interval over pictures, over all data sets.",
        tables.table(head, rows),
    ]


def draw(
    run: Run, folder: Path, name: str, labels: Sequence[str], row: dict[str, Any], truth: Sequence[str], answers: Values
) -> None:
    """`confusion.png` and `curves.png` of the scores in `row`; `answers`: probabilities `[len(truth), len(labels)]`."""
    title = f"{name}: {', '.join(row['sets'])}\n{row['photographs']} photographs, {row['patients']} patients"
    counts = np.array(row["confusion"])
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(6, 5.2), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (actual, answer), count in np.ndenumerate(counts):
        colour = "white" if share[actual, answer] > 0.5 else "black"
        axes.text(answer, actual, str(count), ha="center", va="center", color=colour, fontsize=12)
    axes.set_xticks(range(len(labels)), labels, rotation=20, ha="right")
    axes.set_yticks(range(len(labels)), [f"{x}\n(n = {n})" for x, n in zip(labels, counts.sum(axis=1), strict=True)])
    axes.set(xlabel="answer", ylabel="truth")
    axes.set_title(title, fontsize=10)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    run.replace(folder / "confusion.png", lambda part: figure.savefig(part, dpi=120))

    curves = Figure(figsize=(11, 5.6), layout="constrained")
    left, right = curves.subplots(1, 2)
    for label, score in row["by_class"].items():
        if score["auc"] is not None:
            actual, level = np.array(truth) == label, answers[:, labels.index(label)]
            false, true, _ = roc_curve(actual, level)
            left.plot(false, true, label=f"{label}  {tables.figure(score['auc'])}")
            precision, recall, _ = precision_recall_curve(actual, level)
            right.plot(recall, precision, drawstyle="steps-post", label=tables.figure(score["average_precision"]))
    left.plot([0, 1], [0, 1], color="grey", linestyle=":", label="chance")
    left.set(xlabel="1 − specificity", ylabel="sensitivity")
    right.set(xlabel="sensitivity (recall)", ylabel="precision")
    for axes, title_ in ((left, "AUC, one against the rest"), (right, "area under precision and recall")):
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
        axes.legend(loc="lower center", fontsize=8, title=title_, title_fontsize=8)
    curves.suptitle(title, fontsize=10)
    run.replace(folder / "curves.png", lambda part: curves.savefig(part, dpi=120))


def draw_reliability(run: Run, path: Path, name: str, bins: dict[str, Values]) -> None:
    """How often the top class was right against how probable it was said to be, and how many pictures each point has.

    `bins` are `metrics.confidence` `[bins, 3]` before and after the temperature.
    """
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    for axes, (when, counts) in zip(figure.subplots(1, 2), bins.items(), strict=True):
        filled = counts[counts[:, 0] > 0]
        share = filled[:, 1:] / filled[:, :1]  # [filled, (said, right)]
        axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
        axes.scatter(share[:, 0], share[:, 1], s=20 + 200 * filled[:, 0] / filled[:, 0].sum(), alpha=0.8)
        for (said, right), cases in zip(share, filled[:, 0], strict=True):
            axes.annotate(f"{cases:.0f}", (said, right), xytext=(5, -11), textcoords="offset points", fontsize=7)
        axes.set(xlim=(0, 1.02), ylim=(-0.02, 1.04), aspect="equal", xlabel="probability of the answer")
        axes.set_ylabel("share that was right")
        axes.set_title(f"{when} temperature scaling: calibration error {calibration_error(counts):.3f}", fontsize=9)
    figure.suptitle(f"{name}: reliability", fontsize=10)
    run.replace(path, lambda part: figure.savefig(part, dpi=120))
