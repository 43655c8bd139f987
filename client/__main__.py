"""`python -m client <task> IMAGE…`: ask a running server about pictures and folders of pictures."""

import argparse
import asyncio
import errno
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from client import batch
from client.batch import Row
from fovea import program
from fovea.client import CONCURRENCY, TIMEOUT_S, AsyncClient
from fovea.errors import UsageError
from fovea.spec import Task
from fovea.tasks import TASKS, task_named

MESSAGES = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m client", description=__doc__)
    parser.add_argument("task", help=f"one of {', '.join(TASKS)}")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="picture files, or folders of them")
    parser.add_argument("--url", default="grpc://127.0.0.1:8001", help="grpc://host:port or http://host:port")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write every row, the failed ones too")
    parser.add_argument(
        "--evaluation",
        type=Path,
        metavar="FILE",
        help="write name,ground_truth (the answered class), and beside it FILE's stem + .full.csv with every column",
    )
    parser.add_argument(
        "--operating-point",
        metavar="NAME",
        help="decide by a threshold stored with the model (screening, balanced, confirmation)",
    )
    parser.add_argument("--release", metavar="NUMBER", help="ask this release, not the published one, to compare them")
    parser.add_argument("--overlay", type=Path, metavar="FOLDER", help="draw each answer on its photograph, as PNG")
    parser.add_argument("--json", action="store_true", help="one JSON object per picture on stdout, as they finish")
    parser.add_argument(
        "--concurrency", type=int, default=CONCURRENCY, help=f"pictures in flight at once ({CONCURRENCY})"
    )
    parser.add_argument("--timeout", type=float, default=TIMEOUT_S, help=f"seconds for one answer ({TIMEOUT_S:g})")
    return parser


def main() -> int:
    options = arguments().parse_args()
    return program.run(lambda: ask(options))


def ask(options: argparse.Namespace) -> int:
    """Ask about every picture, write what was asked for, and say how it went as an exit code."""
    task = task_named(options.task)
    files = batch.find(options.images)
    if options.concurrency < 1 or options.timeout <= 0:
        raise UsageError("--concurrency and --timeout must be greater than zero.")
    written = [path for path in (options.csv, options.evaluation) if path]
    if options.evaluation:
        written.append(_full(options.evaluation))
        if not task.labels:
            raise UsageError(f"Task {task.name} answers no class: --evaluation has nothing to write.")
    if len({path.resolve() for path in written}) < len(written):
        raise UsageError("--csv and --evaluation would write the same file: choose another name for one of them.")
    for path in written:
        _check(path)
    rows = asyncio.run(_rows(task, files, options))
    failed = [row for row in rows if row.answer is None]
    if not options.json:
        if len(failed) < len(rows):
            Console().print(table(task, rows))
        for row in failed:
            MESSAGES.print(f"{row.file}: {row.reason}", markup=False)
    if options.csv:
        _write(options.csv, batch.to_csv(task, rows))
    if options.evaluation:
        _write(_full(options.evaluation), batch.to_csv(task, rows))
        _write(options.evaluation, batch.to_evaluation(rows, options.images))
    if len(rows) < len(files):
        MESSAGES.print(f"Interrupted: {len(rows)} of {len(files)} pictures were answered.")
        return 130
    return 1 if failed else 0


async def _rows(task: Task, files: list[Path], options: argparse.Namespace) -> list[Row]:
    """All rows in the order of `files`; those there were, if interrupted."""
    rows: dict[int, Row] = {}
    columns = (TextColumn(task.name), BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn())
    try:
        async with AsyncClient(options.url, options.timeout) as client:
            await client.check(task, operating_point=options.operating_point, release=options.release)
            with Progress(*columns, console=MESSAGES, transient=True, disable=not MESSAGES.is_terminal) as bar:
                line = bar.add_task(task.name, total=len(files))
                asked = batch.ask(
                    client, task, files, options.concurrency, options.overlay, options.operating_point, options.release
                )
                async for position, row in asked:
                    rows[position] = row
                    bar.advance(line)
                    if options.json:
                        print(batch.to_json(row), flush=True)
    except (KeyboardInterrupt, asyncio.CancelledError):
        pass  # what was answered is not lost: the caller writes it and says so
    return [rows[position] for position in sorted(rows)]


def table(task: Task, rows: list[Row]) -> Table:
    """The answers for people; the CSV has every class and digit, and the pictures without an answer."""
    drawn = Table(box=None, pad_edge=False)
    drawn.add_column("file", overflow="fold")
    if task.labels:
        drawn.add_column("answer")
        drawn.add_column("probability", justify="right")
    for mask in task.masks:
        drawn.add_column(f"{mask.name} %", justify="right")
    drawn.add_column("ms", justify="right")
    for row in rows:
        if row.answer is None:
            continue
        answer = [row.answer.label or "", f"{row.answer.probability:.2f}"] if task.labels else []
        shares = [f"{100 * share:.1f}" for _, share in row.shares]
        drawn.add_row(_plain(row.file.name), *answer, *shares, f"{row.answer.latency_ms:.0f}")
    return drawn


def _plain(name: str) -> Text:
    """A file's name, neither markup nor emoji; what is no UTF-8 in it becomes a question mark."""
    return Text(name.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))


def _full(evaluation: Path) -> Path:
    """The CSV with every column that lies beside an evaluation."""
    return evaluation.with_name(f"{evaluation.stem}.full.csv")


def _check(path: Path) -> None:
    """Raise what writing the CSV would raise, before any picture is asked about."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise _unwritable(path, error) from None


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        # Names of files that are no UTF-8 stay as they are.
        part.write_text(text, encoding="utf-8", errors="surrogateescape")
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> UsageError:
    return UsageError(f"{path} cannot be written ({error.strerror}): choose another place for the CSV.")


if __name__ == "__main__":
    sys.exit(main())
