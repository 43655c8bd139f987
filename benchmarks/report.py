"""Results → the README's table and a plot. What is shown is computed from the raw samples, and nowhere else."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.results import FOLDER, Result, load, samples
from benchmarks.scenarios.multi import HEAD, LIMIT, cells, lines
from fovea.errors import UsageError

BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"


def markdown(results: Sequence[Result]) -> str:
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


def _graphs(result: Result) -> list[str]:
    """The graph of every network, and OpenVINO's arithmetic for what is float in it."""
    return [
        f"{network} {graph}" + (f" in {arithmetic}" if result["settings"]["hardware"] == "openvino" else "")
        for network, (graph, arithmetic) in result["settings"]["graphs"].items()
    ]


def write(folder: Path = FOLDER, readme: Path = Path("README.md")) -> int:
    """Draw `latency.png` and put the table between the README's markers."""
    results = load(folder, "multi")
    draw(results, folder / "latency.png")
    text = readme.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise UsageError(f"{readme} has lost the markers {BEGIN} and {END}: put them back where the table belongs.")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    readme.write_text(f"{before}{BEGIN}\n{markdown(results)}\n{END}{after}", encoding="utf-8")
    return 0


def draw(results: Sequence[Result], path: Path) -> None:
    """Per task: the cumulative distribution of every sample's latency, at each concurrency."""
    columns = min(3, len(results))
    rows = -(-len(results) // columns)
    figure = Figure(figsize=(5 * columns, 3.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()[: len(results)]
    colours = {LIMIT: "0.4", "gRPC": "tab:blue", "HTTP": "tab:orange", "gRPC, fused": "tab:green"}
    styles = {1: "-", 2: "--", 4: ":", 8: "-."}
    for axis, result in zip(axes, results, strict=True):
        grouped: dict[tuple[str, int], list[Result]] = defaultdict(list)
        for run in result["runs"]:
            grouped[run["contender"], run["concurrency"]].append(run)
        for (contender, concurrency), runs in sorted(grouped.items(), key=lambda item: item[0][1]):
            axis.ecdf(
                samples(runs),
                color=colours[contender],
                linestyle=styles.get(concurrency, "-"),
                label=f"{contender} × {concurrency}",
            )
        axis.set(title=result["task"], xlabel="latency [ms]", ylabel="share of requests", xlim=(0, None))
        axis.grid(alpha=0.3)
    axes[-1].legend(fontsize="x-small", loc="lower right")
    figure.savefig(path, dpi=110)
