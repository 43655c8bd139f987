"""NVIDIA's own perf_analyzer beside ours, as a cross-check of the client and its clock."""

import base64
import csv
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fovea.errors import FoveaError
from fovea.launch import triton_folder

WHEEL = "tritonclient==2.50.0"
"""The last release whose wheel carries the binary. Unpacked, never installed beside the client."""
MISSING = {"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12*"}


def fetch(folder: Path) -> Path:
    """The binary, downloaded by pip once, with the two libraries it misses linked beside it."""
    binary = folder / "perf_analyzer"
    if not binary.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), WHEEL]
        done = subprocess.run(command, capture_output=True, text=True)
        wheels = list(folder.glob("tritonclient-2.50.0-*.whl"))
        if done.returncode or not wheels:
            raise FoveaError(f"perf_analyzer could not be downloaded (pip download {WHEEL}): measured without it.")
        with zipfile.ZipFile(wheels[0]) as wheel:
            member = next(name for name in wheel.namelist() if name.endswith("bin/perf_analyzer"))
            binary.write_bytes(wheel.read(member))
        binary.chmod(0o755)
    libraries = triton_folder().parent.parent / "nvidia_pytriton.libs"
    for name, pattern in MISSING.items():
        link = folder / name
        link.unlink(missing_ok=True)
        link.symlink_to(next(libraries.glob(pattern)))
    return binary


def measure(
    folder: Path, url: str, task: str, pictures: Sequence[bytes], concurrency: int, count: int
) -> dict[str, Any]:
    """Median and mean latency (ms) and images/s as perf_analyzer sees them over gRPC, at one concurrency."""
    binary = fetch(folder)
    inputs, output = folder / "inputs.json", folder / "output.csv"
    # A BYTES tensor in base64 carries the protocol's own 4-byte length in front of each element.
    framed = [len(picture).to_bytes(4, "little") + picture for picture in pictures]
    inputs.write_text(json.dumps({"data": [{"image": {"b64": base64.b64encode(f).decode()}} for f in framed]}))
    command = [
        *(str(binary), "-m", task, "-u", url.split("//")[1], "-i", "grpc"),
        *("--input-data", str(inputs), "--shape", "image:1", "--concurrency-range", str(concurrency)),
        *("--measurement-mode", "count_windows", "--measurement-request-count", str(count)),
        *("--percentile", "50", "--stability-percentage", "25", "-f", str(output)),
    ]
    environment = os.environ | {"LD_LIBRARY_PATH": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    if done.returncode or not output.exists():
        reason = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise FoveaError(f"perf_analyzer failed ({' '.join(reason)}): measured without it.")
    with output.open(newline="") as lines:
        row = next(csv.DictReader(lines))
    return {
        "concurrency": concurrency,
        "images_per_s": float(row["Inferences/Second"]),
        "p50_ms": float(row["p50 latency"]) / 1e3,
        "p95_ms": float(row["p95 latency"]) / 1e3,
        "p99_ms": float(row["p99 latency"]) / 1e3,
    }
