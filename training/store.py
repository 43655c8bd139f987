"""`python -m training.store import|export|stats`: move a labelled folder in and out of a MongoDB collection.

A store is `mongodb://[user:password@]host[:port]/database.collection` (`mongodb+srv://` too; without names it is
`fovea.images`), or a folder, which needs no server. Pictures lie in a labelled folder as `<label>/<picture>`. Nothing
that is there already is written again, so every command goes on where it was stopped.
"""

import argparse
import hashlib
import io
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from PIL import Image as Pillow
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from fovea import program
from fovea.errors import TrainingError, UnreadableImage, UsageError
from fovea.pixels import MIN_SIDE, decode
from training.datasets import MASK_FOLDERS, PICTURES
from training.store_access import SERVER, Documents, Store, opened, shown
from training.store_documents import (
    Description,
    Document,
    Fields,
    checked_label,
    describe,
    fits_in_a_path,
    look_up,
    picture_bytes,
)

CONSOLE = Console(stderr=True, highlight=False, markup=False, soft_wrap=True, emoji=False)
SUFFIXES = dict(JPEG=".jpg", MPO=".jpg", PNG=".png", TIFF=".tif", GIF=".gif", BMP=".bmp", PPM=".ppm", WEBP=".webp")
DEFAULT = "an address or a folder ($FOVEA_STORE, else data/store)"
DECIDE = "decide for one label and correct the other"
AT_ONCE = 32  # documents asked for with one question
MATERIALISED = re.compile(r"(.+__)?[0-9a-f]{16}\.\w+")

Names = Callable[[Description, str, str], Sequence[str]]
"""(description, SHA-256, ending of the file) → names for the file, the best first."""


@dataclass
class Tally:
    """How many pictures were moved, were there already, and could not be."""

    console: Console
    new: int = 0
    there: int = 0
    refused: int = 0

    def refuse(self, what: Path | Document, error: TrainingError) -> None:
        name = str(what) if isinstance(what, Path) else f"Document {what['_id']!a}"
        self.console.print(f"{name if name.isprintable() else ascii(name)}: {error}")
        self.refused += 1

    def __str__(self) -> str:
        return f"{self.new} new, {self.there} already there, {self.refused} refused"


def import_folder(folder: Path, address: str, *, gridfs: bool = False, console: Console = CONSOLE) -> Tally:
    """Put the pictures of a labelled folder into a store, each once, known by its SHA-256.

    Raises:
        UsageError: there is no such folder, the address is not understood, or a folder was asked for GridFS.
        TrainingError: the folder holds no pictures, or the store fails; what is in it stays.
    """
    if gridfs and not SERVER.match(address):
        raise UsageError(f"--gridfs needs a MongoDB server: {address} is a folder, which holds any size without it.")
    paths, tally, fields = _pictures(folder), Tally(console), Fields()
    with opened(address, write=True) as store, _bar(console) as bar:
        known = {str(look_up(had, fields.sha256)): look_up(had, fields.label) for _, had in _all(store, fields, bar)}
        for path in bar.track(paths, description="pictures"):
            try:
                document, encoded = _document(path)
                digest, label = document["sha256"], document["label"]
                if digest not in known and store.add(document, encoded, gridfs=gridfs):
                    tally.new += 1
                elif str(other := known[digest] if digest in known else store.label_of(digest)) == label:
                    tally.there += 1
                else:
                    raise TrainingError(f"The same picture is there with the label {other}: {DECIDE}.")
                known[digest] = label
            except TrainingError as error:
                tally.refuse(path, error)
    return tally


