"""Results → the README's table and a plot. What is shown is computed from the raw samples, and nowhere else."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from benchmarks.statistics import median_interval, percentile
from fovea.errors import UsageError

BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
SCHEMA = 1
LIMIT = "in process"


@dataclass(frozen=True)
class Line:
    """One contender at one concurrency, over all rounds."""

    task: str
    contender: str
    concurrency: int
    images_per_s: float
    interval: tuple[float, float]
    ratio: float
    samples: int
    percentiles_ms: dict[int, float | None]


def load(folder: Path) -> list[dict[str, Any]]:
    """Every result in the folder, in order of task name; a folder of another schema is refused."""
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    if not results:
        raise UsageError(f"{folder} holds no results: run make bench.")
    for result in results:
        if result.get("schema") != SCHEMA:
            raise UsageError(f"{folder} holds results of schema {result.get('schema')}, not {SCHEMA}: measure again.")
    return results


def lines(result: dict[str, Any]) -> list[Line]:
    """Throughput as the median of rounds; its ratio to the in-process limit round by round, then the median."""
    grouped: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for run in result["runs"]:
        grouped[run["contender"], run["concurrency"]].append(run)
    found = []
    for (contender, concurrency), runs in sorted(grouped.items(), key=lambda item: (item[0][1], item[0][0] != LIMIT)):
        rates = [len(run["latencies_ms"]) / run["seconds"] for run in runs]
        limit = {run["round"]: len(run["latencies_ms"]) / run["seconds"] for run in grouped[LIMIT, concurrency]}
        samples = [latency for run in runs for latency in run["latencies_ms"]]
        median, low, high = median_interval(rates)
        ratio, _, _ = median_interval([rate / limit[run["round"]] for rate, run in zip(rates, runs, strict=True)])
        percentiles = {p: percentile(samples, p) for p in (50, 95, 99)}
        found.append(
            Line(result["task"], contender, concurrency, median, (low, high), ratio, len(samples), percentiles)
        )
    return found


HEAD = ("task", "concurrency", "way", "images/s", "[95 %]", "× in process", "p50 ms", "p95 ms", "p99 ms", "samples")


def cells(line: Line) -> tuple[str, ...]:
    p50, p95, p99 = (f"{value:.1f}" if value is not None else "–" for value in line.percentiles_ms.values())
    low, high = line.interval
    rate, interval = f"{line.images_per_s:.1f}", f"{low:.1f}–{high:.1f}"
    return line.task, str(line.concurrency), line.contender, rate, interval, f"{line.ratio:.2f}", p50, p95, p99, str(
        line.samples
    )  # fmt: skip


def console_table(results: Sequence[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in HEAD:
        table.add_column(name, justify="left" if name in ("task", "way") else "right")
    for result in results:
        for line in lines(result):
            table.add_row(*cells(line))
    return table


def markdown(results: Sequence[dict[str, Any]]) -> str:
    """The README's part between its two markers."""
    first = results[0]
    machine, settings = first["environment"], first["settings"]
    rows = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    rows += ["| " + " | ".join(cells(line)) + " |" for result in results for line in lines(result)]
    versions = ", ".join(f"{name} {number}" for name, number in machine["packages"].items())
    flags = ", ".join(machine["cpu_flags"])
    served = "; ".join(
        f"{result['task']} on {result['settings']['hardware']} ({', '.join(_graphs(result))})" for result in results
    )
    text = [
        f"Measured {first['date']} on {machine['cores']} cores of {machine['cpu']} ({flags}), "
        f"{machine['memory_gib']:g} GiB, Python {machine['python']}, Triton {machine['triton']}, {versions}; "
        f"{settings['rounds']} interleaved rounds of {settings['requests_per_round']} requests after "
        f"{settings['warm_up_requests']} to warm up; {settings['pictures']}; {settings['load']}; "
        f"{settings['answers']}. Served: {served}.",
        "\n".join(rows),
    ]
    checks = [(result["task"], lines(result), check) for result in results for check in result["perf_analyzer"]]
    if checks:
        told = []
        for task, measured, check in checks:
            ours = next(row for row in measured if row.contender == "gRPC" and row.concurrency == check["concurrency"])
            told.append(
                f"{task} × {check['concurrency']}: p50 {check['p50_ms']:.1f} ms (ours {ours.percentiles_ms[50]:.1f}), "
                f"{check['images_per_s']:.1f} images/s (ours {ours.images_per_s:.1f})"
            )
        text.append("NVIDIA's perf_analyzer on the same server, over gRPC — " + "; ".join(told) + ".")
    text.append("![images per second and latency](benchmarks/results/latency.png)")
    return "\n\n".join(text)


def _graphs(result: dict[str, Any]) -> list[str]:
    """The graph of every network, and OpenVINO's arithmetic for what is float in it."""
    return [
        f"{network} {graph}" + (f" in {arithmetic}" if result["settings"]["hardware"] == "openvino" else "")
        for network, (graph, arithmetic) in result["settings"]["graphs"].items()
    ]


def write(results: Sequence[dict[str, Any]], folder: Path, readme: Path) -> None:
    """Draw `latency.png` and put the table between the README's markers."""
    draw(results, folder / "latency.png")
    text = readme.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise UsageError(f"{readme} has lost the markers {BEGIN} and {END}: put them back where the table belongs.")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    readme.write_text(f"{before}{BEGIN}\n{markdown(results)}\n{END}{after}", encoding="utf-8")


def draw(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Per task: the cumulative distribution of every sample's latency, at each concurrency."""
    columns = min(3, len(results))
    rows = -(-len(results) // columns)
    figure = Figure(figsize=(5 * columns, 3.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()[: len(results)]
    colours = {LIMIT: "0.4", "gRPC": "tab:blue", "HTTP": "tab:orange", "gRPC, fused": "tab:green"}
    styles = {1: "-", 2: "--", 4: ":", 8: "-."}
    for axis, result in zip(axes, results, strict=True):
        samples: dict[tuple[str, int], list[float]] = defaultdict(list)
        for run in result["runs"]:
            samples[run["contender"], run["concurrency"]] += run["latencies_ms"]
        for (contender, concurrency), values in sorted(samples.items(), key=lambda item: item[0][1]):
            axis.ecdf(
                values,
                color=colours[contender],
                linestyle=styles.get(concurrency, "-"),
                label=f"{contender} × {concurrency}",
            )
        axis.set(title=result["task"], xlabel="latency [ms]", ylabel="share of requests", xlim=(0, None))
        axis.grid(alpha=0.3)
    axes[-1].legend(fontsize="x-small", loc="lower right")
    figure.savefig(path, dpi=110)
