"""How figures are written: Markdown tables, console tables, a value with its interval."""

from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table

from training.metrics import RESAMPLES

SCOPE = ("data sets", "photographs", "patients")


def console(title: str, names: Sequence[str], figures: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold")
    for name in figures:
        table.add_column(name, justify="right")
    return table


def brief(row: dict[str, Any]) -> tuple[str, str]:
    return row["sets"][0] if len(row["sets"]) == 1 else "all", str(row["photographs"])


def short(estimate: dict[str, Any] | None) -> str:
    """0.80 (.78–.82): for a narrow console."""
    if estimate is None:
        return "–"
    low, high = estimate["low"], estimate["high"]
    between = "" if low is None else f" ({low:.2f}–{high:.2f})".replace("0.", ".")
    return f"{estimate['value']:.3f}{between}"


def scope(row: dict[str, Any]) -> tuple[str, int, int]:
    return ", ".join(row["sets"]), row["photographs"], row["patients"]


def figure(estimate: dict[str, Any] | None) -> str:
    if estimate is None:
        return "–"
    if estimate["low"] is None:
        return f"{estimate['value']:.4f} (one patient)"
    star = "*" if estimate["resamples"] < RESAMPLES else ""
    return f"{estimate['value']:.4f} ({estimate['low']:.4f}–{estimate['high']:.4f}){star}"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def seeds(results: dict[str, Any]) -> Table:
    """One line per seed of `training.repeats`, for the console."""
    drawn = console(results["task"], ("seed", "n"), ("accuracy", "macro AUC", "calibration error", "minutes"))
    for row in results["seeds"]:
        error = row["calibration_error"]
        drawn.add_row(
            str(row["seed"]),
            f"{row['pictures']} ({row['patients']})",
            short(row["accuracy"]),
            short(row["macro"]["auc"]),
            f"{error['before']:.3f} → {error['after']:.3f}",
            f"{row['seconds'] / 60:.0f}",
        )
    return drawn
