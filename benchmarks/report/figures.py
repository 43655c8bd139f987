"""Plots of results, one function a question."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, median

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.peers import verdict
from benchmarks.results import Result, samples
from benchmarks.scenarios import sweep, tune
from benchmarks.scenarios.growth import UNITS
from benchmarks.scenarios.multi import LIMIT, lines
from benchmarks.statistics import percentile

COLOURS = {LIMIT: "0.4", "gRPC": "tab:blue", "HTTP": "tab:orange", "gRPC, fused": "tab:green"}
STYLES = {1: "-", 2: "--", 4: ":", 8: "-."}
Found = Mapping[str, Sequence[Result]]


def committed(found: Found) -> dict[str, Figure]:
    """The plots that README and docs show, by name."""
    plots = {"latency": latency(found["multi"])}
    if "growth" in found:
        plots["growth"] = growth(found["growth"])
    return plots


def source(found: Found) -> str:
    """SHA-256 of the results a plot was made from."""
    return hashlib.sha256(json.dumps({name: list(found[name]) for name in sorted(found)}).encode()).hexdigest()


def save(figure: Figure, path: Path, found: Found) -> None:
    """As PNG, with the hash of its results inside."""
    figure.savefig(path, dpi=110, metadata={"Description": source(found), "Software": None})


def made_from(path: Path) -> str:
    """The hash that `save` put into a plot."""
    with Image.open(path) as picture:
        return str(picture.info["Description"])


def latency(results: Sequence[Result]) -> Figure:
    """Per task: the cumulative distribution of every sample's latency, at each number of requests in flight."""
    figure, axes = _panels(len(results))
    for axis, result in zip(axes, results, strict=True):
        grouped: dict[tuple[str, int], list[Result]] = defaultdict(list)
        for run in result["runs"]:
            grouped[run["contender"], run["concurrency"]].append(run)
        for (name, concurrency), runs in sorted(grouped.items(), key=lambda item: item[0][1]):
            style, label = STYLES.get(concurrency, "-"), f"{name} × {concurrency}"
            axis.ecdf(samples(runs), color=COLOURS.get(name), linestyle=style, label=label)
        axis.set(title=result["task"], xlabel="latency [ms]", ylabel="share of requests", xlim=(0, None))
        axis.grid(alpha=0.3)
    axes[-1].legend(fontsize="x-small", loc="lower right")
    return figure


def throughput(results: Sequence[Result]) -> Figure:
    """Per task: what more requests in flight buy (images/s) and cost (median latency)."""
    figure, axes = _panels(len(results))
    for axis, result in zip(axes, results, strict=True):
        every = lines(result)
        for name in dict.fromkeys(line.contender for line in every):
            own = [line for line in every if line.contender == name]
            rates, medians = [line.images_per_s for line in own], [line.percentiles_ms[50] or 0 for line in own]
            axis.plot(rates, medians, "o-", color=COLOURS.get(name), label=name, markersize=4)
            for line in own:
                place = line.images_per_s, line.percentiles_ms[50] or 0
                axis.annotate(str(line.concurrency), place, (3, 3), textcoords="offset points", fontsize=7)
        axis.set(title=result["task"], xlabel="images/s", ylabel="median latency [ms]", ylim=(0, None), xlim=(0, None))
        axis.grid(alpha=0.3)
    axes[-1].legend(fontsize="x-small", loc="upper left")
    return figure


def time_spent(results: Sequence[Result]) -> Figure:
    """Per task, over gRPC: the mean latency of a request, split into the server's steps, their queues, and the rest."""
    figure, axes = _panels(len(results))
    for axis, result in zip(axes, results, strict=True):
        counts = sorted({run["concurrency"] for run in result["runs"]})
        bottoms = np.zeros(len(counts))
        for name, times in _parts(result, counts).items():
            axis.bar([str(count) for count in counts], times, bottom=bottoms, label=name, width=0.6)
            bottoms += times
        axis.set(title=result["task"], xlabel="requests in flight", ylabel="mean latency [ms]")
        axis.legend(fontsize="x-small", loc="upper left")
    return figure


