"""One client for each way of speaking; all keep their connections, send the encoded picture and read raw bytes."""

import asyncio
import base64
import json
from types import TracebackType
from typing import Any, Self

import aiohttp
import cv2
import numpy as np
from tritonclient.utils import InferenceServerException

from benchmarks.contenders import digest
from benchmarks.wire import Wire
from fovea.errors import ServerRefused, ServerTimeout, ServerUnreachable
from fovea.spec import THRESHOLD, Task, Tensor
from fovea.transport import translate

TIMEOUT_S = 60
HEADERS = {"Content-Type": "application/octet-stream", "Accept-Encoding": "identity"}
"""aiohttp asks for compression unless told not to."""
MASK_AGREES = 0.98
"""The share of a mask's pixels that the Flask way must decide as the fp32 graph does: it decodes and resizes otherwise,
by OpenCV and from the full size."""


def outputs(task: Task, body: bytes) -> dict[str, "np.ndarray[Any, Any]"]:
    """The tensors that `answering.answer` wrote one after another, each with its batch axis.

    Raises:
        ServerRefused: there are more or fewer bytes than the task declares.
    """
    kinds = {"UINT8": np.uint8, "INT32": np.int32, "FP32": np.float32}
    found, begin = {}, 0
    for tensor in task.outputs:
        kind = np.dtype(kinds[tensor.dtype])
        end = begin + kind.itemsize * int(np.prod(tensor.shape))
        if end > len(body):
            break
        found[tensor.name] = np.frombuffer(body[begin:end], kind).reshape(1, *tensor.shape)
        begin = end
    if begin != len(body) or len(found) != len(task.outputs):
        raise ServerRefused(f"An answer of {len(body)} bytes came, which are not the outputs of task {task.name}.")
    return found


class Http:
    """A peer that answers POST /answer."""

    def __init__(self, task: Task, port: int) -> None:
        self.task, self.url = task, f"http://127.0.0.1:{port}/answer"

    async def __aenter__(self) -> Self:
        limits = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(
            connector=limits, headers=HEADERS, timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def body(self, encoded: bytes) -> bytes:
        """The answer as it came; failures are `RequestError`s."""
        try:
            async with self._session.post(self.url, data=encoded) as response:
                body = await response.read()
        except TimeoutError:
            raise ServerTimeout(f"No answer came from {self.url} within {TIMEOUT_S} s.") from None
        except aiohttp.ClientError as error:
            raise ServerUnreachable(f"{self.url} does not answer ({error}).") from None
        if response.status != 200:
            raise ServerRefused(f"{self.url} answered {response.status}: {body[:200].decode(errors='replace')}")
        return body

    async def ask(self, encoded: bytes) -> str:
        return digest(outputs(self.task, await self.body(encoded)))


class V2:
    """A peer that speaks the V2 protocol over gRPC, asked with tritonclient: unlike Triton it does not answer raw."""

    def __init__(self, task: Task, port: int) -> None:
        self.task, self.url = task, f"grpc://127.0.0.1:{port}"

    async def __aenter__(self) -> Self:
        self._wire = Wire("gRPC", self.url, "")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._wire.__aexit__(kind, error, trace)

    async def ask(self, encoded: bytes) -> str:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                image = np.array([[encoded]], dtype=object)
                arrays = await self._wire.ask("task", {"image": image}, [Tensor("answer", "UINT8", (1,))])
        except TimeoutError:
            raise ServerTimeout(f"No answer came from {self.url} within {TIMEOUT_S} s.") from None
        except InferenceServerException as error:
            raise translate(self.url, "task", error.status() or "", error.message() or "") from None
        return digest(outputs(self.task, arrays["answer"][0]))


class Json(Http):
    """The Flask way: a label, and masks as PNG."""

    async def ask(self, encoded: bytes) -> str:
        return str(json.loads(await self.body(encoded))["label"])

    async def masks(self, encoded: bytes) -> dict[str, "np.ndarray[Any, Any]"]:
        sent = json.loads(await self.body(encoded))["masks"]
        return {
            name: cv2.imdecode(np.frombuffer(base64.b64decode(png), np.uint8), cv2.IMREAD_GRAYSCALE)
            for name, png in sent.items()
        }


def agreement(one: "np.ndarray[Any, Any]", other: "np.ndarray[Any, Any]") -> float:
    """The share of pixels that both masks put on the same side."""
    return float(np.mean((one >= THRESHOLD) == (other >= THRESHOLD)))
