"""OpenVINO without its telemetry: `from fovea.untracked import openvino`.

Importing openvino 2026.4 reports the import to Intel's analytics (openvino/tools/ovc/__init__.py), unless the machine
has opted out. A server of medical images reports nothing to anyone: without `openvino_telemetry` OpenVINO takes a stub.
"""

import sys

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # importing it is then an ImportError

import openvino  # noqa: E402

__all__ = ["openvino"]
