"""Protobuf's wire format, read from a file step by step: 3 GB of weights are stepped over, never loaded.

`onnx.load` would read and copy the whole of a file that may be hostile. This reader holds 64 KB of it, believes no
length that passes the end of what is there, and gives up on a file of more fields than any graph has.
"""

import os
from collections.abc import Iterator

WINDOW = 2**16
MOST_FIELDS = 2_000_000
"""A language model of 50,000 nodes has 0.6 million; stepping over two million takes a few seconds."""
LONGEST = 2**16
"""Bytes of a name or another string that is read."""
VARINT, FIXED64, SPAN, FIXED32 = 0, 1, 2, 5


class Wire:
    """An open file.

    Raises:
        ValueError: from every method, where the bytes are not protobuf's.
    """

    def __init__(self, descriptor: int) -> None:
        self.size = os.fstat(descriptor).st_size
        self._descriptor = descriptor
        self._window = b""
        self._start = 0
        self._fields = 0

    def fields(self, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Of the message in `at`…`end`: (number, kind, value, 0) of a varint, (number, kind, start, end) of others."""
        while at < end:
            self._fields += 1
            if self._fields > MOST_FIELDS:
                raise ValueError(f"it has more than {MOST_FIELDS:,} fields")
            key, at = self.varint(at, end)
            number, kind = key >> 3, key & 7
            if kind == VARINT:
                value, at = self.varint(at, end)
                yield number, kind, value, 0
                continue
            if kind == SPAN:
                length, at = self.varint(at, end)
            elif kind in (FIXED64, FIXED32):
                length = 8 if kind == FIXED64 else 4
            else:
                raise ValueError(f"byte {at:,} starts no field")
            if length > end - at:
                raise ValueError(f"a field at byte {at:,} should have {length:,} bytes, and {end - at:,} are there")
            yield number, kind, at, at + length
            at += length

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """The number at `at`, and the position after it."""
        value = shift = 0
        while at < end and shift < 70:
            if not self._start <= at < self._start + len(self._window):
                self._window = os.pread(self._descriptor, WINDOW, at)
                self._start = at
                if not self._window:
                    break
            byte = self._window[at - self._start]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value & (2**64 - 1), at
            shift += 7
        raise ValueError(f"the number at byte {at:,} does not end")

    def text(self, start: int, end: int) -> str:
        if end - start > LONGEST:
            raise ValueError(f"a name at byte {start:,} has {end - start:,} bytes")
        return os.pread(self._descriptor, end - start, start).decode("utf-8", "replace")


def signed(value: int) -> int:
    """The int64 that is written as this varint."""
    return value - 2**64 if value >= 2**63 else value