def export_folder(
    address: str, folder: Path, fields: Fields, names: Names, console: Console = CONSOLE
) -> tuple[Tally, set[Path]]:
    """Write the pictures of a store as `<label>/<name>`; files of that name with other content are left alone.

    Returns:
        The tally, and the files that hold the store's pictures now, whether written or there before.

    Raises:
        UsageError: there is no such store.
        TrainingError: the store fails, or the folder cannot be written; each file is whole or not there.
    """
    tally, kept, labels, wanted = Tally(console), set[Path](), dict[str, str](), list[tuple[Documents, Any]]()
    with opened(address) as store, _bar(console) as bar:
        fields = store.fields(fields)
        for shelf, document, said in _described(store, fields, bar, tally):
            if path := _already(said, folder, names, labels):
                tally.there += 1
                kept.add(path)
            else:
                wanted.append((shelf, document["_id"]))
        for document in _some(store, wanted, bar):
            try:
                said = describe(document, fields)
                encoded = picture_bytes(document, fields, store.download)
                digest = check(encoded, said.sha256)
                if labels.setdefault(digest, said.label) != said.label:
                    raise TrainingError(f"The same picture has the label {labels[digest]} elsewhere: {DECIDE}.")
                candidates = names(said, digest, suffix(said, encoded) or "")
            except TrainingError as error:
                tally.refuse(document, error)
                continue
            with _writing(folder):
                path, new = _place(folder / said.label, candidates, encoded, digest)
            tally.new, tally.there = tally.new + new, tally.there + (not new)
            kept.add(path)
    return tally, kept


def materialise(address: str, folder: Path, console: Console = CONSOLE) -> Path:
    """Make `folder` the labelled folder of a store's usable pictures, for `python -m training --data`, and return it.

    Files are called `<patient>__<16 digits of the SHA-256>`, so that a patient's pictures stay together; those that an
    earlier call wrote and that have left the store, or changed their label, are removed.

    Raises:
        UsageError: there is no such store.
        TrainingError: none of its pictures is usable, the store fails, or the folder cannot be written.
    """
    tally, kept = export_folder(address, folder, Fields(), patient_names, console)
    console.print(f"{shown(address)} → {folder}: {tally}")
    if not kept:
        raise TrainingError(f"{shown(address)} holds no usable picture: import some with `python -m training.store`.")
    for path in folder.glob("*/*"):
        if path not in kept and MATERIALISED.fullmatch(path.name):
            with _writing(folder):
                path.unlink(missing_ok=True)  # another training may tidy up at the same time
            with suppress(OSError):  # other files are in it
                path.parent.rmdir()
    return folder


def stats(address: str, fields: Fields, console: Console = CONSOLE) -> dict[str, Any]:
    """What a store says it holds, as one JSON object; pictures are not opened.

    Raises:
        UsageError: there is no such store.
        TrainingError: the store fails.
    """
    tally, labels, patients, size = Tally(console), Counter[str](), set[str | None](), 0
    with opened(address) as store, _bar(console) as bar:
        fields = store.fields(fields)
        for _, document, said in _described(store, fields, bar, tally):
            labels[said.label] += 1
            patients.add(said.patient)
            length = look_up(document, ("bytes", "length"))
            size += length if isinstance(length, int) else 0
    counts = {"pictures": labels.total(), "patients": len(patients - {None}), "bytes": size, "refused": tally.refused}
    return {"store": store.shown, "labels": dict(sorted(labels.items())), **counts}


def check(encoded: bytes, claimed: str | None) -> str:
    """The SHA-256 of a picture, or a `TrainingError` if it is damaged or not the picture that was claimed."""
    digest = hashlib.sha256(encoded).hexdigest()
    if claimed not in (None, digest):
        raise TrainingError(f"Its picture has the SHA-256 {digest}, not {claimed}: it was changed; import it again.")
    try:
        decode(encoded, at_least=MIN_SIDE)
    except UnreadableImage as error:
        raise TrainingError(str(error)) from None
    return digest


def suffix(said: Description, encoded: bytes | None) -> str | None:
    """The ending of the file, by its name or its bytes; None where the name does not tell and bytes are not given.

    Raises:
        TrainingError: the bytes are of a format whose files are not read from labelled folders.
    """
    if said.name and Path(said.name).suffix.lower() in PICTURES:
        return Path(said.name).suffix
    kind = Pillow.open(io.BytesIO(encoded)).format if encoded else None
    if kind and SUFFIXES.get(kind) not in PICTURES:
        raise TrainingError(f"Its picture is {kind}, which is not read from labelled folders: save it as PNG.")
    return SUFFIXES[kind] if kind else None


