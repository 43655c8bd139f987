"""Models asked as they are, through tritonclient: any tensors, any batch, over gRPC, HTTP or shared memory.

The project's client asks whole tasks about one picture. This is for what it does not do, to say what that costs.
"""

from collections.abc import Mapping, Sequence
from multiprocessing.shared_memory import SharedMemory
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import tritonclient.grpc.aio as grpc_client
import tritonclient.http.aio as http_client
from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor, triton_to_np_dtype

from fovea.spec import Tensor
from fovea.transport import MAX_MESSAGE_BYTES, PLAIN

Arrays = dict[str, "np.ndarray[Any, Any]"]
Way = Literal["gRPC", "HTTP", "shared memory"]


class Wire:
    """One connection. `ask` is awaited; through shared memory, inputs and outputs stay on this machine, unsent."""

    def __init__(self, way: Way, grpc_url: str, http_url: str) -> None:
        self.way = way
        if way == "HTTP":
            self._module: Any = http_client
            self._client: Any = http_client.InferenceServerClient(_address(http_url), conn_timeout=None)
        else:
            limits = [(f"grpc.max_{end}_message_length", MAX_MESSAGE_BYTES) for end in ("send", "receive")]
            self._module = grpc_client
            self._client = grpc_client.InferenceServerClient(_address(grpc_url), channel_args=limits)
        self._regions: list[SharedMemory] = []
        self._free: list[SharedMemory] = []

    async def ask(self, model: str, inputs: Mapping[str, npt.NDArray[Any]], outputs: Sequence[Tensor]) -> Arrays:
        """Every output by name, with the batch of the inputs in front.

        `inputs` are uint8, or objects holding `bytes` for a BYTES tensor.
        """
        if self.way == "shared memory":
            return await self._share(model, inputs, outputs)
        given = []
        for name, array in inputs.items():
            tensor = self._module.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
            tensor.set_data_from_numpy(array)
            given.append(tensor)
        wanted = [self._module.InferRequestedOutput(tensor.name) for tensor in outputs]
        extra = {"headers": PLAIN} if self.way == "HTTP" else {}
        answer = await self._client.infer(model, given, outputs=wanted, **extra)
        return {tensor.name: answer.as_numpy(tensor.name) for tensor in outputs}

    async def _share(self, model: str, inputs: Mapping[str, npt.NDArray[Any]], outputs: Sequence[Tensor]) -> Arrays:
        packed = {name: _packed(array) for name, array in inputs.items()}
        rows = len(next(iter(inputs.values())))
        sizes = {t.name: rows * int(np.prod(t.shape)) * np.dtype(triton_to_np_dtype(t.dtype)).itemsize for t in outputs}
        region = await self._region(sum(map(len, packed.values())) + sum(sizes.values()))
        given, wanted, places, offset = [], [], {}, 0
        for name, content in packed.items():
            _memory(region)[offset : offset + len(content)] = content
            tensor = grpc_client.InferInput(name, list(inputs[name].shape), np_to_triton_dtype(inputs[name].dtype))
            tensor.set_shared_memory(region.name, len(content), offset)
            given.append(tensor)
            offset += len(content)
        for name, size in sizes.items():
            output = grpc_client.InferRequestedOutput(name)
            output.set_shared_memory(region.name, size, offset)
            wanted.append(output)
            places[name] = offset
            offset += size
        await self._client.infer(model, given, outputs=wanted)
        answer = {tensor.name: _unpacked(region, places[tensor.name], tensor, rows) for tensor in outputs}
        self._free.append(region)
        return answer

    async def _region(self, size: int) -> SharedMemory:
        """One that nobody uses now and that is large enough; the server is told of each once."""
        for region in self._free:
            if region.size >= size:
                self._free.remove(region)
                return region
        region = SharedMemory(create=True, size=2 * size)
        self._regions.append(region)
        await self._client.register_system_shared_memory(region.name, f"/{region.name}", region.size)
        return region

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for region in self._regions:
            region.close()
            region.unlink()
        await self._client.close()


def _address(url: str) -> str:
    return url.split("//")[1]


def _memory(region: SharedMemory) -> memoryview:
    assert region.buf is not None
    return region.buf


def _packed(array: npt.NDArray[Any]) -> bytes:
    return serialize_byte_tensor(array).item() if array.dtype == object else array.tobytes()


def _unpacked(region: SharedMemory, place: int, tensor: Tensor, rows: int) -> "np.ndarray[Any, Any]":
    """A copy: the region is the next request's."""
    count = rows * int(np.prod(tensor.shape))
    values = np.frombuffer(_memory(region), triton_to_np_dtype(tensor.dtype), count, place)
    return values.reshape(rows, *tensor.shape).copy()