def _parts(result: Result, counts: Sequence[int]) -> dict[str, list[float]]:
    """Part → its milliseconds at each number of requests in flight."""
    parts: dict[str, list[float]] = defaultdict(list)
    for count in counts:
        runs = [run for run in result["runs"] if run["contender"] == "gRPC" and run["concurrency"] == count]
        steps = [name for name in runs[0]["server"] if name != result["task"]]
        spent = {name: mean(run["server"][name]["infer_ms"] for run in runs) for name in steps}
        queued = sum(mean(run["server"][name]["queue_ms"] for run in runs) for name in steps)
        copied = sum(
            mean(run["server"][name]["input_ms"] + run["server"][name]["output_ms"] for run in runs) for name in steps
        )
        rest = mean(samples(runs)) - sum(spent.values()) - queued - copied
        for name, time in (*spent.items(), ("queues", queued), ("tensors in and out", copied)):
            parts[name].append(time)
        parts["client and network"].append(max(rest, 0.0))
    return dict(parts)


def peers(results: Sequence[Result]) -> Figure:
    """Per task and precision: images per second of every contender at each number of requests in flight."""
    groups = [(result, each) for result in results for each in dict.fromkeys(x["precision"] for x in result["runs"])]
    figure, axes = _panels(len(groups))
    for axis, (result, precision) in zip(axes, groups, strict=True):
        every = [line for line in verdict.lines(result) if line.precision == precision]
        for name in dict.fromkeys(line.contender for line in every):
            own = sorted((line for line in every if line.contender == name), key=lambda line: line.concurrency)
            style = "o-" if name in verdict.IN_HOUSE else "s--"
            rates = [line.images_per_s[0] for line in own]
            axis.plot([x.concurrency for x in own], rates, style, color=COLOURS.get(name), label=name, markersize=4)
        axis.set(title=f"{result['task']}, {precision}", xlabel="requests in flight", ylabel="images/s", ylim=(0, None))
        axis.grid(alpha=0.3)
        axis.legend(fontsize="x-small")
    return figure


def precision(results: Sequence[Result]) -> Figure:
    """Per task: what engine and precision give, as an ensemble over gRPC, at the concurrency that suits each."""
    figure, axes = _panels(len(results))
    for axis, result in zip(axes, results, strict=True):
        rates: dict[str, float] = {}
        for cell, rate in sweep.rates(result).items():
            if (cell.design, cell.way) == ("ensemble", "gRPC"):
                rates[cell.variant] = max(rates.get(cell.variant, 0), rate)
        ordered = sorted(rates, key=rates.__getitem__)
        bars = axis.barh(ordered, [rates[name] for name in ordered], color="tab:blue")
        axis.bar_label(bars, fmt="%.1f", padding=2, fontsize=8)
        axis.set(title=result["task"], xlabel="images/s")
        axis.margins(x=0.15)
    return figure


def coldstart(results: Sequence[Result]) -> Figure:
    """Seconds from the start of the process to the first correct answer, by phase."""
    figure, (axis,) = _panels(1)
    bars = [(result, kind) for result in results for kind in dict.fromkeys(run["contender"] for run in result["runs"])]
    names, lefts = [f"{result['task']}, {kind}" for result, kind in bars], np.zeros(len(bars))
    instants = ("python_s", "models_s", "answered_s")
    for number, (name, end) in enumerate(zip(("Python", "models", "first answer"), instants, strict=True)):
        begin = instants[number - 1] if number else None
        times = [
            median(run[end] - (run[begin] if begin else 0) for run in result["runs"] if run["contender"] == kind)
            for result, kind in bars
        ]
        axis.barh(names, times, left=lefts, label=name)
        lefts += times
    axis.set(xlabel="seconds")
    axis.legend(fontsize="small")
    return figure


