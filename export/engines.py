"""What runs a graph on this machine, one thread each, as the repository's configs ask for it."""

import io
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import openvino

from fovea.errors import ExportError
from fovea.repository import Hardware

Answers = dict[str, npt.NDArray[np.generic]]
Engine = Callable[[npt.NDArray[np.uint8]], Answers]


def available() -> tuple[Hardware, ...]:
    """The hardware on which a precision can be measured here."""
    cuda = "CUDAExecutionProvider" in ort.get_available_providers()
    return ("cpu", "openvino", "gpu") if cuda else ("cpu", "openvino")


def engine(hardware: Hardware, graph: bytes, hint: str, reads: str) -> Engine:
    """A function from one picture, uint8 `[1, height, width, channels]`, to every output by name.

    `hint` is OpenVINO's arithmetic for what is float in the graph, "f32" or "bf16"; the others have none.

    Raises:
        ExportError: the engine cannot load the graph.
    """
    try:
        return _openvino(graph, hint, reads) if hardware == "openvino" else _onnxruntime(hardware, graph, reads)
    except Exception as error:  # both raise classes of their own per cause, none of them public
        raise ExportError(f"{hardware} cannot load the graph: {str(error).strip().splitlines()[0]}") from None


def _onnxruntime(hardware: Hardware, graph: bytes, reads: str) -> Engine:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    provider = "CUDAExecutionProvider" if hardware == "gpu" else "CPUExecutionProvider"
    session = ort.InferenceSession(graph, options, providers=[provider])
    if session.get_providers()[0] != provider:
        raise ExportError(f"{provider} could not be started")
    names = [value.name for value in session.get_outputs()]

    def run(batch: npt.NDArray[np.uint8]) -> Answers:
        return dict(zip(names, session.run(names, {reads: batch}), strict=True))

    return run


def _openvino(graph: bytes, hint: str, reads: str) -> Engine:
    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": hint,  # left alone, OpenVINO takes bf16 by itself where the CPU has it
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
    model = core.read_model(io.BytesIO(graph))
    model.reshape({port.get_any_name(): [1, *list(port.get_partial_shape())[1:]] for port in model.inputs})
    compiled = core.compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()
    names = [name for port in compiled.outputs for name in port.get_names()]  # an output may have several

    def run(batch: npt.NDArray[np.uint8]) -> Answers:
        request.infer({reads: batch})
        return {name: request.get_tensor(name).data.copy() for name in names}

    return run
