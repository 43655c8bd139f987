"""What a long measurement shows while it runs: on stderr, with the time that is left."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

MESSAGES = Console(stderr=True, highlight=False, soft_wrap=True)


class Bar:
    """`now` says what is being measured, `advance` that one part is done."""

    def __init__(self, progress: Progress, line: TaskID) -> None:
        self._progress, self._line = progress, line

    def now(self, text: str) -> None:
        self._progress.update(self._line, description=text)

    def advance(self, parts: float = 1) -> None:
        self._progress.advance(self._line, parts)


@contextmanager
def bar(total: float) -> Iterator[Bar]:
    """A bar of so many parts; it is gone when they are done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("left"))
    with Progress(*columns, TimeRemainingColumn(), console=MESSAGES, transient=True) as progress:
        yield Bar(progress, progress.add_task("", total=total))
