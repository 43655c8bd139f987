"""Two results of the same scenario side by side: faster, slower, or no difference that can be told from noise."""

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console, Group

from benchmarks import progress, results, tables
from benchmarks.metrics import Metric, metrics
from benchmarks.results import Result
from fovea.errors import UsageError

MACHINE = ("cpu", "cpu_flags", "cores", "cgroup_cpu_max", "memory_gib", "gpu")
"""What must be the same for figures to be compared at all; what else differs is what may be compared."""
COMPARED = ("hardware", "graphs")
"""Settings that say what was measured; the others say how."""
TOLERATED = 0.10
"""A change for the worse by more than this ends with code 1, if it can be told from noise."""
ENDS = (0.5, 99.5)
"""Percentiles of the resampled changes: a difference is told when zero lies outside."""

Decision = Literal["faster", "slower", "no difference that can be told"]


@dataclass(frozen=True)
class Change:
    """One number of two results; changes are relative, positive where B's number is the larger one.

    Attributes:
        low, high: the 99 % interval of the change, by resampling both results.
        noise: the largest change between two halves of one and the same result.
        regression: slower, told from noise, and by more than `TOLERATED`.
    """

    scenario: str
    task: str
    way: str
    load: str
    metric: str
    a: float
    b: float
    change: float
    low: float
    high: float
    noise: float
    decision: Decision
    regression: bool


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", type=Path, metavar="A", help="a result, or a folder of results: what was")
    parser.add_argument("b", type=Path, metavar="B", help="the same of what is now")
    parser.add_argument("--anyway", action="store_true", help="compare results of different machines or loads")
    parser.add_argument("--json", action="store_true", help="print the changes, not their table")


def run(options: argparse.Namespace) -> int:
    """Compare what both have of the same scenario and task; 1 where something became slower."""
    changes: list[Change] = []
    for a, b in pairs(options.a, options.b):
        for sentence in differences(a, b, anyway=options.anyway):
            progress.MESSAGES.print(sentence, markup=False)
        changes += compared(a, b)
    if options.json:
        print(json.dumps([asdict(change) for change in changes]))
    else:
        Console().print(_table(changes))
    slower = [change for change in changes if change.regression]
    for change in slower:
        progress.MESSAGES.print(
            f"{change.scenario} {change.task}, {change.way}, {change.load}: {change.metric} went from {change.a:.4g} "
            f"to {change.b:.4g}, more than {TOLERATED:.0%} for the worse and more than noise.",
            markup=False,
        )
    return 1 if slower else 0


def pairs(a: Path, b: Path) -> Iterator[tuple[Result, Result]]:
    """What both hold of the same scenario and task, in order.

    Raises:
        UsageError: they have nothing in common, or one cannot be read or is unfinished.
    """
    first, second = _read(a), _read(b)
    common = [key for key in first if key in second]
    if not common:
        raise UsageError(
            f"{a} and {b} have no scenario and task in common ({_named(first)}; {_named(second)}): "
            "name two results of the same."
        )
    for key in sorted(first.keys() ^ second.keys()):
        where = a if key in first else b
        progress.MESSAGES.print(f"{' '.join(key)} is only in {where}: it is left out.", markup=False)
    for key in common:
        yield first[key], second[key]


def _read(path: Path) -> dict[tuple[str, str], Result]:
    files = sorted(path.rglob("*.json")) if path.is_dir() else [path]
    found = {}
    for file in files:
        if path.is_dir() and ".unfinished" in file.name:
            continue
        result = results.read(file)
        if "stopped" in result:
            raise UsageError(f"{file} is unfinished ({result['stopped']}): measure again.")
        found[result["scenario"], result["task"]] = result
    if not found:
        raise UsageError(f"{path} holds no results: name a result of python -m benchmarks, or a folder of them.")
    return found


def _named(found: Mapping[tuple[str, str], Result]) -> str:
    return ", ".join(" ".join(key) for key in found)


