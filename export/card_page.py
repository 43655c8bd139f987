"""The model card as a page."""

from collections.abc import Sequence
from typing import Any

CONFOUNDED_ABOVE = 0.8
"""A probe that sees nothing diagnostic and passes this macro AUC knows the camera."""


def as_markdown(card: dict[str, Any]) -> bytes:
    """The card as a page."""
    blocks = [
        f"# {card['network']}",
        f"{card['question']} One network of the task `{card['task']}`. **{card['use']}**",
        "## What goes in and out",
        _table(
            ["tensor", "type", "shape"],
            [[f"`{n}`", kind, " × ".join(map(str, shape))] for n, (kind, shape) in card["tensors"].items()],
        ),
        f"Normalisation is {card['normalisation']}. Preprocessing (`fovea.pixels`): "
        f"{', '.join(f'{name} {value}' for name, value in card['preprocessing'].items())}. "
        f"{card['parameters']:,} parameters, opset {card['opset']}, IR {card['ir_version']}, {card['bytes']:,} bytes, "
        f"SHA-256 `{card['sha256']}`.",
        *_training(card["training"]),
        *_evaluation(card["evaluation"]),
        *_limits(card),
        "## Parity with the framework",
        f"Largest |onnx − framework|; allowed {card['tolerance']['atol']:g} + "
        f"{card['tolerance']['rtol']:g} · |framework|. A mask is judged before rounding, a heat map relative to its "
        "maximum and against automatic differentiation.",
        _table(
            ["output", "pictures", "count", "batch", "largest"],
            [[x["output"], x["pictures"], x["count"], x["batch"], f"{x['largest']:.1e}"] for x in card["parity"]],
        ),
        *_precision(card["precision"]),
        "Made with " + ", ".join(f"{name} {number}" for name, number in card["made_with"].items()) + ".",
    ]
    return ("\n\n".join(blocks) + "\n").encode()


def _training(training: dict[str, Any] | None) -> list[str]:
    if training is None:
        return ["## Training", "No record of the training was found."]
    rows = [
        [name, sizes["licence"], sizes["train"], sizes["validation"], sizes["test"]]
        for name, sizes in training["data"]["sets"].items()
    ]
    folded = (
        f" The threshold {training['threshold_folded']:.3f}, best on the training photographs, is folded into the "
        "head: 0.5 is the operating point."
        if "threshold_folded" in training
        else ""
    )
    return [
        "## Training",
        f"{training['framework']}, seed {training['seed']}; {_schedule(training)}.{folded} Pictures as split in "
        f"the manifest (SHA-256 `{training['data']['manifest_sha256'][:16]}…`):",
        _table(["data set", "licence", "train", "validation", "test"], rows),
        *(
            ["One of these sets is for research only, and so are these weights."]
            if any("research" in str(row[1]) for row in rows)
            else []
        ),
        *_operation(training),
    ]


def _schedule(training: dict[str, Any]) -> str:
    if "schedule" in training:
        return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in training["schedule"].items())
    recipe = training["recipe"]
    stages = "; then ".join(
        f"{stage['epochs']} epochs of Adam at {stage['rate']:g}" + _learning(stage["trains"])
        for stage in training["stages"]
    )
    return (
        f"trunk {recipe['trunk']}, started from {training['start']}; {stages} at most, of which {training['epochs']} "
        f"were run; batches of {recipe['batch']}; loss {recipe['loss']}; the epoch with the lowest validation loss"
        + (f"; pictures prepared by {training['preparation']}" if training.get("preparation", "none") != "none" else "")
    )


def _learning(trains: int | None) -> str:
    if trains is None:
        return ""
    return f" on the head and the trunk's last {trains} layers" if trains else " on the head alone"


def _operation(training: dict[str, Any]) -> list[str]:
    """Temperature and operating points of a classifier."""
    if "temperature" not in training:
        return []
    said = f"The temperature {training['temperature']:.3f}, fitted on the validation split, is folded into the network."
    points = training["operating_points"]
    if not points:
        return ["## Operating points", said, "None: the validation split did not show both sick and healthy."]
    rows = [
        [point["name"], f"{point['threshold']:.4f}", f"{point['sensitivity']:.3f}", f"{point['specificity']:.3f}"]
        for point in points
    ]
    return [
        "## Operating points",
        f"{said} Something is found where 1 − P(healthy class) reaches the threshold; chosen on the validation split "
        f"({points[0]['positives']} with, {points[0]['negatives']} without), where sensitivity and specificity were:",
        _table(["name", "threshold", "sensitivity", "specificity"], rows),
    ]


