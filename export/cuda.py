"""Memory on the GPU through the driver's own library, which is wherever a GPU can be used: no package is needed.

Function names and types: https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__MEM.html; those with `_v2` are what
cuda.h has named without it since CUDA 3.2.
"""

import ctypes
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from fovea.errors import ExportError

LIBRARY = "libcuda.so.1"
Address = ctypes.c_uint64  # CUdeviceptr
Array = npt.NDArray[Any]


class Device:
    """The first GPU, in the context that TensorRT uses too; what was allocated in the block is freed at its end."""

    def __enter__(self) -> Self:
        try:
            self._library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise ExportError(f"{LIBRARY} cannot be loaded ({error}): install NVIDIA's driver.") from None
        self._addresses: list[int] = []
        self._context, self._stream = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuInit", ctypes.c_uint(0))
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), ctypes.c_int(0))
        self._call("cuCtxSetCurrent", self._context)
        self._call("cuStreamCreate", ctypes.byref(self._stream), ctypes.c_uint(0))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for address in self._addresses:
            self._call("cuMemFree_v2", Address(address))
        self._call("cuStreamDestroy_v2", self._stream)
        self._call("cuDevicePrimaryCtxRelease_v2", ctypes.c_int(0))

    @property
    def stream(self) -> int:
        return self._stream.value or 0

    def allocate(self, size_bytes: int) -> int:
        address = Address()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size_bytes))
        self._addresses.append(address.value)
        return address.value

    def upload(self, array: Array) -> int:
        """The address of a copy of `array`, which is C-contiguous there."""
        whole = np.ascontiguousarray(array)
        address = self.allocate(whole.nbytes)
        self._call(
            "cuMemcpyHtoD_v2", Address(address), ctypes.c_void_p(whole.ctypes.data), ctypes.c_size_t(whole.nbytes)
        )
        return address

    def download(self, address: int, array: Array) -> None:
        """Fill the C-contiguous `array` from the GPU, when all work of the stream is done."""
        self._call("cuStreamSynchronize", self._stream)
        self._call(
            "cuMemcpyDtoH_v2", ctypes.c_void_p(array.ctypes.data), Address(address), ctypes.c_size_t(array.nbytes)
        )

    def _call(self, name: str, *arguments: Any) -> None:
        code = self._library[name](*arguments)
        if code:
            raise ExportError(
                f"The GPU refused {name} (CUresult {code}): see whether nvidia-smi shows it idle and with free memory."
            )
