"""What the measurement of the peers says: images/s, ratios round by round, and whether the goals hold."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from benchmarks.peers.fleet import LIMIT, OURS
from benchmarks.results import Result, samples
from benchmarks.statistics import median_interval, percentile

IN_HOUSE = (LIMIT, OURS, "HTTP", "gRPC, fused")
FLASK = "Flask"

Key = tuple[str, str, int]
"""Contender, precision, concurrency."""
Interval = tuple[float, float, float]
"""Median, and its bootstrap 95 % interval."""


@dataclass(frozen=True)
class Line:
    """One contender at one concurrency, over all rounds. `of_ours` and `of_limit` compare with what we serve."""

    contender: str
    precision: str
    concurrency: int
    images_per_s: Interval
    of_ours: Interval
    of_limit: Interval
    p50_ms: float | None
    p95_ms: float | None
    memory_mib: int | None


@dataclass(frozen=True)
class Goal:
    """Ours ÷ the best peer of a kind at each concurrency, and which peer that was."""

    text: str
    least: float
    ratios: dict[int, tuple[Interval, str]]

    @property
    def missed(self) -> list[int]:
        return [concurrency for concurrency, (ratio, _) in self.ratios.items() if ratio[0] < self.least]


def rates(result: Result) -> dict[Key, dict[int, float]]:
    """Images/s by round, of all that were measured to the end."""
    failed = {(note["contender"], note["precision"]) for note in result["peers"] if note["reason"]}
    found: dict[Key, dict[int, float]] = defaultdict(dict)
    for run in result["runs"]:
        if (run["contender"], run["precision"]) not in failed:
            key = run["contender"], run["precision"], run["concurrency"]
            found[key][run["round"]] = len(run["latencies_ms"]) / run["seconds"]
    return dict(found)


def ratio(one: dict[int, float], other: dict[int, float]) -> Interval:
    """Of two contenders' rates, round by round, then the median: what slows a whole round cancels out."""
    return median_interval([one[turn] / other[turn] for turn in sorted(one.keys() & other.keys())])


def served(result: Result) -> str:
    """The precision that is served: "served", or "fp32" where that is the same."""
    return "served" if any(run["precision"] == "served" for run in result["runs"]) else "fp32"


def lines(result: Result) -> list[Line]:
    """By concurrency, the fastest first."""
    measured, ours = rates(result), served(result)
    runs: dict[Key, list[Result]] = defaultdict(list)
    for run in result["runs"]:
        runs[run["contender"], run["precision"], run["concurrency"]].append(run)
    found = []
    for key, own in measured.items():
        latencies, memory = samples(runs[key]), [run["memory_mib"] for run in runs[key] if run["memory_mib"]]
        found.append(
            Line(
                *key,
                images_per_s=median_interval(list(own.values())),
                of_ours=ratio(own, measured[OURS, ours, key[2]]),
                of_limit=ratio(own, measured[LIMIT, ours, key[2]]),
                p50_ms=percentile(latencies, 50),
                p95_ms=percentile(latencies, 95),
                memory_mib=max(memory, default=None),
            )
        )
    return sorted(found, key=lambda line: (line.concurrency, -line.images_per_s[0]))


def goals(result: Result) -> list[Goal]:
    """What was promised, as far as this result can tell."""
    measured, ours = rates(result), served(result)
    precisions = list(dict.fromkeys(run["precision"] for run in result["runs"]))
    asked = [(ours, precision, False, 1.0) for precision in precisions if precision == ours]
    asked += [(precision, precision, False, 1.0) for precision in precisions if precision != ours]
    asked += [(ours, "fp32", False, 2.5)] if ours != "fp32" else []
    asked += [(ours, "fp32", True, 8.0)]
    found = []
    for mine, theirs, flask, least in asked:
        ratios = {}
        for concurrency in sorted({key[2] for key in measured}):
            peers = {
                key: own
                for key, own in measured.items()
                if key[1:] == (theirs, concurrency) and key[0] not in IN_HOUSE and (key[0] == FLASK) == flask
            }
            if peers:
                best = max(peers, key=lambda key: median_interval(list(peers[key].values()))[0])
                ratios[concurrency] = ratio(measured[OURS, mine, concurrency], peers[best]), best[0]
        if ratios:
            other = FLASK if flask else "best peer"
            found.append(Goal(f"{OURS} ({mine}) ÷ {other} ({theirs})", least, ratios))
    return found


def shown(result: Result) -> Sequence[Table | Text]:
    """The lines, the goals, and the peers that are missing."""
    figures = Table(title=result["task"], box=None, pad_edge=False, title_justify="left")
    heads = (
        "in flight",
        "way",
        "precision",
        "images/s [95 %]",
        "× gRPC [95 %]",
        "× in process",
        "p50 ms",
        "p95 ms",
        "MiB",
    )
    for head in heads:
        figures.add_column(head, justify="left" if head in ("way", "precision") else "right", no_wrap=True)
    for line in lines(result):
        figures.add_row(
            str(line.concurrency),
            line.contender,
            line.precision,
            _between(line.images_per_s, 1),
            _between(line.of_ours, 2),
            f"{line.of_limit[0]:.2f}",
            *(f"{value:.1f}" if value is not None else "–" for value in (line.p50_ms, line.p95_ms)),
            str(line.memory_mib or "–"),
        )
    compared = Table(box=None, pad_edge=False)
    for head in ("goal", "in flight", "best", "ratio [95 %]", "at least", "held"):
        compared.add_column(head, justify="left" if head in ("goal", "best", "held") else "right", no_wrap=True)
    for goal in goals(result):
        for concurrency, (measured, best) in goal.ratios.items():
            held = "no" if concurrency in goal.missed else "yes"
            compared.add_row(goal.text, str(concurrency), best, _between(measured, 2), f"{goal.least:g}", held)
    missing = [
        Text(f"{note['contender']}, {note['precision']}: not measured. {note['reason']}")
        for note in result["peers"]
        if note["reason"]
    ]
    return [figures, Text(), compared, Text(), *missing]


def _between(value: Interval, digits: int) -> str:
    median, low, high = value
    return f"{median:.{digits}f} [{low:.{digits}f}–{high:.{digits}f}]"
