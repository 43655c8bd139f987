"""How a picture store is reached: a MongoDB server or a folder, opened, addressed and shown without its password.

Every failure of a server, a driver or a disk becomes one `TrainingError` or `UsageError` that never repeats a password.
"""

import configparser
import fcntl
import os
import re
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote_plus

import montydb
from bson import ObjectId
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.errors import BSONError
from gridfs import GridFSBucket, NoFile
from gridfs.errors import CorruptGridFile
from montydb.errors import ConfigurationError
from montydb.errors import DuplicateKeyError as MontyDuplicateKeyError
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import AutoReconnect, DuplicateKeyError, OperationFailure, PyMongoError, ServerSelectionTimeoutError
from pymongo.uri_parser import parse_uri, split_options

from fovea.errors import TrainingError, UsageError
from training.store_documents import Document, Fields, look_up, short

Documents = Collection[dict[str, Any]]

SERVER = re.compile(r"mongodb(\+srv)?:")
# Unless the address says otherwise:
DATABASE, COLLECTION = "fovea", "images"
LIMITS_MS = {"serverSelectionTimeoutMS": 5_000, "connectTimeoutMS": 5_000, "socketTimeoutMS": 60_000}
INLINE_BYTES, LARGEST_BYTES = 15 * 2**20, 512 * 2**20
"""Larger pictures go into GridFS, for a MongoDB document holds 16 MiB; and what is larger than any is not read."""
TOLERANT: CodecOptions[dict[str, Any]] = CodecOptions(
    unicode_decode_error_handler="replace", datetime_conversion=DatetimeConversion.DATETIME_AUTO
)
"""Text that is not UTF-8, or a date beyond Python's, must not hide the documents after it."""
ENGINE, ENGINE_FILE, CONFIG_FILE = "sqlite", ".monty.storage", "monty.storage.cfg"
"""montydb's only engine that keeps what it has when it is killed, and the files in which montydb names it."""
CURES = {
    13: "let that user read and write this database, or name one who may",
    18: "correct the user and the password, or add ?authSource=admin if that is where the user is kept",
    11000: "it holds a picture twice; delete one of the two documents",
    14031: "free some room there, then repeat the command: it goes on where it stopped",
}
"""By MongoDB's error code. https://www.mongodb.com/docs/manual/reference/error-codes/"""


