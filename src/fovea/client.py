"""Ask a server about pictures: `Client("grpc://host:8001").ask("retina", "eye.jpg").label`.

`Client` blocks, `AsyncClient` is awaited; both speak gRPC (`grpc://`) and HTTP (`http://`) and give the same answers.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from fovea.answers import Answer, from_outputs
from fovea.descriptions import Descriptions, model_name
from fovea.errors import FoveaError, ServerRefused, ServerTimeout, UnreadableImage, UsageError, WrongModel
from fovea.spec import Task
from fovea.tasks import task_named
from fovea.transport import Transport, connect

TIMEOUT_S = 30.0
CONCURRENCY = 16
"""Pictures on the way when there are many: four requests of four for a server of two cores, 16 for one of eight."""
TOGETHER_BYTES = 64 * 2**20
"""Pictures larger than this together are asked about one by one: what is gained by then is nothing."""
Source = bytes | str | Path
Result = TypeVar("Result")


class AsyncClient:
    """One connection to one server. Use it with `async with`, from one event loop.

    Every call ends within its deadline and raises only `FoveaError`s: `ServerUnreachable`, `ServerTimeout`,
    `ServerBusy`, `ServerRefused`, `WrongModel`, `UnreadableImage`, `UsageError`.
    """

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        """`url` is grpc://host:port or http://host:port; `timeout_s` is the deadline of a call that gives none."""
        self.url = url
        self.timeout_s = timeout_s
        self._transport: Transport | None = None
        self._descriptions = Descriptions(url)

    async def __aenter__(self) -> Self:
        self._transport = connect(self.url)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        if self._transport is not None:
            await self._transport.close()
            self._transport = None

    async def ask(
        self,
        task: str | Task,
        image: Source,
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
        operating_point: str | None = None,
        release: str | None = None,
    ) -> Answer:
        """Ask `task` about one picture.

        Args:
            task: a declared task or its name.
            image: an encoded picture (JPEG, PNG, TIFF, …) as bytes, or the path of one.
            outputs: which of the task's outputs to answer ("probabilities", "heatmap", a mask's name, "frame");
                all of them by default.
            timeout_s: the deadline, in seconds, counted from this call.
            operating_point: the name of a threshold stored with the model ("screening", …) that decides the label;
                without one it is the most probable class.
            release: the number of a release that the server keeps beside the published one, which answers by default.

        Raises:
            FoveaError: see the class; `UnreadableImage` says what is wrong with the picture.
        """
        (answer,) = await self._ask(task, [_encoded(image)], outputs, timeout_s, operating_point, release)
        return answer

    async def ask_together(
        self,
        task: str | Task,
        images: Sequence[Source],
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
        operating_point: str | None = None,
        release: str | None = None,
    ) -> list[Answer | FoveaError]:
        """Ask about several pictures in one request: less work for each, and all are answered when the last one is.

        One picture's error is its own: where the server refuses them together, each is asked about alone.
        """
        outcomes: dict[int, Answer | FoveaError] = {}
        encoded: dict[int, bytes] = {}
        for position, image in enumerate(images):
            try:
                encoded[position] = _encoded(image)
            except UnreadableImage as error:
                outcomes[position] = error

        async def some(positions: list[int]) -> None:
            pictures = [encoded[position] for position in positions]
            try:
                answers = await self._ask(task, pictures, outputs, timeout_s, operating_point, release)
                outcomes.update(zip(positions, answers, strict=True))
            except FoveaError as error:
                if len(positions) > 1 and isinstance(error, UnreadableImage | ServerRefused):
                    await asyncio.gather(*(some([position]) for position in positions))
                else:
                    outcomes.update(dict.fromkeys(positions, error))

        if encoded and sum(map(len, encoded.values())) <= TOGETHER_BYTES:
            await some(list(encoded))
        else:
            await asyncio.gather(*(some([position]) for position in encoded))
        return [outcomes[position] for position in range(len(images))]

    async def together(
        self, task: str | Task, concurrency: int, timeout_s: float | None = None, release: str | None = None
    ) -> int:
        """How many pictures a request should hold for the most images a second, with `concurrency` of them on the way.

        One, until there are two requests for each instance of the server's first step: with fewer, cores stand idle.
        """
        task = task_named(task) if isinstance(task, str) else task
        async with self._deadline(timeout_s):
            description = await self._descriptions.of(self._connected(), task, release)
        return max(1, min(concurrency // (2 * description.instances), description.max_batch))

    async def check(
        self,
        task: str | Task,
        timeout_s: float | None = None,
        operating_point: str | None = None,
        release: str | None = None,
    ) -> None:
        """Raise what every request for `task` would meet: `ServerUnreachable`, `WrongModel`, …; else do nothing."""
        task = task_named(task) if isinstance(task, str) else task
        async with self._deadline(timeout_s):
            description = await self._descriptions.of(self._connected(), task, release)
        self._descriptions.threshold(task, description, operating_point)

    async def ask_many(
        self,
        task: str | Task,
        images: Iterable[Source],
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
        concurrency: int = CONCURRENCY,
        operating_point: str | None = None,
        release: str | None = None,
    ) -> AsyncIterator[tuple[int, Answer | FoveaError]]:
        """Ask about many pictures, `concurrency` at a time; yields (position in `images`, answer or its error).

        They come in the order in which they finish. One picture's error is its own: the others are answered. With so
        many at a time that the server's instances are busy (`together`), a request holds several.
        """
        if concurrency < 1:
            raise UsageError(f"The concurrency must be at least 1, not {concurrency}.")
        size = 1
        with suppress(FoveaError):  # of the server or the task: each picture meets it, and says so
            size = await self.together(task, concurrency, timeout_s, release)
        pending: dict[asyncio.Task[list[Answer | FoveaError]], list[int]] = {}
        waiting = enumerate(images)
        try:
            while True:
                while len(pending) < concurrency // size and (items := list(islice(waiting, size))):
                    given = [image for _, image in items]
                    asked = self.ask_together(task, given, outputs, timeout_s, operating_point, release)
                    pending[asyncio.create_task(asked)] = [position for position, _ in items]
                if not pending:
                    return
                done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for finished in done:
                    for outcome in zip(pending.pop(finished), finished.result(), strict=True):
                        yield outcome
        finally:
            for unfinished in pending:
                unfinished.cancel()

    async def _ask(
        self,
        task: str | Task,
        encoded: Sequence[bytes],
        outputs: Sequence[str] | None,
        timeout_s: float | None,
        operating_point: str | None,
        release: str | None,
    ) -> list[Answer]:
        """One request, an answer for each picture in it."""
        task = task_named(task) if isinstance(task, str) else task
        names = _chosen(task, outputs)
        known = self._descriptions
        async with self._deadline(timeout_s):
            transport = self._connected()
            description = await known.of(transport, task, release)
            known.threshold(task, description, operating_point)
            sent = time.perf_counter()
            arrays, version = await transport.infer(model_name(task, release), encoded, names)
            latency_ms = 1e3 * (time.perf_counter() - sent)
            if operating_point is not None and version != description.version:
                description = await known.of_version(transport, task, version)
            threshold = known.threshold(task, description, operating_point)
        for tensor in task.outputs:
            if tensor.name in names and arrays[tensor.name].shape != (len(encoded), *tensor.shape):
                raise WrongModel(
                    f"{self.url} answered {tensor.name} of shape {arrays[tensor.name].shape} for {len(encoded)} "
                    f"pictures; task {task.name} declares {tensor.shape} for each."
                )
        return [from_outputs(task, arrays, row, latency_ms, threshold, version) for row in range(len(encoded))]

    def _connected(self) -> Transport:
        if self._transport is None:
            raise UsageError("The client is not connected: use it inside 'with' or 'async with'.")
        return self._transport

    @asynccontextmanager
    async def _deadline(self, timeout_s: float | None) -> AsyncIterator[None]:
        limit = self.timeout_s if timeout_s is None else timeout_s
        try:
            async with asyncio.timeout(limit):
                yield
        except TimeoutError:
            raise ServerTimeout(
                f"No answer from {self.url} within {limit:g} s: it may be busy or hung; "
                "give it longer, send fewer pictures at once, or restart it."
            ) from None


class Client:
    """`AsyncClient` for code that blocks; may be used from several threads at once. Use it with `with`."""

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        self._client = AsyncClient(url, timeout_s)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fovea-client", daemon=True)
        self._thread.start()
        try:
            self._wait(self._client.__aenter__())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._loop is not None:
            self._wait(self._client.close())
            self._end()

    def ask(
        self,
        task: str | Task,
        image: Source,
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
        operating_point: str | None = None,
        release: str | None = None,
    ) -> Answer:
        """As `AsyncClient.ask`."""
        return self._wait(self._client.ask(task, image, outputs, timeout_s, operating_point, release))

    def _wait(self, call: Coroutine[Any, Any, Result]) -> Result:
        if self._loop is None:
            call.close()
            raise UsageError("The client is not connected: use it inside 'with'.")
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()

    def _end(self) -> None:
        assert self._loop is not None
        assert self._thread is not None
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._loop = None


def _encoded(image: Source) -> bytes:
    encoded = image if isinstance(image, bytes) else read(Path(image))
    if not encoded:
        raise UnreadableImage("The file is empty: a JPEG, PNG or TIFF picture was expected; copy it again.")
    return encoded


def read(path: Path) -> bytes:
    """The bytes of a picture file, or `UnreadableImage` saying why they cannot be had."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableImage(f"{path} cannot be read ({error.strerror}).") from None


def _chosen(task: Task, outputs: Sequence[str] | None) -> list[str]:
    names = [tensor.name for tensor in task.outputs]
    if outputs is None:
        return names
    unknown = sorted(set(outputs) - set(names))
    if unknown or not outputs:
        raise UsageError(f"Task {task.name} has no output {unknown or 'of no name'}: choose from {', '.join(names)}.")
    return list(dict.fromkeys(outputs))
