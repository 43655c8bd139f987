"""`training/results/*.json` → the README's table of how good the classifiers are; nothing else is shown there."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fovea.tasks import TASKS
from training import tables

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def load(folder: Path) -> list[dict[str, Any]]:
    """The results of `--seeds`, in the order in which tasks are declared."""
    paths = [folder / f"{name}.json" for name in TASKS]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]


def markdown(results: Sequence[dict[str, Any]]) -> str:
    """The README's part between its two markers: a row per task and seed."""
    rows = []
    for result in results:
        for row in result["seeds"]:
            error, probes = row["calibration_error"], row["probes"].items()
            alone = max(((auc["value"], seen) for seen, auc in probes if auc), default=None)
            rows.append(
                (
                    f"`{result['task']}`",
                    row["seed"],
                    ", ".join(row["sets"]),
                    f"{row['pictures']} ({row['patients']})" + ("\\*" if row["shared_patients"] else ""),
                    _short(row["accuracy"]),
                    _short(row["macro"]["auc"]),
                    _short(row["macro"]["sensitivity_at_95"]),
                    f"{error['before']:.3f} → {error['after']:.3f}",
                    f"{alone[0]:.3f} ({alone[1]})" if alone else "–",
                    f"{row['seconds'] / 60:.0f}",
                )
            )
    head = (
        "task",
        "seed",
        "data",
        "test pictures (patients)",
        "accuracy",
        "macro AUC",
        "sensitivity at 95 % specificity",
        "calibration error before → after",
        "best probe's AUC",
        "minutes",
    )
    machines = {json.dumps(result["machine"], sort_keys=True): result["machine"] for result in results}
    told = "; ".join(
        f"{len(m['gpus'])} GPUs, {m['cores']} cores of {m['cpu']}, keras {m['keras']}, tensorflow {m['tensorflow']}"
        for m in machines.values()
    )
    return "\n\n".join([tables.table(head, rows), f"Trained on {told}."])


def _short(estimate: dict[str, Any] | None) -> str:
    return tables.short(estimate).replace("–.", "–0.").replace("(.", "(0.") if estimate else "–"


def write(folder: Path, readme: Path) -> None:
    """Put the table between the README's markers, where there is a README with markers."""
    if not readme.exists():
        return
    text = readme.read_text(encoding="utf-8")
    if BEGIN in text and END in text:
        before, _, rest = text.partition(BEGIN)
        readme.write_text(f"{before}{BEGIN}\n{markdown(load(folder))}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