def _evaluation(evaluation: dict[str, Any] | None) -> list[str]:
    if evaluation is None:
        return ["## Evaluation", "Not evaluated."]
    where = "the test split, which training never saw" if evaluation["judged"] == "test" else "data never trained on"
    head = f"On {where}; 95 % intervals over {evaluation['resamples']:,} resamples of patients."
    if "mask" in evaluation:
        rows = [
            [
                ", ".join(row["sets"]),
                row["resolution"],
                row["rater"],
                f"{row['photographs']} ({row['patients']})",
                *(_figure(row[name]) for name in ("dice", "auc", "sensitivity", "specificity")),
                f"{row['dice_mean']:.3f} ± {row['dice_sd']:.3f}" if row.get("dice_sd") is not None else "–",
            ]
            for row in evaluation["rows"]
        ]
        names = ["data", "resolution", "rater", "photographs (patients)", "Dice", "AUC", "sensitivity", "specificity"]
        return ["## Evaluation", f"In the field of view. {head}", _table([*names, "Dice per photograph"], rows)]
    rows = [
        [
            ", ".join(row["sets"]),
            f"{row['photographs']} ({row['patients']})",
            _figure(row["accuracy"]),
            *(_figure(row["macro"][name]) for name in ("precision", "recall", "f1", "auc", "average_precision")),
            ", ".join(row["absent"]) or "none",
        ]
        for row in evaluation["rows"]
    ]
    names = ["data", "pictures (patients)", "accuracy", "precision", "recall", "F1", "AUC", "AUC of precision, recall"]
    every = evaluation["rows"][-1]
    per_class = [
        [label, *(_figure(v[n]) for n in ("precision", "recall", "auc", "sensitivity_at_95"))]
        for label, v in every["by_class"].items()
    ]
    return [
        "## Evaluation",
        f"Macro averages of one class against the rest. {head}",
        _table([*names, "absent classes"], rows),
        _table(["class (all data)", "precision", "recall", "AUC", "sensitivity at 95 % specificity"], per_class),
        f"Calibration error (15 bins) {evaluation['calibration_error']['before']:.3f} before the temperature, "
        f"{evaluation['calibration_error']['after']:.3f} with it.",
    ]


def _precision(measured: dict[str, Any]) -> list[str]:
    if not measured:
        return []
    rows = [
        [
            row["hardware"],
            row["title"],
            f"{row['metric']} of {row['pictures']}",
            *("NaN" if row[name] is None else f"{row[name]:.4f}" for name in ("value", "share", "agrees")),
            "" if row["latency_ms"] is None else f"{row['latency_ms']:.1f}",
            "" if row["speed"] is None else f"{row['speed']:.2f} ×",
            row["verdict"],
        ]
        for row in measured["candidates"]
    ]
    head = ["hardware", "precision", "metric", "value", "of fp32", "agrees", "ms", "speed", "verdict"]
    served = ", ".join(
        f"{hardware} `{choice['graph']}`" + (f" in {choice['hint']}" if hardware == "openvino" else "")
        for hardware, choice in measured["choices"].items()
    )
    return [
        "## Precision",
        f"Served: {served}. Judged on held-out pictures (validation and test); latency of one picture on one thread of "
        f"{measured['measured_on']}, speed relative to fp32 on the same hardware; `agrees` is the share of "
        "classes, or of mask pixels, decided as in fp32.",
        _table(head, rows),
    ]


def _limits(card: dict[str, Any]) -> list[str]:
    """What the figures above do not say."""
    side = card["preprocessing"]["side"]
    blocks = [
        "## Known limits",
        *([card["training"]["recipe"]["caveat"]] if (card["training"] or {}).get("recipe", {}).get("caveat") else []),
        *([card["shared_patients"]] if card["shared_patients"] else []),
        f"It sees {side} × {side} pixels: what is thinner than one of those is lost, which the "
        "figures at native resolution, where there are any, show. Other cameras, populations and illnesses than those "
        "of the sets above are untried. It does not say when a photograph is unfit to be judged.",
    ]
    return blocks + _confounds(card["confounds"])


def _confounds(confounds: dict[str, Any] | None) -> list[str]:
    if not confounds or "rows" not in confounds:
        return []
    every = {row["seen"]: row for row in confounds["rows"]}  # the last row of each kind is over all sets
    rows = [[seen, _figure(row["macro"]["auc"])] for seen, row in every.items()]
    told = "How well the class can be told from what holds no diagnosis, by logistic regression on the same split:"
    if not any(row["macro"]["auc"] and row["macro"]["auc"]["value"] > CONFOUNDED_ABOVE for row in every.values()):
        return [told, _table(["seen", "macro AUC"], rows)]
    return [
        "**Class and camera are confounded.** Each class comes mostly from one camera, so that a network may recognise "
        f"the camera. {told}",
        _table(["seen", "macro AUC"], rows),
        "A figure above that is no better than these says nothing about disease. A photograph from another camera, of "
        "another population or with an illness that is none of the classes gets an answer all the same.",
    ]


def _figure(estimate: dict[str, Any] | None) -> str:
    if estimate is None:
        return "–"
    if estimate["low"] is None:
        return f"{estimate['value']:.3f}"
    return f"{estimate['value']:.3f} ({estimate['low']:.3f}–{estimate['high']:.3f})"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
