"""docs/capacity.md's figures: what growth costs, and how many machines so many pictures a second need."""

import math
from collections.abc import Sequence

from benchmarks.report.readme import machine, table
from benchmarks.results import Result
from benchmarks.scenarios import growth
from benchmarks.scenarios.multi import best

LOADS_PER_S = (10, 1_000, 100_000)
USED = 0.7
"""Share of its capacity that a machine is given: above, waiting grows without bound (docs/benchmarks.md, `server`)."""
PRICE = 0.05
"""Assumed, in $ a core and hour: about what clouds ask for a virtual core of a compute-optimised machine."""
HOURS = 730
"""In a month."""


def markdown(results: Sequence[Result], measured: Sequence[Result]) -> str:
    """Tables of growth as measured, then machines and money by arithmetic."""
    rows = [row for result in results for row in growth.rows(result)]
    rates = {result["task"]: next(b for b in best(result) if b.contender == "gRPC").images_per_s for result in measured}
    cores = measured[0]["environment"]["cores"]
    head = ("task", "images/s, measured", *(f"machines for {load:,}/s" for load in LOADS_PER_S), "$ a million pictures")
    machines = [(task, f"{rate:.0f}", *_needed(rate), f"{_price(rate, cores):.2f}") for task, rate in rates.items()]
    monthly = [
        (task, *(f"{_machines(rate, load) * cores * PRICE * HOURS:,.0f}" for load in LOADS_PER_S))
        for task, rate in rates.items()
    ]
    return "\n\n".join(
        [
            f"Measured {results[0]['date']} on {machine(results[0])}.",
            table(growth.HEAD, rows),
            "![images per second as pictures, batches, clients and tasks grow](../benchmarks/results/growth.png)",
            f"Machines of {cores} cores like this one, each given {USED:.0%} of what it can do:",
            table(head, machines),
            f"In $ a month, at an assumed ${PRICE:g} a core and hour:",
            table(("task", *(f"{load:,}/s" for load in LOADS_PER_S)), monthly),
        ]
    )


def _machines(rate: float, load: float) -> int:
    return math.ceil(load / (USED * rate))


def _needed(rate: float) -> list[str]:
    return [f"{_machines(rate, load):,}" for load in LOADS_PER_S]


def _price(rate: float, cores: int) -> float:
    """$ for a million pictures on machines that are always given `USED` of what they can do."""
    return 1e6 / (USED * rate) / 3600 * cores * PRICE
