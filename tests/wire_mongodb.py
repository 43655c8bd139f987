"""A small MongoDB server, so that the real driver can be tested where there is no `mongod`.

It keeps documents in a dictionary and speaks OP_MSG: what the driver, GridFS and a unique index need, and no more.
https://www.mongodb.com/docs/manual/reference/mongodb-wire-protocol/
"""

import socketserver
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

import bson
from montydb.engine.queries import QueryFilter

OP_MSG = 2013
BATCH = 2
"""Documents in one answer: few, so that every test asks for more."""

Document = dict[str, Any]
Refusals = Mapping[str, tuple[int, str]]
"""Command → (error code, message) it is answered with."""


class WireMongoDB(socketserver.ThreadingTCPServer):
    """`collections`: "database.collection" → documents. `dies_at`: the insert after which nothing is answered."""

    daemon_threads = True

    def __init__(self, collections: dict[str, list[Document]], refusals: Refusals, dies_at: int | None) -> None:
        super().__init__(("127.0.0.1", 0), Connection)
        self.collections, self.refusals, self.dies_at = collections, refusals, dies_at
        self.indexes: dict[str, list[Document]] = {}
        self.cursors: dict[int, list[Document]] = {}
        self.numbers, self.inserts, self.dead = count(1), count(1), threading.Event()
        self.lock = threading.Lock()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no error."""

    def answer(self, command: Document) -> Document:
        name = next(iter(command))
        if name in self.refusals:
            code, message = self.refusals[name]
            return {"ok": 0.0, "code": code, "errmsg": message}
        space = f"{command['$db']}.{command[name]}"
        match name.lower():
            case "hello" | "ismaster":
                return {
                    "isWritablePrimary": True,
                    "ismaster": True,
                    "helloOk": True,
                    "maxBsonObjectSize": 16 * 2**20,
                    "maxMessageSizeBytes": 48_000_000,
                    "maxWriteBatchSize": 100_000,
                    "logicalSessionTimeoutMinutes": 30,
                    "minWireVersion": 0,
                    "maxWireVersion": 21,
                }
            case "insert":
                if next(self.inserts) == self.dies_at:
                    self.dead.set()
                return self.insert(space, command["documents"])
            case "find":
                found = [each for each in self.collections.get(space, []) if fits(command["filter"], each)]
                for key, way in reversed(command.get("sort", {}).items()):
                    found.sort(key=lambda each, key=key: each[key], reverse=way < 0)  # type: ignore[misc]
                found = found[: abs(command.get("limit", 0)) or None]
                shown = [projected(each, command.get("projection", {})) for each in found]
                return self.batch(space, "firstBatch", next(self.numbers), shown)
            case "getmore":
                number = command["getMore"]
                return self.batch(
                    f"{command['$db']}.{command['collection']}", "nextBatch", number, self.cursors[number]
                )
            case "delete":
                (wanted,) = command["deletes"]
                kept = [each for each in self.collections.get(space, []) if not fits(wanted["q"], each)]
                gone = len(self.collections.get(space, [])) - len(kept)
                self.collections[space] = kept
                return {"n": gone}
            case "createindexes":
                self.indexes.setdefault(space, []).extend(command["indexes"])
                return {}
            case "listindexes":
                return self.batch(space, "firstBatch", next(self.numbers), self.indexes.get(space, []))
            case "ping" | "endsessions" | "killcursors":
                return {}
        return {"ok": 0.0, "code": 59, "errmsg": f"no such command: {name}"}

    def insert(self, space: str, documents: list[Document]) -> Document:
        for document in documents:
            for index in [{"key": {"_id": 1}}, *(each for each in self.indexes.get(space, []) if each.get("unique"))]:
                same = {key: document.get(key) for key in index["key"]}
                covered = index.get("partialFilterExpression", {})
                if fits(covered, document) and any(fits(same, each) for each in self.collections.get(space, [])):
                    error = {"index": 0, "code": 11000, "errmsg": f"E11000 duplicate key error: {same}"}
                    return {"n": 0, "writeErrors": [error]}
            self.collections.setdefault(space, []).append(document)
        return {"n": len(documents)}

    def batch(self, space: str, kind: str, number: int, documents: list[Document]) -> Document:
        self.cursors[number] = documents[BATCH:]
        return {"cursor": {"id": number if documents[BATCH:] else 0, "ns": space, kind: documents[:BATCH]}}


class Connection(socketserver.StreamRequestHandler):
    server: WireMongoDB

    def handle(self) -> None:
        while header := self.rfile.read(16):
            length, request, _, opcode = struct.unpack("<iiii", header)
            assert opcode == OP_MSG
            body = self.rfile.read(length - 16)
            with self.server.lock:
                if self.server.dead.is_set():
                    return
                answer = {"ok": 1.0} | self.server.answer(message(body))
            if self.server.dead.is_set():
                self.server.shutdown()
                self.server.server_close()
                return
            reply = struct.pack("<IB", 0, 0) + bson.encode(answer)
            self.wfile.write(struct.pack("<iiii", 16 + len(reply), 0, request, OP_MSG) + reply)


def message(body: bytes) -> Document:
    """An OP_MSG body as one command: flags, then sections; kind 1 is a list of documents under a name."""
    command: Document = {}
    at = 4
    while at < len(body):
        kind, at = body[at], at + 1
        (size,) = struct.unpack_from("<i", body, at)
        section = body[at : at + size]
        if kind == 0:
            command = bson.decode(section) | command
        else:
            end = section.index(b"\0", 4)
            command[section[4:end].decode()] = bson.decode_all(section[end + 1 :])
        at += size
    return command


def fits(query: Document, document: Document) -> bool:
    return bool(QueryFilter(query)(document))


def projected(document: Document, projection: Document) -> Document:
    assert not any(one.startswith(f"{other}.") for one in projection for other in projection), "path collision"
    if any(projection.values()):
        return {key: value for key, value in document.items() if key in projection or key == "_id"}
    shown = {key: value for key, value in document.items() if key not in projection}
    if isinstance(inner := shown.get("metadata"), dict):
        shown["metadata"] = {key: value for key, value in inner.items() if f"metadata.{key}" not in projection}
    return shown


@contextmanager
def serving(
    collections: dict[str, list[Document]] | None = None, refusals: Refusals | None = None, dies_at: int | None = None
) -> Iterator[WireMongoDB]:
    """A server on a free port of this machine, until the block ends or it dies."""
    with WireMongoDB({} if collections is None else collections, refusals or {}, dies_at) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server
        with suppress(OSError):
            server.shutdown()
