"""The two wires, gRPC and HTTP, awaited, behind one interface; their failures made ours."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import aiohttp
import grpc
import numpy as np
import tritonclient.http.aio as http_client
from google.protobuf.json_format import ParseDict, ParseError
from tritonclient.grpc import model_config_pb2, service_pb2_grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from fovea.errors import (
    FoveaError,
    ServerBusy,
    ServerRefused,
    ServerUnreachable,
    UnreadableImage,
    UsageError,
    WrongModel,
)

MAX_MESSAGE_BYTES = 256 * 1024 * 1024
"""gRPC's own limit of 4 MB is less than one large photograph."""

PLAIN = {"Accept-Encoding": "identity"}
"""aiohttp asks for compression unless told not to, and Triton then spends 10 ms a mask on it."""

Arrays = dict[str, "np.ndarray[Any, Any]"]
Config = Any
"""A protobuf `ModelConfig`."""

UNREADABLE = "UnreadableImage: "
"""How the server's preprocessing marks a refusal that is the picture's fault."""


@dataclass(frozen=True)
class Description:
    """What a server says of a model.

    Attributes:
        tensors: output → (dtype, shape without batch).
        operating_points: thresholds by name.
        max_batch: the most pictures that one request may hold.
        instances: how many requests its first step works on at once.
    """

    version: str
    tensors: dict[str, tuple[str, tuple[int, ...]]]
    labels: tuple[str, ...]
    operating_points: dict[str, float]
    max_batch: int
    instances: int


class Transport(Protocol):
    """What a client needs of a wire; every failure is a `FoveaError`."""

    async def describe(self, model: str) -> Description:
        """As the server says."""

    async def infer(self, model: str, encoded: Sequence[bytes], outputs: Sequence[str]) -> tuple[Arrays, str]:
        """The outputs, each with a row for every picture, and the version of the model that gave them."""

    async def close(self) -> None: ...


def connect(url: str) -> Transport:
    """The transport for grpc://host:port or http://host:port, or `UsageError`."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme not in ("grpc", "http") or not parts.hostname or not port or parts.path.strip("/"):
        raise UsageError(f"{url!r} is no server address: write grpc://host:8001 or http://host:8000.")
    return (Grpc if parts.scheme == "grpc" else Http)(url, f"{parts.hostname}:{port}")


class Grpc:
    """V2 over gRPC, in tritonclient's messages.

    Its own client builds them anew for every call, and gRPC's asyncio does more for a call than gRPC's threads: without
    both a call costs this process 1.2 ms where it took 1.9.
    """

    def __init__(self, url: str, address: str) -> None:
        self.url = url
        limits = [
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ]
        self.channel = grpc.insecure_channel(address, options=limits)
        self.server = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)
        self._requests: dict[tuple[str, ...], pb.ModelInferRequest] = {}

    async def describe(self, model: str) -> Description:
        with _failures(self.url, model):
            metadata = await _ended(self.server.ModelMetadata.future(pb.ModelMetadataRequest(name=model)))
            version = metadata.versions[-1]
            found = {o.name: (o.datatype, tuple(o.shape)[1:]) for o in metadata.outputs}
            return await _described(version, found, model, self._config)

    async def _config(self, model: str, version: str) -> Config:
        return (await _ended(self.server.ModelConfig.future(pb.ModelConfigRequest(name=model, version=version)))).config

    async def infer(self, model: str, encoded: Sequence[bytes], outputs: Sequence[str]) -> tuple[Arrays, str]:
        request = pb.ModelInferRequest()
        request.CopyFrom(self._request(model, outputs))
        request.inputs[0].shape[0] = len(encoded)
        # A BYTES tensor is, for each element, its length in four bytes and the element.
        elements = (part for picture in encoded for part in (len(picture).to_bytes(4, "little"), picture))
        request.raw_input_contents.append(b"".join(elements))
        with _failures(self.url, model):
            answer = await _ended(self.server.ModelInfer.future(request))
            found = {
                output.name: np.frombuffer(raw, triton_to_np_dtype(output.datatype)).reshape(output.shape)
                for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
            }
            return _complete(found, outputs), answer.model_version

    def _request(self, model: str, outputs: Sequence[str]) -> pb.ModelInferRequest:
        """All of a request but the picture."""
        key = (model, *outputs)
        if key not in self._requests:
            request = pb.ModelInferRequest(model_name=model)
            request.inputs.add(name="image", datatype="BYTES", shape=[1, 1])
            for name in outputs:
                request.outputs.add(name=name)
            self._requests[key] = request
        return self._requests[key]

    async def close(self) -> None:
        self.channel.close()


async def _ended(call: Any) -> Any:
    """The answer to a call that gRPC's threads carry out; the call is cancelled with whoever waits for it."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ended.done():
            ended.set_result(None)

    def told(_call: Any) -> None:
        with suppress(RuntimeError):  # the loop has ended before the call
            loop.call_soon_threadsafe(wake)

    call.add_done_callback(told)
    try:
        await ended
    except asyncio.CancelledError:
        call.cancel()
        raise
    return call.result()


