"""What every peer does with a picture: the task's own pipeline. Runs inside the peer, told by `PEER_…` variables.

So decoding, networks, engine and precision are ours, and only the serving around them is the peer's.
"""

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import cast
from uuid import uuid4

import tritonclient

# A peer carries nothing that it does not use. Of tritonclient, fovea.repository needs one module only; all of it would
# also register the V2 protocol's messages, which MLServer does too, and protobuf takes no name twice.
sys.modules["tritonclient.grpc"] = ModuleType("tritonclient.grpc")
sys.modules["tritonclient.grpc"].__path__ = [f"{folder}/grpc" for folder in tritonclient.__path__]
if os.environ["PEER_HARDWARE"] != "openvino":
    sys.modules["openvino"] = ModuleType("openvino")

from fovea.engines import Pipeline  # noqa: E402
from fovea.repository import Hardware  # noqa: E402
from fovea.tasks import task_named  # noqa: E402

TASK = task_named(os.environ["PEER_TASK"])
FOLDER = Path(os.environ["PEER_FOLDER"])
PORT = int(os.environ["PEER_PORT"])
CORES = int(os.environ["PEER_CORES"])


def pipeline() -> Pipeline:
    """One of as many as the peer has, on its share of the cores. All are there before it is measured."""
    hardware, threads = cast(Hardware, os.environ["PEER_HARDWARE"]), int(os.environ["PEER_THREADS"])
    made = Pipeline(TASK, Path(os.environ["PEER_REPOSITORY"]), hardware, cores=threads)
    loaded()
    return made


def loaded() -> None:
    """Tell the benchmark, which counts these files, that one more is ready."""
    (FOLDER / f"loaded.{uuid4()}").touch()


def answer(made: Pipeline, encoded: bytes) -> bytes:
    """Every output of the task for one picture, one after another: the task declares their kinds and shapes."""
    tensors = made.answer([encoded])
    return b"".join(tensors[tensor.name].tobytes() for tensor in TASK.outputs)