def file_names(said: Description, digest: str, ending: str) -> tuple[str, ...]:
    """The document's own name, with its patient before `__`; then what it is called where that name is taken."""
    stem = Path(said.name).stem if said.name else digest[:16]
    if said.patient and not stem.startswith(f"{said.patient}__"):
        stem = f"{said.patient}__{stem}"
    own = f"{stem}{ending}", f"{stem}-{digest[:16]}{ending}"
    return (*filter(fits_in_a_path, own), *patient_names(said, digest, ending))


def patient_names(said: Description, digest: str, ending: str) -> tuple[str, ...]:
    """`<patient>__<16 digits of the SHA-256>`: a name that no other picture has, and that changes only with it."""
    return ("__".join(filter(None, (said.patient, f"{digest[:16]}{ending}"))),)


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder: name one that holds pictures as <label>/<picture>.")
    paths = [
        path
        for path in sorted(folder.glob("[!.]*/[!.]*"))
        if path.suffix.lower() in PICTURES and path.parent.name not in MASK_FOLDERS and path.is_file()
    ]
    if not paths:
        kinds = ", ".join(sorted(PICTURES))
        raise TrainingError(f"{folder} holds no picture ({kinds}) as <label>/<picture>: name the folder of the labels.")
    return paths


def _document(path: Path) -> tuple[dict[str, Any], bytes]:
    if not fits_in_a_path(path.name):
        raise TrainingError("Its name cannot be kept as text: rename it.")
    try:
        encoded = path.read_bytes()
    except OSError as error:
        raise TrainingError(f"It cannot be read ({error.strerror}): make it readable.") from None
    label, digest = checked_label(path.parent.name), check(encoded, None)
    metadata = {"path": f"{label}/{path.name}", "bytes": len(encoded), "imported": datetime.now(UTC)}
    patient, separator, _ = path.stem.partition("__")
    if separator:
        metadata["patient"] = patient
    return {"_id": digest, "sha256": digest, "name": path.name, "label": label, "metadata": metadata}, encoded


def _all(store: Store, fields: Fields, bar: Progress) -> Iterator[tuple[Documents, dict[str, Any]]]:
    """Every document without its picture."""
    row = bar.add_task("documents", total=None)
    for shelf in store.shelves():
        for document in store.find(shelf, {}, without=fields.image):
            bar.advance(row)
            yield shelf, document
    bar.update(row, total=bar.tasks[row].completed)


def _described(
    store: Store, fields: Fields, bar: Progress, tally: Tally
) -> Iterator[tuple[Documents, Document, Description]]:
    """Every document without its picture, and what it says; at least one must be there."""
    document = None
    for shelf, document in _all(store, fields, bar):
        try:
            said = describe(document, fields)
        except TrainingError as error:
            tally.refuse(document, error)
        else:
            yield shelf, document, said
    if document is None:
        raise TrainingError(f"{store.shown} holds no documents: see that database and collection are named rightly.")


def _some(store: Store, wanted: Sequence[tuple[Documents, Any]], bar: Progress) -> Iterator[dict[str, Any]]:
    """The wanted documents with their pictures."""
    row = bar.add_task("pictures", total=len(wanted))
    for shelf in dict.fromkeys(shelf.name for shelf, _ in wanted):
        ids = [each for place, each in wanted if place.name == shelf]
        for start in range(0, len(ids), AT_ONCE):
            for document in store.find(store.database[shelf], {"_id": {"$in": ids[start : start + AT_ONCE]}}):
                bar.advance(row)
                yield document


def _already(said: Description, folder: Path, names: Names, labels: dict[str, str]) -> Path | None:
    """The file that holds the picture already, as far as that can be told without the picture."""
    ending = suffix(said, None)
    if not said.sha256 or not ending or labels.get(said.sha256, said.label) != said.label:
        return None
    paths = (folder / said.label / name for name in names(said, said.sha256, ending))
    path = next((path for path in paths if _holds(path, said.sha256)), None)
    if path:
        labels[said.sha256] = said.label
    return path


