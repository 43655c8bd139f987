"""Many pictures, one row each: an unreadable one is a row with its reason, never a gap and never the others' end."""

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client import overlay
from fovea import answers
from fovea.answers import Answer
from fovea.client import AsyncClient, read
from fovea.errors import FoveaError, UsageError
from fovea.spec import Task

PICTURES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".ppm"}


@dataclass(frozen=True)
class Row:
    """One picture's outcome; `shares` are the masks' parts of the field of view, 0…1."""

    file: Path
    answer: Answer | None = None
    reason: str = ""
    shares: tuple[tuple[str, float], ...] = ()

    @property
    def status(self) -> str:
        return "ok" if self.answer else "error"


def find(paths: Sequence[Path]) -> list[Path]:
    """Files as given, folders as the pictures below them, in order and once each.

    Raises:
        UsageError: a folder holds no picture.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in PICTURES and p.is_file())
            if not inside:
                raise UsageError(f"The folder {path} holds no JPEG, PNG or TIFF picture: give another.")
            found |= dict.fromkeys(inside)
        else:
            found[path] = None
    return list(found)


async def ask(
    client: AsyncClient,
    task: Task,
    files: Sequence[Path],
    concurrency: int,
    overlays: Path | None,
    operating_point: str | None = None,
    release: str | None = None,
) -> AsyncIterator[tuple[int, Row]]:
    """Ask about every file, `concurrency` at a time; yields (position, row) as they finish.

    With `overlays`, each answer is drawn on its photograph into `<overlays>/<file stem>.png`.

    Raises:
        UsageError: an overlay cannot be written, or would overwrite one of the photographs.
    """
    names = _overlay_names(files, overlays)
    size = await client.together(task, concurrency, release=release)
    limit = asyncio.Semaphore(concurrency // size)

    async def some(positions: Sequence[int]) -> list[tuple[int, Row]]:
        async with limit:
            given = [files[position] for position in positions]
            asked = await client.ask_together(task, given, operating_point=operating_point, release=release)
            pictures = [overlays / names[position] if overlays else None for position in positions]
            rows = await asyncio.to_thread(lambda: list(map(_finish, given, asked, pictures)))
            return list(zip(positions, rows, strict=True))

    starts = range(0, len(files), size)
    pending = [asyncio.create_task(some(range(start, min(start + size, len(files))))) for start in starts]
    try:
        for finished in asyncio.as_completed(pending):
            for row in await finished:
                yield row
    finally:
        for unfinished in pending:
            unfinished.cancel()


def _finish(file: Path, outcome: Answer | FoveaError, picture: Path | None) -> Row:
    try:
        if isinstance(outcome, FoveaError):
            raise outcome
        encoded = read(file)
        shares = tuple((name, answers.share(mask, encoded, outcome.task)) for name, mask in outcome.masks.items())
        if picture is not None:
            overlay.save(picture, overlay.draw(encoded, outcome))
    except UsageError:
        raise
    except FoveaError as error:
        return Row(file, reason=str(error))
    return Row(file, outcome, shares=shares)


def _overlay_names(files: Sequence[Path], overlays: Path | None) -> list[str]:
    """`<stem>.png`, numbered from the second on where stems repeat, so that no overlay overwrites another.

    Raises:
        UsageError: an overlay would overwrite one of the photographs.
    """
    numbers: dict[str, int] = {}
    taken: dict[str, None] = {}
    for file in files:
        name = f"{file.stem}.png"
        while name in taken:
            numbers[file.stem] = numbers.get(file.stem, 1) + 1
            name = f"{file.stem}-{numbers[file.stem]}.png"
        taken[name] = None
    if overlays is not None:
        photographs = {file.resolve() for file in files}
        for name in taken:
            if (overlays / name).resolve() in photographs:
                raise UsageError(f"An overlay would overwrite the photograph {overlays / name}: choose another folder.")
    return list(taken)


def columns(task: Task) -> list[str]:
    """The CSV's header."""
    shares = [f"{mask.name}_percent" for mask in task.masks]
    classes = ["label", "probability", "operating_point", *task.labels] if task.labels else []
    return ["file", "status", "reason", *classes, *shares, "milliseconds"]


def cells(row: Row) -> list[str]:
    """What the CSV says of one picture; cells of a missing answer are left out."""
    start = [str(row.file), row.status, row.reason]
    if row.answer is None:
        return start
    probabilities = [] if row.answer.probabilities is None else row.answer.probabilities.tolist()
    point = row.answer.operating_point[0] if row.answer.operating_point else ""
    top = [] if row.answer.probability is None else [row.answer.label or "", f"{row.answer.probability:.6f}", point]
    shares = [f"{100 * value:.2f}" for _, value in row.shares]
    return [*start, *top, *(f"{p:.6f}" for p in probabilities), *shares, f"{row.answer.latency_ms:.1f}"]


def to_csv(task: Task, rows: Sequence[Row]) -> str:
    lines = io.StringIO()
    table = csv.writer(lines, lineterminator="\n")
    header = columns(task)
    table.writerow(header)
    for row in rows:
        filled = cells(row)
        table.writerow(filled + [""] * (len(header) - len(filled)))
    return lines.getvalue()


def to_evaluation(rows: Sequence[Row], paths: Sequence[Path]) -> str:
    """`name,ground_truth`: the picture below the folder it was found in, and the answered class.

    The column is called ground_truth by those who read such files; a picture without an answer has it empty.
    """
    lines = io.StringIO()
    table = csv.writer(lines, lineterminator="\n")
    table.writerow(("name", "ground_truth"))
    folders = [path for path in paths if path.is_dir()]
    for row in rows:
        home = next((folder for folder in folders if row.file.is_relative_to(folder)), row.file.parent)
        label = row.answer.label if row.answer else None
        table.writerow((row.file.relative_to(home).as_posix(), label or ""))
    return lines.getvalue()


def to_json(row: Row) -> str:
    """One line for programs."""
    value: dict[str, Any] = {"file": str(row.file), "status": row.status}
    if row.answer is None:
        value["reason"] = row.reason
    else:
        value |= row.answer.json() | {f"{name}_percent": round(100 * share, 2) for name, share in row.shares}
        value["milliseconds"] = round(row.answer.latency_ms, 1)
    return json.dumps(value)