def differences(a: Result, b: Result, *, anyway: bool) -> list[str]:
    """A sentence for each thing that differs beside the figures.

    Raises:
        UsageError: machine or load differ, and not `anyway`.
    """
    what = f"{a['scenario']} {a['task']}"
    settings = [name for name in {**a["settings"], **b["settings"]} if name not in COMPARED]
    hindering = list(_unlike(a["environment"], b["environment"], MACHINE))
    hindering += _unlike(a["settings"], b["settings"], settings)
    if hindering and not anyway:
        raise UsageError(
            f"{what} was measured on different machines or with different loads ({'; '.join(hindering)}): "
            "measure both alike, or say --anyway."
        )
    others = sorted({*a["environment"], *b["environment"]} - {*MACHINE, "sha256"})
    allowed = [*_unlike(a["environment"], b["environment"], others), *_unlike(a["settings"], b["settings"], COMPARED)]
    graphs = _unlike(a["environment"].get("sha256", {}), b["environment"].get("sha256", {}), _files(a, b))
    if changed := [line.partition(":")[0] for line in graphs]:
        allowed.append(f"{len(changed)} files ({', '.join(changed)})")
    return [f"{what} differs in {difference}." for difference in (*hindering, *allowed)]


def _files(a: Result, b: Result) -> list[str]:
    return sorted({*a["environment"].get("sha256", {}), *b["environment"].get("sha256", {})})


def _unlike(a: Mapping[str, Any], b: Mapping[str, Any], names: Sequence[str]) -> Iterator[str]:
    for name in names:
        if a.get(name) != b.get(name):
            yield f"{name}: {a.get(name, 'nothing')} and {b.get(name, 'nothing')}"


def compared(a: Result, b: Result) -> list[Change]:
    """Every number that both results have, by way and load."""
    first, second = metrics(a, seed=1), metrics(b, seed=2)
    found = []
    for place in first:
        after = {metric.name: metric for metric in second.get(place, ())}
        for before in first[place]:
            if before.name in after:
                found.append(_change((a["scenario"], a["task"], *place), before, after[before.name]))
    return found


def _change(place: tuple[str, str, str, str], a: Metric, b: Metric) -> Change:
    ratio = math.log(b.value / a.value)
    low, high = np.percentile(np.log(b.draws) - np.log(a.draws), ENDS)
    noise = max(a.noise, b.noise)
    is_told = (low > 0 or high < 0) and abs(ratio) > noise
    better = (ratio > 0) == a.higher_is_better
    decision: Decision = ("faster" if better else "slower") if is_told else "no difference that can be told"
    # Half the speed and double the time are the same loss: of a rate, the time it stands for counts.
    worse = math.expm1(-ratio if a.higher_is_better else ratio)
    return Change(
        *place,
        metric=a.name,
        a=a.value,
        b=b.value,
        change=math.expm1(ratio),
        low=math.expm1(float(low)),
        high=math.expm1(float(high)),
        noise=math.expm1(noise),
        decision=decision,
        regression=decision == "slower" and worse > TOLERATED,
    )


HEAD = ("way", "load", "number", "A", "B", "change", "[99 %]", "noise", "")


def _table(changes: Sequence[Change]) -> Group:
    """One table a scenario and task; what cannot be told from noise is left without a word."""
    parts: list[Any] = []
    for (scenario, task), some in groupby(changes, key=lambda change: (change.scenario, change.task)):
        rows = [
            (
                *(change.way, change.load, change.metric, f"{change.a:.4g}", f"{change.b:.4g}"),
                *(f"{change.change:+.0%}", f"{100 * change.low:+.0f}…{change.high:+.0%}", f"{change.noise:.0%}"),
                change.decision if change.decision in ("faster", "slower") else "",
            )
            for change in some
        ]
        parts += [f"{scenario} {task}", tables.table(HEAD, rows, words=("load", "number", "")), ""]
    return Group(*parts, "Without a word: no difference that can be told.")