def _holds(path: Path, digest: str) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == digest
    except OSError:
        return False


def _place(home: Path, names: Sequence[str], encoded: bytes, digest: str) -> tuple[Path, bool]:
    """The file that holds the picture now, and whether it is new."""
    home.mkdir(parents=True, exist_ok=True)
    part = home / f".{digest}.{os.getpid()}.part"  # two exports at once write no file together
    try:
        for path in (home / name for name in names):
            if _holds(path, digest):
                return path, False
            if not os.path.lexists(path):
                part.write_bytes(encoded)
                os.replace(part, path)
                return path, True
    finally:
        part.unlink(missing_ok=True)
    raise FileExistsError(0, f"{home / names[-1]} is another picture")


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"{folder} cannot be written ({error.strerror}): free some room or choose another folder, then repeat the "
            "command: it goes on where it stopped."
        ) from None


def _bar(console: Console) -> Progress:
    times = TimeElapsedColumn(), "left", TimeRemainingColumn()
    return Progress("{task.description}", BarColumn(), MofNCompleteColumn(), *times, console=console)


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # argparse repeats what it does not understand, which may be an address with a password.
        super().error(re.sub(r"(mongodb(\+srv)?:)\S*", r"\1…", message))


def arguments() -> Parser:
    parser = Parser(prog="python -m training.store", description=(__doc__ or "").partition("\n\n")[2])
    commands = parser.add_subparsers(dest="command", required=True)
    store = os.environ.get("FOVEA_STORE", "data/store")
    bring = commands.add_parser("import", help="put the pictures of a labelled folder into a store")
    fetch = commands.add_parser("export", help="write a store as a labelled folder")
    count = commands.add_parser("stats", help="count what a store holds")
    bring.add_argument("folder", type=Path, metavar="FOLDER", help="holds <label>/<picture>")
    bring.add_argument("--to", dest="store", metavar="STORE", default=store, help=DEFAULT)
    bring.add_argument("--gridfs", action="store_true", help="keep every picture in GridFS, not only those over 15 MiB")
    fetch.add_argument("--from", dest="store", metavar="STORE", default=store, help=DEFAULT)
    fetch.add_argument("folder", type=Path, metavar="FOLDER", help="receives <label>/<picture>")
    fetch.add_argument("--image-field", metavar="NAME", help="the field of the picture or of its GridFS id")
    count.add_argument("store", metavar="STORE", nargs="?", default=store, help=DEFAULT)
    count.add_argument("--json", action="store_true", help="one JSON object")
    for command in (fetch, count):
        command.add_argument("--label-field", metavar="NAME", help="the field of the label; outer.inner is in outer")
    return parser


def main() -> int:
    options = arguments().parse_args()
    return program.run(lambda: answer(options), "Stopped; the same command goes on where it stopped.")


def answer(options: argparse.Namespace) -> int:
    given = vars(options)
    named = {name: (given[f"{name}_field"],) for name in ("label", "image") if given.get(f"{name}_field")}
    fields = replace(Fields(), **named)
    if options.command == "stats":
        found = stats(options.store, fields)
        print(json.dumps(found) if options.json else _table(found))
        return int(found["refused"] > 0)
    if options.command == "import":
        tally = import_folder(options.folder, options.store, gridfs=options.gridfs)
        print(f"{options.folder} → {shown(options.store)}: {tally}")
    else:
        tally, _ = export_folder(options.store, options.folder, fields, file_names)
        print(f"{shown(options.store)} → {options.folder}: {tally}")
    return int(tally.refused > 0)


def _table(found: dict[str, Any]) -> str:
    rows = [*found["labels"].items(), *((name, found[name]) for name in ("pictures", "patients", "bytes", "refused"))]
    width = max(len(name) for name, _ in rows)
    return "\n".join([found["store"], *(f"  {name:<{width}}  {count:>12,}" for name, count in rows)])


if __name__ == "__main__":
    sys.exit(main())
