"""How NVIDIA's tritonserver, from the wheel nvidia-pytriton, is found and started in this environment."""

import ctypes.util
import importlib.util
import os
import shutil
import socket
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fovea import alone
from fovea.errors import ServerError
from fovea.repository import ON_GPU, Hardware, fused_name, models
from fovea.spec import Task

ADDRESS = "127.0.0.1"
"""Triton 2.51 has known holes and stays on loopback; outside, use NVIDIA's current container."""
BACKENDS = Path(__file__).parent / "backends"


@dataclass(frozen=True)
class Ports:
    grpc: int
    http: int
    metrics: int


def triton_folder() -> Path:
    """The wheel's `tritonserver` folder, after the checks without which the server would fail obscurely.

    Raises:
        ServerError: the wheel or a Python library is missing, or numpy is too new.
    """
    found = importlib.util.find_spec("pytriton")
    if found is None or not found.submodule_search_locations:
        raise ServerError("NVIDIA's tritonserver is not installed: pip install 'fovea[server]', or run make demo.")
    folder = Path(next(iter(found.submodule_search_locations))) / "tritonserver"
    if int(np.__version__.split(".")[0]) >= 2:
        raise ServerError(
            f"numpy {np.__version__} is installed, and Triton 2.51 silently exchanges wrong data with numpy 2: "
            "pip install 'numpy<2'."
        )
    if not stub(folder).exists():
        raise ServerError(
            f"Triton 2.51 has no Python stub for Python {_version()}: make the environment with Python 3.10 to 3.12."
        )
    if _libpython() is None:
        raise ServerError(
            f"The shared library of Python {_version()} is missing, which Triton's Python stub needs: "
            f"apt-get install libpython{_version()}, or use a Python built with --enable-shared."
        )
    return folder


def stub(folder: Path) -> Path:
    return folder / "python_backend_stubs" / _version() / "triton_python_backend_stub"


def _version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _libpython() -> Path | None:
    """The folder of this Python's shared library; empty path if the linker finds it by itself."""
    folder = Path(sysconfig.get_config_var("LIBDIR") or "")
    if (folder / f"libpython{_version()}.so.1.0").exists():
        return folder
    return Path() if ctypes.util.find_library(f"python{_version()}") else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        return int(probe.getsockname()[1])


def claim(port: int, name: str) -> int:
    """`port` if it is free, a free one if it is 0.

    Raises:
        ServerError: something listens on it.
    """
    if port == 0:
        return free_port()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except OSError as error:
            raise ServerError(
                f"Port {port} ({name}) cannot be used ({error.strerror}): stop what listens there, or choose another."
            ) from None
    return port


def prepare(
    folder: Path, repository: Path, tasks: Sequence[Task], *, released: bool = False, fused: bool = False
) -> None:
    """Fill a private folder: `backends/` as Triton wants them, `repository/` with links to these tasks' models only.

    A folder of releases is linked as a whole: what will be published is loaded from it.
    """
    triton = triton_folder()
    # Copies: Triton refuses a backend whose library, after links, lies outside the backend directory.
    no_bytecode = shutil.ignore_patterns("__pycache__", "__init__.py")
    shutil.copytree(triton / "backends" / "python", folder / "backends" / "python", ignore=no_bytecode)
    shutil.copy2(stub(triton), folder / "backends" / "python")
    shutil.copytree(BACKENDS, folder / "backends", ignore=no_bytecode, dirs_exist_ok=True)
    (folder / "marks").write_bytes(bytes(alone.PLACES))
    if released:
        (folder / "repository").symlink_to(repository.resolve())
        return
    (folder / "repository").mkdir()
    names = {name for task in tasks for name in (*models(task), *([fused_name(task)] if fused else []))}
    for name in names:
        (folder / "repository" / name).symlink_to((repository / name).resolve())


def command(folder: Path, hardware: Hardware, ports: Ports, prefix: str, controlled: Sequence[str] = ()) -> list[str]:
    """Serve all of `folder`'s repository as it is or, under model control, the `controlled` models to begin with."""
    flags = {
        "model-repository": folder / "repository",
        "backend-directory": folder / "backends",
        "model-config-name": hardware,
        "model-control-mode": "explicit" if controlled else "none",
        # To be strict, Triton would not be ready as soon as one model has been taken out of service.
        "strict-readiness": "false" if controlled else "true",
        "exit-on-error": "true",
        "exit-timeout-secs": 10,
        "http-address": ADDRESS,
        "http-port": ports.http,
        "grpc-address": ADDRESS,
        "grpc-port": ports.grpc,
        "metrics-address": ADDRESS,
        "metrics-port": ports.metrics,
        "allow-gpu-metrics": str(hardware in ON_GPU).lower(),
        "allow-sagemaker": "false",
        "allow-vertex-ai": "false",
        "backend-config": f"python,shm-region-prefix-name={prefix}",
    }
    binary = triton_folder() / "bin" / "tritonserver"
    options = [f"--{name}={value}" for name, value in flags.items()]
    return [str(binary), "--disable-auto-complete-config", *options, *(f"--load-model={name}" for name in controlled)]


def environment(folder: Path) -> dict[str, str]:
    """The stub starts Python isolated and takes the packages of the environment whose python is first on PATH."""
    libraries = [
        triton_folder().parent.parent / "nvidia_pytriton.libs",
        _libpython(),
        os.environ.get("LD_LIBRARY_PATH"),
    ]
    return os.environ | {
        "LD_LIBRARY_PATH": ":".join(str(path) for path in libraries if path and str(path) != "."),
        "PATH": f"{Path(sys.prefix) / 'bin'}:{os.environ.get('PATH', os.defpath)}",
        "VIRTUAL_ENV": sys.prefix,
        # Steps are parallel by instances: a library that starts its own threads takes another step's core.
        "OMP_NUM_THREADS": "1",
        # Pictures are freed and allocated anew with every request: keep their pages (measured: −2 to −3 ms of 14).
        "MALLOC_MMAP_THRESHOLD_": str(64 * 2**20),
        "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
        "OPENBLAS_NUM_THREADS": "1",
        alone.VARIABLE: str(folder / "marks"),
    }
