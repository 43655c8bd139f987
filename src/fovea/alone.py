"""All cores for a lone request, one each under load: who computes at this moment, and engines that go by it.

Everything that computes for one server marks its own byte of one small file while it does; for the threads of one
process a bytearray serves as well. Reading the marks takes a microsecond, and a mark is written by its owner only.
"""

import fcntl
import mmap
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, Self, TypeVar

import numpy as np
import numpy.typing as npt

Run = TypeVar("Run")

VARIABLE = "FOVEA_MARKS"
"""Names the server's file of marks to its Python processes."""
PLACES = 4096
FREE, IDLE, COMPUTING = b"\0", b"\1", b"\2"


class Mark:
    """`with mark:` says that its owner computes."""

    def __init__(self, marks: mmap.mmap | bytearray) -> None:
        """Take a free place; `claim` sees to it that processes do so one at a time."""
        self.marks = marks
        self.place = marks.find(FREE)
        self._set(IDLE)

    @property
    def alone(self) -> bool:
        """Whether nobody but this one computes; never where all places were taken."""
        return self.place >= 0 and self.marks[:].count(COMPUTING) == 1

    def __enter__(self) -> Self:
        self._set(COMPUTING)
        return self

    def __exit__(self, *_: object) -> None:
        self._set(IDLE)

    def leave(self) -> None:
        """Give the place back."""
        self._set(FREE)
        self.place = -1

    def _set(self, mark: bytes) -> None:
        if self.place >= 0:
            self.marks[self.place] = mark[0]


def claim() -> Mark:
    """A place among all that computes for this server; where no server gave a file for it, one that is never alone.

    What is never alone keeps to its own core, which is right wherever it is not known who else computes.
    """
    if VARIABLE not in os.environ:
        return Mark(bytearray(COMPUTING + FREE))
    with Path(os.environ[VARIABLE]).open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        mark = Mark(mmap.mmap(file.fileno(), PLACES))
        fcntl.flock(file, fcntl.LOCK_UN)  # closing the file would not: the mapping keeps it open
        return mark


LONE = 2
"""Lone requests in a row before one has all cores: under load too, there are moments when nobody else computes."""


class Elastic(Generic[Run]):
    """An engine of its share of the cores and, once it was alone a few times in a row, one of all cores.

    The second is made in the background, so that nobody waits for it, and is used only if it answers `probe` as the
    first did, bit for bit: an answer must not depend on who else asks.
    """

    def __init__(
        self, mark: Mark, threads: int, cores: int, make: Callable[[int], Run], probe: Callable[[Run], bytes]
    ) -> None:
        """`make(threads)` is an engine; `threads` are those under load, `cores` those of a lone request."""
        self._mark, self._cores, self._make, self._probe = mark, cores, make, probe
        self._narrow = make(threads)
        self._wide: Run | None = None
        self._making: threading.Thread | None = None
        self._lone = 0
        self._elastic = cores > threads
        if self._elastic:
            # Now: later it may be answering a request, while the other one is made.
            self._expected = probe(self._narrow)

    @property
    def engine(self) -> Run:
        """The one for this moment."""
        if not self._elastic:
            return self._narrow
        self._lone = self._lone + 1 if self._mark.alone else 0
        if self._lone <= LONE:
            return self._narrow
        if self._making is None:
            self._start()
        return self._narrow if self._wide is None else self._wide

    def wait(self) -> bool:
        """Make it as fast as it will be; whether it has an engine of all cores."""
        if self._elastic and self._making is None:
            self._start()
        self.close()
        return self._wide is not None

    def close(self) -> None:
        """End what is being made."""
        if self._making is not None:
            self._making.join()

    def _start(self) -> None:
        self._making = threading.Thread(target=self._widen, name="fovea-wide")
        self._making.start()

    def _widen(self) -> None:
        wide = self._make(self._cores)
        if self._probe(wide) == self._expected:
            self._wide = wide


def noise(shape: Sequence[int]) -> npt.NDArray[np.uint8]:
    """What engines are probed with; our networks read bytes."""
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)
