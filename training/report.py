"""An evaluation as JSON, as a Markdown page, as a console table and as pictures, in `reports/<task>/`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from rich.console import Group
from rich.table import Table

from fovea import pixels
from training import report_classes, tables
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
        "the photographs that training had set aside"
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
    if report["shared_patients"]:
        blocks.append(f"**{report['shared_patients']}**")
    for segmenter in report["segmenters"]:
        blocks += _segmenter(segmenter)
    for classifier in report["classifiers"]:
        blocks += report_classes.blocks(classifier)
    if "confounds" in report:
        blocks += _confounds(report["confounds"])
    blocks += [
        "## Origin",
        f"Split manifest SHA-256 `{report['manifest_sha256']}`.",
        tables.table(
            ("data set", "licence", "training", "validation", "test"),
            [(name, s["licence"], s["train"], s["validation"], s["test"]) for name, s in report["sets"].items()],
        ),
    ]
    return "\n\n".join(blocks) + "\n"


def _segmenter(judged: dict[str, Any]) -> list[str]:
    pixels_ = {"network": f"{judged['side']}×{judged['side']}", "native": "native"}
    names = ("auc", "sensitivity", "specificity", "accuracy")
    rows: list[Sequence[object]] = []
    for row in judged["rows"]:
        figures = [tables.figure(row[name]) for name in names]
        error = f"{row['calibration_error']:.4f}" if "calibration_error" in row else "–"
        where = (*tables.scope(row), pixels_[row["resolution"]], row["rater"])
        rows.append((*where, tables.figure(row["dice"]), _spread(row), *figures, error))
    head = (*tables.SCOPE, "resolution", "rater", "Dice", "Dice per photograph (mean ± SD)", "AUC", *names[1:])
    return [
        f"## {judged['mask'].capitalize()}: `{judged['network']}`",
        "Pixels in the field of view only, pooled over the photographs. The threshold is the one with the best Dice on "
        f"*training* photographs, {judged['threshold']:.3f} of the probability as trained; it is folded into the "
        "network, which answers 0.5 there. The calibration error (expected, 15 bins) is that of the probability as "
        f"trained. {pixels_['network']} is the network's resolution, native the photograph's own. The second observer "
        "is a person who traced the same photographs, judged against the first as the network is.",
        tables.table((*head, "calibration error"), rows),
        f"![Worst, middle and best photograph]({judged['mask']}.png)",
        f"Weights SHA-256 `{judged['weights_sha256']}`.",
    ]


def _confounds(measured: dict[str, Any]) -> list[str]:
    title = "## Class and camera"
    if "not_measured" in measured:
        return [title, f"Not measured: {measured['not_measured']}"]
    overall = {row["seen"]: row["macro"]["auc"] for row in measured["rows"]}  # the last row of each joins all sets
    telling = [seen for seen, auc in overall.items() if auc and auc["value"] > CONFOUNDED_ABOVE]
    verdict = (
        f"**Class and camera are confounded in these data**: over all of them, the {' or the '.join(telling)} alone "
        f"passes an AUC of {CONFOUNDED_ABOVE}. The classifier's figures say little about photographs from elsewhere. "
        "The rows of one set show what is left in it: its own cameras, and colours that the disease itself changes."
        if telling
        else f"Over all data sets, no probe passes an AUC of {CONFOUNDED_ABOVE}."
    )
    rows = [
        (row["seen"], *tables.scope(row), tables.figure(row["macro"]["auc"]), tables.figure(row["macro"]["f1"]))
        for row in measured["rows"]
    ]
    return [
        title,
        "The same split, classified by a logistic regression that sees no detail: a 16×16 thumbnail and, where "
        "there is one, the outer ring of the field of view (from 94 % of its radius, with the outline's shape) "
        f"and the name of the data set. Trained on {measured['trained_on']} photographs of "
        f"{', '.join(measured['trained_sets'])}. {verdict}",
        tables.table(("seen", *tables.SCOPE, "macro AUC", "macro F1"), rows),
    ]


def headlines(report: dict[str, Any]) -> Group:
    """The headline figures for the console: a table of masks, one of classes; 80 columns hold either."""
    drawn: list[Table] = []
    if report["segmenters"]:
        masks = tables.console("vessels in the field of view", ("rater", "data", "n", "resolution"), ("Dice", "AUC"))
        for judged in report["segmenters"]:
            for row in judged["rows"]:
                who = judged["network"] if row["rater"] == "network" else row["rater"]
                masks.add_row(
                    who, *tables.brief(row), row["resolution"], *(tables.short(row[name]) for name in ("dice", "auc"))
                )
        drawn.append(masks)
    if report["classifiers"]:
        classes = tables.console("classes", ("by", "data", "n"), ("accuracy", "macro AUC"))
        named = [(judged["network"], row) for judged in report["classifiers"] for row in judged["rows"]]
        last = {row["seen"]: row for row in report.get("confounds", {}).get("rows", ())}  # over all sets
        named += [(f"only the {seen}", row) for seen, row in last.items()]
        for who, row in named:
            macro = row["macro"]
            classes.add_row(who, *tables.brief(row), tables.short(row["accuracy"]), tables.short(macro["auc"]))
        drawn.append(classes)
    return Group(*drawn)


def _spread(row: dict[str, Any]) -> str:
    return f"{row['dice_mean']:.4f}" + ("" if row["dice_sd"] is None else f" ± {row['dice_sd']:.4f}")


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
        for axes, title in zip(
            row, (example.title, "probability (0.5: the threshold)", "against the first observer"), strict=True
        ):
            axes.set_title(title, fontsize=9)
            axes.set_axis_off()
    colours = {"found": FOUND, "invented": FALSE, "missed": MISSED}
    handles = [Patch(facecolor=(r / 255, g / 255, b / 255), label=name) for name, (r, g, b) in colours.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9, facecolor="lightgrey")
    run.replace(path, lambda part: figure.savefig(part, dpi=120))
