"""What runs graphs in this process: the engines, set the same, that the repository is served with.

Export judges precision with them; for benchmarks and tests they are the pipeline without a server.
"""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from fovea import alone, pixels
from fovea.alone import Elastic, Mark
from fovea.errors import ServerError
from fovea.repository import Hardware, graph_path, hint
from fovea.spec import FRAME, Task
from fovea.untracked import openvino

Arrays = dict[str, npt.NDArray[np.generic]]
Engine = Callable[[npt.NDArray[np.uint8]], Arrays]


def available() -> tuple[Hardware, ...]:
    """The hardware that has an engine here."""
    cuda = "CUDAExecutionProvider" in ort.get_available_providers()
    return ("cpu", "openvino", "gpu") if cuda else ("cpu", "openvino")


def engine(hardware: Hardware, graph: bytes, arithmetic: str, reads: str, threads: int = 1) -> Engine:
    """A function from a batch, uint8 `[batch, height, width, channels]`, to every output by name.

    `arithmetic` is OpenVINO's for what is float in the graph, "f32" or "bf16"; the others have none.

    Raises:
        ServerError: the engine cannot load the graph, or there is none for this hardware.
    """
    try:
        if hardware == "openvino":
            return _openvino(graph, arithmetic, reads, threads)
        return _onnxruntime(hardware, graph, reads, threads)
    except Exception as error:  # both raise classes of their own per cause, none of them public
        raise ServerError(f"{hardware} cannot load the graph: {_reason(error)}") from None


def elastic(
    mark: Mark, cores: int, hardware: Hardware, graph: bytes, arithmetic: str, reads: str, shape: Sequence[int]
) -> Elastic[Engine]:
    """An `engine` of one thread, and of `cores` for who is alone; `shape` is that of one row, without the batch."""
    noise = alone.noise((1, *shape))

    def probe(run: Engine) -> bytes:
        return b"".join(array.tobytes() for array in run(noise).values())

    return Elastic(mark, 1, cores, lambda threads: engine(hardware, graph, arithmetic, reads, threads), probe)


class Pipeline:
    """A task without a server: fovea.pixels, then each network as `hardware` serves it.

    One thread; of several that share their marks, one that is alone takes `cores`, as the server's steps do.
    """

    def __init__(
        self, task: Task, repository: Path, hardware: Hardware, marks: bytearray | None = None, cores: int = 1
    ) -> None:
        self.task = task
        self._mark = Mark(bytearray(1) if marks is None else marks)
        self._engines = [
            elastic(
                self._mark,
                cores,
                hardware,
                graph_path(repository, network, hardware).read_bytes(),
                hint(repository, network, hardware),
                network.reads,
                task.input_shape(network),
            )
            for network in task.networks
        ]
        for network in self._engines:
            network.wait()

    def answer(self, encoded: Sequence[bytes]) -> Arrays:
        """Every output of the task, with a row for each picture; the networks' own intermediate tensors besides.

        Raises:
            UnreadableImage: one of the pictures is none that can be trusted.
        """
        with self._mark:
            seen = [pixels.preprocess(picture, self.task.image) for picture in encoded]
            tensors: Arrays = {
                "pixels": np.stack([picture for picture, _ in seen]),
                FRAME.name: np.array([frame for _, frame in seen], np.int32),
            }
            for network, own in zip(self.task.networks, self._engines, strict=True):
                tensors |= own.engine(tensors[self.task.source(network)].astype(np.uint8, copy=False))
            return tensors


def _reason(error: Exception) -> str:
    """The message without the places in OpenVINO's source that it begins with."""
    places = ("Exception from", "Check '", "Summary", "To facilitate")
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith(places))


def _onnxruntime(hardware: Hardware, graph: bytes, reads: str, threads: int) -> Engine:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the other cores are another's by then
    options.log_severity_level = 3
    provider = "CUDAExecutionProvider" if hardware == "gpu" else "CPUExecutionProvider"
    session = ort.InferenceSession(graph, options, providers=[provider])
    if session.get_providers()[0] != provider:
        raise ServerError(f"{provider} could not be started")
    names = [value.name for value in session.get_outputs()]

    def run(batch: npt.NDArray[np.uint8]) -> Arrays:
        return dict(zip(names, session.run(names, {reads: batch}), strict=True))

    return run


def _openvino(graph: bytes, arithmetic: str, reads: str, threads: int) -> Engine:
    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": arithmetic,  # left alone, OpenVINO takes bf16 by itself where the CPU has it
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
    model = core.read_model(io.BytesIO(graph))
    # One picture at a time: with a free batch axis it is up to twice as slow, and batches gain nothing on a CPU.
    model.reshape({port.get_any_name(): [1, *list(port.get_partial_shape())[1:]] for port in model.inputs})
    compiled = core.compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()
    names = [name for port in compiled.outputs for name in port.get_names()]  # an output may have several

    def run(batch: npt.NDArray[np.uint8]) -> Arrays:
        rows = []
        for row in range(len(batch)):
            request.infer({reads: batch[row : row + 1]})
            rows.append([request.get_tensor(name).data.copy() for name in names])
        return {name: np.concatenate(parts) for name, parts in zip(names, zip(*rows, strict=True), strict=True)}

    return run
