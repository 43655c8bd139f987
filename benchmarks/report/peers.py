"""docs/peers.md: who answers how many at each number of requests in flight, and which goals that holds."""

from collections.abc import Sequence

from benchmarks.peers import verdict
from benchmarks.peers.fleet import LIMIT
from benchmarks.report import readme
from benchmarks.results import Result


def markdown(results: Sequence[Result]) -> str:
    """The part between the page's markers."""
    return "\n\n".join(part for result in results for part in (_by_load(result), _goals(result)))


def _by_load(result: Result) -> str:
    """Images per second; the most at each load, the limit aside, in bold."""
    every = verdict.lines(result)
    loads = sorted({line.concurrency for line in every})
    rates = {(line.contender, line.precision, line.concurrency): line.images_per_s[0] for line in every}
    ways = sorted({(line.contender, line.precision) for line in every}, key=lambda way: -rates[*way, loads[-1]])
    tops = {
        (precision, load): max(
            rates[each, precision, load] for each, other in ways if other == precision and each != LIMIT
        )
        for precision in {precision for _, precision in ways}
        for load in loads
    }

    def cell(way: str, precision: str, load: int) -> str:
        rate = f"{rates[way, precision, load]:.1f}"
        return f"**{rate}**" if rates[way, precision, load] == tops[precision, load] and way != LIMIT else rate

    head = (f"`{result['task']}`, images/s", "precision", *(f"{load} in flight" for load in loads))
    rows = [(way, precision, *(cell(way, precision, load) for load in loads)) for way, precision in ways]
    return readme.table(head, rows)


def _goals(result: Result) -> str:
    """The ratios, and whether they are what was aimed at."""
    rows = []
    for goal in verdict.goals(result):
        for load, ((ratio, low, high), best) in goal.ratios.items():
            held = "missed" if load in goal.missed else "met"
            rows.append((goal.text, str(load), best, f"{ratio:.2f} [{low:.2f}–{high:.2f}]", f"{goal.least:g}", held))
    return readme.table(("goal", "in flight", "best", "ratio [95 %]", "at least", ""), rows)
