"""What the scenarios' tables have in common."""

from collections.abc import Iterable, Sequence

from rich.table import Table

from benchmarks.results import Result

Interval = tuple[float | None, float | None]


def table(head: Sequence[str], rows: Iterable[Sequence[str]], words: Sequence[str] = ()) -> Table:
    """A plain one; columns named in `words` are text, the others numbers."""
    made = Table(box=None, pad_edge=False)
    for name in head:
        made.add_column(name, justify="left" if name in ("task", "way", *words) else "right", no_wrap=name in words)
    for row in rows:
        made.add_row(*row)
    return made


def number(value: float | None, digits: int = 1) -> str:
    """The number, or – where the samples do not allow one."""
    return "–" if value is None else f"{value:.{digits}f}"


def interval(ends: Interval, digits: int = 1) -> str:
    """Both ends; one that lies beyond all samples is –."""
    return "–".join("?" if end is None else f"{end:.{digits}f}" for end in ends)


def server(results: Sequence[Result]) -> Table:
    """Where the time of one request went inside the server, on average: the last run of every way and load."""
    rows = {}
    for result in results:
        for run in result["runs"]:
            load = run.get("load", "")
            for model, step in run.get("server", {}).items():
                times = [number(step[f"{phase}_ms"]) for phase in ("queue", "input", "infer", "output")]
                key = result["task"], run["contender"], load, model
                rows[key] = (run["contender"], load, model, str(step["requests"]), number(step["batch"], 2), *times)
    head = ("way", "load", "inside the server", "requests", "batch", "queue ms", "input ms", "infer ms", "output ms")
    return table(head, rows.values(), words=("load", "inside the server"))
