"""The part of a Markdown page between its two markers: a table, and how it was measured."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers import verdict
from benchmarks.results import Result
from benchmarks.scenarios import offline
from benchmarks.scenarios.multi import Best, best, lines
from benchmarks.tables import number
from fovea.errors import UsageError

BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
HEAD = ("task", "way", "images/s [95 %]", "in flight", "× in process [95 %]", "p99 ms", "alone, p50 ms")


def between(page: Path, text: str) -> None:
    """Put `text` between the page's markers.

    Raises:
        UsageError: the page has lost them.
    """
    old = page.read_text(encoding="utf-8")
    if BEGIN not in old or END not in old:
        raise UsageError(f"{page} has lost the markers {BEGIN} and {END}: put them back where the table belongs.")
    before, _, rest = old.partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def markdown(results: Sequence[Result], together: Sequence[Result], peers: Sequence[Result]) -> str:
    """What `multi`, `offline` and `peers` say, in short."""
    parts = [_measured(results), table(HEAD, [_cells(each) for result in results for each in best(result)])]
    parts += [_cross_check(results)] if any(result["perf_analyzer"] for result in results) else []
    parts += ["![latency of every way, at each number of requests in flight](benchmarks/results/latency.png)"]
    parts += [_together(together)] if together else []
    parts += [_peers(result) for result in peers]
    return "\n\n".join(parts)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def machine(result: Result) -> str:
    """Where and with what a result was measured."""
    seen = result["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in seen["packages"].items())
    return (
        f"{seen['cores']} cores of {seen['cpu']} ({', '.join(seen['cpu_flags'])}), {seen['memory_gib']:g} GiB, "
        f"Python {seen['python']}, Triton {seen['triton']}, {versions}"
    )


def _measured(results: Sequence[Result]) -> str:
    first = results[0]
    settings = first["settings"]
    served = "; ".join(
        f"{result['task']} on {result['settings']['hardware']} ({', '.join(_graphs(result))})" for result in results
    )
    return (
        f"Measured {first['date']} on {machine(first)}; {settings['rounds']} interleaved rounds of "
        f"{settings['requests_per_round']} requests after {settings['warm_up_requests']} to warm up; "
        f"{settings['pictures']}; {settings['load']}; {settings['answers']}. Each way is shown at the number of "
        f"requests in flight that suits it best. Served: {served}."
    )


def _graphs(result: Result) -> list[str]:
    """The graph of every network, and OpenVINO's arithmetic for what is float in it."""
    return [
        f"{network} {graph}" + (f" in {arithmetic}" if result["settings"]["hardware"] == "openvino" else "")
        for network, (graph, arithmetic) in result["settings"]["graphs"].items()
    ]


def _cells(each: Best) -> tuple[str, ...]:
    low, high = each.interval
    ratio, least, most = each.ratio
    rate, compared = f"{each.images_per_s:.1f} [{low:.1f}–{high:.1f}]", f"{ratio:.2f} [{least:.2f}–{most:.2f}]"
    times = number(each.p99_ms), number(each.alone_ms)
    return each.task, each.contender, rate, str(each.concurrency), compared, *times


def _cross_check(results: Sequence[Result]) -> str:
    told = []
    for result in (result for result in results if result["perf_analyzer"]):
        checks = result["perf_analyzer"]
        ours = [line for line in lines(result) if line.contender == "gRPC"]
        alone = next(line for line in ours if line.concurrency == checks[0]["concurrency"])
        told.append(
            f"{result['task']}: p50 {checks[0]['p50_ms']:.1f} ms with {alone.concurrency} in flight "
            f"(ours {number(alone.percentiles_ms[50])}), at most {max(c['images_per_s'] for c in checks):.1f} images/s "
            f"(ours {max(line.images_per_s for line in ours):.1f})"
        )
    return "NVIDIA's perf_analyzer on the same server, over gRPC, after the rounds — " + "; ".join(told) + "."


def _together(results: Sequence[Result]) -> str:
    """Over gRPC, one picture a request and several."""
    rows = []
    for result in results:
        for line in offline.lines(result):
            if line.way in ("gRPC", "gRPC" + offline.TOGETHER):
                low, high = line.interval
                rate, (ratio, least, most) = f"{line.images_per_s:.1f} [{low:.1f}–{high:.1f}]", line.ratio
                rows.append((line.task, str(line.size), rate, f"{ratio:.2f} [{least:.2f}–{most:.2f}]"))
    in_flight = results[0]["settings"]["in_flight"]
    head = (f"`offline`, gRPC, {in_flight} on the way", "pictures a request", "images/s [95 %]", "× in process [95 %]")
    return table(head, rows) + "\n\nIn process, too, with as many at a time as is faster there."


def _peers(result: Result) -> str:
    """The fastest of each contender, best first, and those that are missing."""
    tops: dict[tuple[str, str], verdict.Line] = {}
    for line in verdict.lines(result):
        key = line.contender, line.precision
        if key not in tops or line.images_per_s[0] > tops[key].images_per_s[0]:
            tops[key] = line
    rows = [
        (
            line.contender,
            line.precision,
            f"{line.images_per_s[0]:.1f}",
            str(line.concurrency),
            f"{line.of_ours[0]:.2f} [{line.of_ours[1]:.2f}–{line.of_ours[2]:.2f}]",
            number(line.p50_ms),
            str(line.memory_mib or "–"),
        )
        for line in sorted(tops.values(), key=lambda line: -line.images_per_s[0])
    ]
    head = (f"`{result['task']}`, way", "precision", "images/s", "in flight", "× gRPC there", "p50 ms", "memory MiB")
    missing = [
        f"{note['contender']} ({note['precision']}): {note['reason']}" for note in result["peers"] if note["reason"]
    ]
    return table(head, rows) + ("\n\nNot measured — " + " ".join(missing) if missing else "")