class Store(NamedTuple):
    """An open collection. `shown` is its address without the password; `embedded` says that it lies in a folder."""

    shown: str
    database: Database[dict[str, Any]]
    name: str
    embedded: bool

    def shelves(self) -> list[Documents]:
        """The collections that hold the documents: one, or the files of a GridFS bucket, or up to 256 in a folder."""
        if self.embedded:
            names = {name for name in self.database.list_collection_names() if name.split(".")[0] == self.name}
            return [self.database[name] for name in sorted(names)]
        collection, files = self.database[self.name], self.database[f"{self.name}.files"]
        return [files if collection.find_one({}, ["_id"]) is None and files.find_one({}, ["_id"]) else collection]

    def fields(self, fields: Fields) -> Fields:
        """Where these documents keep what: those of a GridFS bucket are themselves the files."""
        bucket = not self.embedded and self.shelves()[0].name.endswith(".files")
        return replace(fields, image=(), file=("_id",)) if bucket else fields

    def _shelf(self, digest: str) -> Documents:
        # montydb reads a whole collection to answer any question: 256 small ones fit into memory one after the other.
        return self.database[f"{self.name}.{digest[:2]}" if self.embedded else self.name]

    def find(self, shelf: Documents, query: Document, without: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
        """The documents of a shelf that answer the query, without those fields; a `TrainingError` if it is damaged."""
        places = [place for name in without for place in (name, f"metadata.{name}")]
        hidden = {place: 0 for place in places if not any(place.startswith(f"{other}.") for other in places)}
        try:
            yield from shelf.find(query, hidden or None)
        except (sqlite3.DatabaseError, BSONError) as error:
            if "no such table" in str(error):
                return  # an import was killed between making the file and the table in it
            if not self.embedded or isinstance(error, sqlite3.OperationalError):
                raise
            raise TrainingError(
                f"{self.shown}/{DATABASE}/{shelf.name}.collection is damaged ({error}): restore it from a copy, or "
                "delete it and import again; the other files of the store are whole."
            ) from None

    def label_of(self, digest: str) -> Any:
        """The label of the picture with that SHA-256, as its document has it; None if there is none."""
        return look_up(next(self.find(self._shelf(digest), {"sha256": digest}, Fields.image), {}), Fields.label)

    def add(self, document: dict[str, Any], encoded: bytes, *, gridfs: bool) -> bool:
        """Insert a document that has a `sha256`, with its picture as bytes or in GridFS; False if it is there."""
        shelf, files = self._shelf(document["sha256"]), None
        if self.embedded or (len(encoded) <= INLINE_BYTES and not gridfs):
            document["image"] = encoded
        else:
            files = GridFSBucket(self.database, self.name)
            about = {"label": document["label"], "sha256": document["sha256"]}
            document["image_id"] = files.upload_from_stream(document["name"], encoded, metadata=about)
        try:
            shelf.insert_one(document)
        except (DuplicateKeyError, MontyDuplicateKeyError):
            if files is not None:
                files.delete(document["image_id"])
            return False
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                raise
            shelf.drop()  # as in find; nobody else writes here, for the folder is locked
            shelf.insert_one(document)
        return True

    def download(self, file_id: Any) -> bytes:
        """All bytes of a file in the GridFS bucket named like the collection, or in `fs`; else a `TrainingError`."""
        if self.embedded:
            raise TrainingError("Its picture is a GridFS file, which a folder cannot hold: import it again.")
        ids = [file_id, ObjectId(file_id)] if isinstance(file_id, str) and ObjectId.is_valid(file_id) else [file_id]
        for bucket in dict.fromkeys((self.name.removesuffix(".files"), "fs")):
            for each in ids:
                try:
                    file = GridFSBucket(self.database, bucket).open_download_stream(each)
                    if file.length > LARGEST_BYTES:
                        raise TrainingError(f"Its file has {file.length:,} bytes, too many for a picture: reduce it.")
                    return file.read()
                except NoFile:
                    continue
                except (CorruptGridFile, ArithmeticError, TypeError, ValueError) as error:  # length may be anything
                    raise TrainingError(f"Its GridFS file is damaged ({error}): store the picture again.") from None
        raise TrainingError(f"Its GridFS file {short(file_id)} is missing: store the picture again.")


@contextmanager
def opened(address: str, *, write: bool = False) -> Iterator[Store]:
    """Open a store; whatever goes wrong with it, then or later, becomes one sentence that shows no password.

    Args:
        address: a `mongodb://` or `mongodb+srv://` address, or the path of a folder.
        write: make the store if there is none, and what keeps pictures unique; lock a folder against other writers.

    Raises:
        UsageError: the address is not understood, or there is no store.
        TrainingError: the server or the folder refuses, fails or goes away.
    """
    if SERVER.match(address):
        with _server(address, write) as store:
            yield store
    elif "://" in address:
        scheme = address.partition("://")[0]
        raise UsageError(f"A store is mongodb://host/database.collection or a folder, not {scheme}://.")
    else:
        with _folder(Path(address), write) as store:
            yield store


def is_store(address: str) -> bool:
    """Whether this is a MongoDB address, or a folder that `opened` has made."""
    return bool(SERVER.match(address)) or (Path(address) / ENGINE_FILE).is_file()


def shown(address: str) -> str:
    """The address without its password and options, as messages and reports may show it."""
    return _parsed(address)[0] if SERVER.match(address) else address


def _parsed(address: str) -> tuple[str, str, str, str]:
    """(as it may be shown, database, collection, password); messages of the driver's may quote a password."""
    scheme, _, rest = address.partition("://")
    place, _, options = rest.partition("?")
    servers, _, names = place.partition("/")
    try:
        said = parse_uri(f"mongodb://{place}")  # as if it were not srv, so that nothing is looked up
    except (PyMongoError, ValueError):
        said = None
    # A password with / or ? seems to end there: what follows, up to its @, would be taken for a name, and shown.
    if not said or "@" in names + options:
        raise UsageError(
            "The address of the store is not understood: mongodb://[user:password@]host[:port]/database.collection is, "
            "with @ : / ? # and % in the user or the password written as %40 %3A %2F %3F %23 and %25."
        )
    for option in filter(None, options.split("&")):
        try:
            split_options(option)
        except (PyMongoError, ValueError):
            name = option.partition("=")[0]
            raise UsageError(f"The address's option {name!r} is not understood: correct it or leave it out.") from None
    user = f"{quote_plus(said['username'])}:***@" if said["username"] else ""
    database, collection = said["database"] or DATABASE, said["collection"] or COLLECTION
    where = f"{scheme}://{user}{servers.rpartition('@')[2]}/{database}.{collection}"
    return where, database, collection, said["password"] or ""


@contextmanager
def _server(address: str, write: bool) -> Iterator[Store]:
    where, name, collection, password = _parsed(address)
    limits: dict[str, Any] = {key: value for key, value in LIMITS_MS.items() if key.lower() not in address.lower()}
    try:
        with MongoClient[dict[str, Any]](address, **limits) as client:
            database = client.get_database(name, TOLERANT)
            database.command("ping")  # the first to find out who does not answer, or does not let us in
            store = Store(where, database, collection, embedded=False)
            if write:
                (shelf,) = store.shelves()
                if shelf.name.endswith(".files") and shelf.find_one({"metadata.sha256": {"$exists": False}}):
                    raise UsageError(f"{where} is a GridFS bucket of another program: name a new collection.")
                whose = {"sha256": {"$type": "string"}}  # documents of other programs have none
                database[collection].create_index("sha256", unique=True, partialFilterExpression=whose)
            yield store
    except (PyMongoError, BSONError) as error:
        text = _sentence(where, error)
        for secret in filter(None, (password, quote_plus(password))):
            text = text.replace(secret, "***")
        raise TrainingError(text) from None


def _sentence(shown: str, error: Exception) -> str:
    reason = re.split(r" \(configured|, Timeout:|, full error:", str(error))[0].rstrip(".")
    if isinstance(error, ServerSelectionTimeoutError):
        return f"No MongoDB server answers at {shown} ({reason}): start it, or correct the address."
    if isinstance(error, AutoReconnect):
        return f"The connection to {shown} was lost ({reason}): once the server is back, the same command goes on."
    if isinstance(error, OperationFailure):
        return f"{shown} refused ({reason}): {CURES.get(error.code or 0, 'ask who keeps that server')}."
    return f"{shown} cannot be used ({reason}): correct the address or the documents."


@contextmanager
def _folder(folder: Path, write: bool) -> Iterator[Store]:
    with ExitStack() as stack:
        try:
            if write:
                folder.mkdir(parents=True, exist_ok=True)
                if not is_store(str(folder)) and {path.name for path in folder.glob("[!.]*")} - {CONFIG_FILE}:
                    raise UsageError(f"{folder} is no store and not empty: name a new folder for the store.")
                lock = stack.enter_context((folder / ".lock").open("w"))
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not is_store(str(folder)):
                    _lay_out(folder)
            if (engine := (folder / ENGINE_FILE).read_text()) != ENGINE:
                raise ConfigurationError(f"its engine is {engine[:20]!r}, not {ENGINE!r}")
            database = montydb.MontyClient(str(folder))[DATABASE]  # each question opens and closes what it needs
        except BlockingIOError:
            raise TrainingError(f"Another import is writing to {folder}: when it has ended, repeat this one.") from None
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError(f"{folder} is no store: name one that `python -m training.store import` made.") from None
        except OSError as error:
            doing = "written" if write else "read"
            raise TrainingError(f"{folder} cannot be {doing} ({error.strerror}): choose another folder.") from None
        except (ConfigurationError, configparser.Error, UnicodeError) as error:
            reason = " ".join(str(error).split())
            raise TrainingError(f"The store {folder} is damaged ({reason}): restore it from a copy.") from None
        try:
            yield Store(str(folder), database, COLLECTION, embedded=True)
        except sqlite3.Error as error:
            raise TrainingError(
                f"The store {folder} failed ({error}): see that it is writable, has room and is used by no other "
                "program, then repeat the command: it goes on where it stopped."
            ) from None


def _lay_out(folder: Path) -> None:
    """What montydb needs to know of a store, written so that a reader finds all of it or nothing."""
    with tempfile.TemporaryDirectory(prefix=".", dir=folder) as part:
        # The rollback journal, unlike montydb's write-ahead log, works on network drives and read-only ones.
        montydb.set_storage(part, storage=ENGINE, use_bson=True, journal_mode="DELETE")
        for name in (CONFIG_FILE, ENGINE_FILE):  # the last one makes it a store
            os.replace(Path(part) / name, folder / name)
    (folder / DATABASE).mkdir(exist_ok=True)
