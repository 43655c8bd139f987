"""The GPU's memory through the driver's library: as C declares it, and freed whatever happens."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from export import cuda
from fovea.errors import ExportError

SOURCE = r"""
#include <stdlib.h>
#include <string.h>
typedef unsigned long long Address;
int cuInit(unsigned flags) { return flags != 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)0x7f0000000001; return device; }
int cuCtxSetCurrent(void *context) { return context != (void *)0x7f0000000001; }
int cuStreamCreate(void **stream, unsigned flags) { *stream = (void *)0x7f0000000002; return flags != 0; }
int cuStreamSynchronize(void *stream) { return stream != (void *)0x7f0000000002; }
int cuStreamDestroy_v2(void *stream) { return stream != (void *)0x7f0000000002; }
int cuDevicePrimaryCtxRelease_v2(int device) { return device; }
int cuMemAlloc_v2(Address *address, size_t size) { *address = (Address)malloc(size); return *address == 0; }
int cuMemFree_v2(Address address) { free((void *)address); return 0; }
int cuMemcpyHtoD_v2(Address to, const void *from, size_t size) { memcpy((void *)to, from, size); return 0; }
int cuMemcpyDtoH_v2(void *to, Address from, size_t size) { memcpy(to, (void *)from, size); return 0; }
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_driver_is_called_as_c_declares_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library with the driver's own signatures: addresses and streams are 64 bits wide."""
    (tmp_path / "cuda.c").write_text(SOURCE)
    library = tmp_path / "libcuda.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "cuda.c"], check=True)
    monkeypatch.setattr(cuda, "LIBRARY", str(library))
    picture = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    with cuda.Device() as device:
        assert device.stream == 0x7F0000000002
        address = device.upload(picture.transpose(2, 0, 1))
        back = np.empty((4, 2, 3), np.uint8)
        device.download(address, back)
    np.testing.assert_array_equal(back, picture.transpose(2, 0, 1))


def test_a_missing_driver_library_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "LIBRARY", "libcuda-that-is-not-there.so.1")
    with pytest.raises(ExportError, match=r"libcuda-that-is-not-there\.so\.1 cannot be loaded.*driver"), cuda.Device():
        pass