def server(results: Sequence[Result]) -> Figure:
    """Per task: p99 from the schedule at every rate that was tried, and the bound."""
    figure, axes = _panels(len(results))
    for axis, result in zip(axes, results, strict=True):
        for name in dict.fromkeys(run["contender"] for run in result["runs"]):
            points = []
            for run in (run for run in result["runs"] if run["contender"] == name):
                waited = [
                    1e3 * (end - scheduled)
                    for scheduled, end, outcome in zip(run["scheduled_s"], run["ended_s"], run["outcome"], strict=True)
                    if outcome == "answered"
                ][run["warm_up"] :]
                points.append((run["rate_per_s"], percentile(waited, 99)))
            known = sorted((rate, p99) for rate, p99 in points if p99 is not None)
            rates, p99s = [rate for rate, _ in known], [p99 for _, p99 in known]
            axis.plot(rates, p99s, "o-", color=COLOURS.get(name), label=name)
        axis.axhline(result["settings"]["bound_ms"], color="tab:red", linestyle="--", label="bound")
        axis.set(
            title=result["task"], xlabel="pictures/s that arrive", ylabel="p99 from the schedule [ms]", yscale="log"
        )
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize="x-small")
    return figure


def pareto(results: Sequence[Result]) -> Figure:
    """Per task: throughput against p99 of what the tuner looked at, the front joined by a line."""
    figure, axes = _panels(len(results))
    for axis, result in zip(axes, results, strict=True):
        every, edge, best = tune.points(result), tune.front(result), tune.chosen(result)
        for name in dict.fromkeys(point.key for point in every):
            own = [point for point in every if point.key == name]
            label = f"{name[0]}, {name[1]} × {name[2]}" + (f", {name[3]} µs" if name[3] is not None else "")
            axis.plot([p.images_per_s for p in own], [p.p99_ms for p in own], "o", label=label, markersize=4)
        axis.plot([p.images_per_s for p in edge], [p.p99_ms for p in edge], "-", color="0.5", zorder=0)
        if best is not None:
            axis.plot(best.images_per_s, best.p99_ms, "o", mfc="none", color="tab:red", markersize=11, label="chosen")
        axis.axhline(result["settings"]["slo_ms"], color="tab:red", linestyle="--", linewidth=1)
        axis.set(title=result["task"], xlabel="images/s", ylabel="p99 [ms]", ylim=(0, None))
        axis.grid(alpha=0.3)
        axis.legend(fontsize="x-small")
    return figure


def growth(results: Sequence[Result]) -> Figure:
    """Images per second as pictures, batches, clients and loaded tasks grow."""
    figure, axes = _panels(len(UNITS), columns=4)
    for axis, (series, unit) in zip(axes, UNITS.items(), strict=True):
        for result in results:
            own = [run for run in result["runs"] if run["series"] == series]
            rates = [run["pictures"] / run["seconds"] for run in own]
            axis.plot([run["value"] for run in own], rates, "o-", label=result["task"], markersize=4)
        axis.set(xlabel=unit, ylabel="images/s", ylim=(0, None))
        if series != "tasks":
            axis.set_xscale("log", base=2)
        steps = sorted({run["value"] for result in results for run in result["runs"] if run["series"] == series})
        axis.set_xticks(steps, [str(step) for step in steps])
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize="small")
    return figure


def _panels(count: int, columns: int = 3) -> tuple[Figure, Sequence[Axes]]:
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=((5 if columns < 4 else 3.6) * columns, 3.6 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for unused in axes[count:]:
        unused.set_axis_off()
    return figure, axes[:count]


PLOTS: dict[str, Sequence[Callable[[Sequence[Result]], Figure]]] = {
    "multi": (latency, throughput, time_spent),
    "server": (server,),
    "peers": (peers,),
    "sweep": (precision,),
    "coldstart": (coldstart,),
    "tune": (pareto,),
    "growth": (growth,),
}
"""Scenario → what is drawn of it."""