class Http:
    """V2 over HTTP, tensors in the binary extension."""

    def __init__(self, url: str, address: str) -> None:
        self.url = url
        # Deadlines are the caller's: a time limit of the session would end calls that were given longer.
        self.client = http_client.InferenceServerClient(address, conn_timeout=None)

    async def describe(self, model: str) -> Description:
        with _failures(self.url, model):
            metadata = await self.client.get_model_metadata(model)
            version = metadata["versions"][-1]
            found = {o["name"]: (o["datatype"], tuple(o["shape"])[1:]) for o in metadata["outputs"]}
            return await _described(version, found, model, self._config)

    async def _config(self, model: str, version: str) -> Config:
        said = await self.client.get_model_config(model, version)
        return ParseDict(said, model_config_pb2.ModelConfig(), ignore_unknown_fields=True)

    async def infer(self, model: str, encoded: Sequence[bytes], outputs: Sequence[str]) -> tuple[Arrays, str]:
        image = http_client.InferInput("image", [len(encoded), 1], "BYTES")
        image.set_data_from_numpy(np.array([[picture] for picture in encoded], dtype=object))
        wanted = [http_client.InferRequestedOutput(name) for name in outputs]
        with _failures(self.url, model):
            result = await self.client.infer(model, [image], outputs=wanted, headers=PLAIN)
            found = {name: array for name in outputs if (array := result.as_numpy(name)) is not None}
            return _complete(found, outputs), result.get_response()["model_version"]

    async def close(self) -> None:
        await self.client.close()


async def _described(
    version: str,
    tensors: dict[str, tuple[str, tuple[int, ...]]],
    model: str,
    config_of: Callable[[str, str], Awaitable[Config]],
) -> Description:
    config = await config_of(model, version)
    said = {name: value.string_value for name, value in config.parameters.items()}
    entry = next(
        (step.model_name for step in config.ensemble_scheduling.step if "image" in step.input_map.values()), ""
    )
    first = await config_of(entry, "") if entry else config
    return Description(
        version,
        tensors,
        labels=tuple(said["labels"].split(",")) if said["labels"] else (),
        operating_points={name: float(value) for name, value in json.loads(said.get("operating_points", "{}")).items()},
        max_batch=max(config.max_batch_size, 1),
        instances=max(sum(group.count for group in first.instance_group), 1),
    )


def _complete(found: Arrays, outputs: Sequence[str]) -> Arrays:
    missing = [name for name in outputs if name not in found]
    if missing:
        raise ServerRefused(f"The server left out {', '.join(missing)} of its answer.")
    return found


@contextmanager
def _failures(url: str, model: str) -> Iterator[None]:
    """Turn what tritonclient, gRPC and aiohttp raise into the one sentence and class that say what to do."""
    try:
        yield
    except (FoveaError, asyncio.CancelledError):
        raise
    except grpc.RpcError as error:
        raise translate(url, model, str(error.code()), error.details() or "") from None
    except grpc.FutureCancelledError:
        raise unreachable(url, "the connection was closed") from None
    except InferenceServerException as error:
        raise translate(url, model, error.status() or "", error.message() or "") from None
    except (aiohttp.ClientConnectionError, ConnectionError) as error:
        raise unreachable(url, str(error)) from None
    except (aiohttp.ClientError, ParseError, LookupError, TypeError, ValueError) as error:
        # An answer, but not of this protocol: JSON without the fields, a page of HTML, half a message.
        raise WrongModel(
            f"What answers at {url} is no Triton server ({type(error).__name__}): check the address."
        ) from None


def translate(url: str, model: str, status: str, message: str) -> FoveaError:
    """Ours for a status of gRPC ("StatusCode.UNAVAILABLE") or HTTP ("400") and the server's message."""
    status = status.removeprefix("StatusCode.")
    if UNREADABLE in message:
        return UnreadableImage(message.split(UNREADABLE, 1)[1].strip())
    if "unknown model" in message or status == "NOT_FOUND":
        task, _, release = model.partition("-")
        if release:
            return WrongModel(
                f"The server at {url} does not serve release {release} of {task}: ask one that "
                f"python -m export list {task} shows with that server."
            )
        return WrongModel(f"The server at {url} does not serve task {task}: start it with that task (make serve).")
    if status in ("RESOURCE_EXHAUSTED", "429", "503") or "maximum queue size" in message.lower():
        return ServerBusy(f"The server at {url} is busy ({_short(message)}): send again later, or fewer at once.")
    if status in ("UNAVAILABLE", "CANCELLED") or not status:
        return unreachable(url, message)
    if status in ("404", "405", "UNIMPLEMENTED"):
        return WrongModel(f"What answers at {url} is no Triton server ({_short(message)}): check the address.")
    if "stub process" in message.lower():
        return ServerRefused(
            f"A Python process behind {url} has died (killed, or out of memory; {_short(message)}): restart the server."
        )
    return ServerRefused(f"The server at {url} refused ({_short(message)}): its own messages may say more.")


def unreachable(url: str, message: str) -> FoveaError:
    if "http1" in message.lower():
        return WrongModel(f"{url} speaks HTTP, not gRPC: use http:// there, or the gRPC port.")
    return ServerUnreachable(f"No server answers at {url}: start one with make serve, or check the address.")


def _short(message: str) -> str:
    """The first line, without the library's nested detail."""
    line = message.strip().splitlines()[0] if message.strip() else "no reason given"
    return line if len(line) <= 200 else line[:199] + "…"
