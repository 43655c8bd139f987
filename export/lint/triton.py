"""What a release of Triton reads: its ONNX Runtime, and the fields that its configs may have.

Releases and their ONNX Runtime: docs/introduction/compatibility.md of triton-inference-server/server, r26.08. What each
ONNX Runtime loads was measured with the wheels of those versions (an Identity graph at every opset and IR version).
Fields: model_config.proto of the server 2.51 itself, and of the clients 2.52 to 2.73.
"""

import re
from dataclasses import dataclass

from fovea.errors import UsageError

DEFAULT = "2.51"
OLDEST = 45
ONNX_RUNTIME = (
    *("1.17", "1.18", "1.18", "1.18", "1.18", "1.19", "1.19", "1.19", "1.20"),  # 2.45 (24.04) to 2.53 (24.12)
    *("1.20", "1.20", "1.21", "1.21", "1.22", "1.22", "1.23", "1.23", "1.23", "1.23", "1.23"),  # to 2.64 (25.12)
    *("1.23", "1.24", "1.24", "1.24", "1.24", "1.24", "1.27", "1.28"),  # 2.65 (26.01) to 2.72 (26.08)
)
READS = {
    "1.17": (20, 9),
    "1.18": (21, 10),
    "1.19": (21, 10),
    "1.20": (21, 10),
    "1.21": (22, 10),
    "1.22": (22, 10),
    "1.23": (23, 11),
    "1.24": (25, 13),
    "1.27": (26, 13),
    "1.28": (26, 13),
}
"""ONNX Runtime → the newest opset and the newest IR version that it loads."""
FIELDS_SINCE = {"model_metrics": 52, "ensemble_scheduling.max_inflight_requests": 63}
QUEUE_LIMIT_SINCE = 66
"""Before this release an ensemble hangs for ever when a step's queue is full (triton-inference-server/core#466)."""


@dataclass(frozen=True)
class Triton:
    """Release 2.`minor`."""

    minor: int
    onnx_runtime: str
    opset: int
    ir_version: int

    def __str__(self) -> str:
        return f"Triton 2.{self.minor}"


def release(version: str) -> Triton:
    """The release that `version`, such as 2.51 or 2.51.0, names.

    Raises:
        UsageError: it is not one whose ONNX Runtime is known here.
    """
    newest = OLDEST + len(ONNX_RUNTIME) - 1
    match = re.fullmatch(r"2\.(\d{1,3})(\.\d+)?", version)
    if match is None or not OLDEST <= int(match[1]) <= newest:
        raise UsageError(f"--triton {version}: give a release from 2.{OLDEST} to 2.{newest}, such as {DEFAULT}.")
    minor = int(match[1])
    runtime = ONNX_RUNTIME[minor - OLDEST]
    return Triton(minor, runtime, *READS[runtime])
