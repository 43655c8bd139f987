"""Ask a server about pictures: `Client("grpc://host:8001").ask("retina", "eye.jpg").label`.

`Client` blocks, `AsyncClient` is awaited; both speak gRPC (`grpc://`) and HTTP (`http://`) and give the same answers.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from fovea.answers import Answer, from_outputs
from fovea.errors import FoveaError, ServerTimeout, UnreadableImage, UsageError, WrongModel
from fovea.spec import Task
from fovea.tasks import task_named
from fovea.transport import Description, Transport, connect

TIMEOUT_S = 30.0
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
        self._descriptions: dict[str, Description] = {}
        self._checking: dict[str, asyncio.Lock] = {}

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
        task = task_named(task) if isinstance(task, str) else task
        names = _chosen(task, outputs)
        encoded = image if isinstance(image, bytes) else read(Path(image))
        if not encoded:
            raise UnreadableImage("The file is empty: a JPEG, PNG or TIFF picture was expected; copy it again.")
        async with self._deadline(timeout_s):
            description = await self._describe(task, release)
            self._threshold(task, description, operating_point)
            sent = time.perf_counter()
            arrays, version = await self._connected().infer(_model(task, release), encoded, names)
            latency_ms = 1e3 * (time.perf_counter() - sent)
            if operating_point is not None and version != description.version:
                description = await self._describe_version(task, version)
            threshold = self._threshold(task, description, operating_point)
        for tensor in task.outputs:
            if tensor.name in names and arrays[tensor.name].shape != (1, *tensor.shape):
                raise WrongModel(
                    f"{self.url} answered {tensor.name} of shape {arrays[tensor.name].shape[1:]}; "
                    f"task {task.name} declares {tensor.shape}."
                )
        return from_outputs(task, arrays, latency_ms=latency_ms, operating_point=threshold, version=version)

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
            description = await self._describe(task, release)
        self._threshold(task, description, operating_point)

    async def ask_many(
        self,
        task: str | Task,
        images: Iterable[Source],
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
        concurrency: int = 4,
        operating_point: str | None = None,
        release: str | None = None,
    ) -> AsyncIterator[tuple[int, Answer | FoveaError]]:
        """Ask about many pictures, `concurrency` at a time; yields (position in `images`, answer or its error).

        They come in the order in which they finish. One picture's error is its own: the others are answered.
        """
        if concurrency < 1:
            raise UsageError(f"The concurrency must be at least 1, not {concurrency}.")
        pending: dict[asyncio.Task[Answer], int] = {}
        waiting = enumerate(images)
        try:
            while True:
                while len(pending) < concurrency and (item := next(waiting, None)) is not None:
                    position, image = item
                    asked = self.ask(task, image, outputs, timeout_s, operating_point, release)
                    pending[asyncio.create_task(asked)] = position
                if not pending:
                    return
                done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for finished in done:
                    position = pending.pop(finished)
                    error = finished.exception()
                    if error is None:
                        yield position, finished.result()
                    elif isinstance(error, FoveaError):
                        yield position, error
                    else:
                        raise error
        finally:
            for unfinished in pending:
                unfinished.cancel()

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

    async def _describe(self, task: Task, release: str | None) -> Description:
        """What the server says of the task, compared with the declaration; it is asked before the first request only.

        Raises:
            WrongModel: it serves something else than the task declares.
        """
        model = _model(task, release)
        if model in self._descriptions:
            return self._descriptions[model]
        async with self._checking.setdefault(model, asyncio.Lock()):
            if model not in self._descriptions:
                try:
                    description = await self._connected().describe(model)
                except WrongModel:  # also when another release was published between the two questions that this asks
                    description = await self._connected().describe(model)
                self._compare(task, description)
                self._descriptions[model] = description
            return self._descriptions[model]

    async def _describe_version(self, task: Task, version: str) -> Description:
        """Of the release that answered, which is another one than was there before: its thresholds count."""
        self._descriptions.pop(task.name, None)
        description = await self._describe(task, None)
        return description if description.version == version else await self._describe(task, version)

    def _compare(self, task: Task, description: Description) -> None:
        found, labels = description.tensors, description.labels
        declared = {tensor.name: (tensor.dtype, tensor.shape) for tensor in task.outputs}
        if found != declared:
            wrong = sorted(n for n in found.keys() | declared.keys() if found.get(n) != declared.get(n))
            raise WrongModel(
                f"{self.url} serves another {task.name} than this client declares (different: {', '.join(wrong)}): "
                "use the client that came with the server's release."
            )
        if labels != task.labels:
            raise WrongModel(
                f"{self.url} answers {task.name} with the classes {', '.join(labels)}, but this client declares "
                f"{', '.join(task.labels)}: use the client that came with the server's release."
            )

    def _threshold(self, task: Task, description: Description, name: str | None) -> tuple[str, float] | None:
        """The named threshold that the server stores with the model, or `UsageError` naming those there are."""
        if name is None:
            return None
        points = description.operating_points
        if name not in points:
            known = f"choose from {', '.join(points)}" if points else "it stores none; leave it out"
            raise UsageError(f"{self.url} has no operating point {name!r} for {task.name}: {known}.")
        return name, points[name]


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


def read(path: Path) -> bytes:
    """The bytes of a picture file, or `UnreadableImage` saying why they cannot be had."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableImage(f"{path} cannot be read ({error.strerror}).") from None


def _model(task: Task, release: str | None) -> str:
    """What Triton calls the published release of a task, or a given one."""
    return task.name if release is None else f"{task.name}-{release}"


def _chosen(task: Task, outputs: Sequence[str] | None) -> list[str]:
    names = [tensor.name for tensor in task.outputs]
    if outputs is None:
        return names
    unknown = sorted(set(outputs) - set(names))
    if unknown or not outputs:
        raise UsageError(f"Task {task.name} has no output {unknown or 'of no name'}: choose from {', '.join(names)}.")
    return list(dict.fromkeys(outputs))
