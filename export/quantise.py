"""fp16 and int8 graphs from an fp32 one: precision lives in the file, so that it can be checked on any machine.

int8 is static: weights per channel, activations uint8, both between QuantizeLinear and DequantizeLinear (QDQ), with
ranges from training pictures. Where the network ends by rounding to a uint8 mask, that rounding *is* a quantisation: it
becomes one operator. The same could be done where it begins by scaling a uint8 picture; that gains 5 % on ONNX Runtime
and costs 12 % on OpenVINO (U-Net, one thread), so it is not done.
"""

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.calibrate import TensorsData, create_calibrator
from onnxruntime.quantization.quantize import save_tensors_data
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from export import parity

Calibration = Literal["min-max", "percentile", "entropy"]
CALIBRATIONS: dict[Calibration, tuple[CalibrationMethod, dict[str, float | int]]] = {
    "min-max": (CalibrationMethod.MinMax, {}),
    "percentile": (CalibrationMethod.Percentile, {"percentile": 99.999, "num_bins": 2048}),
    "entropy": (CalibrationMethod.Entropy, {"num_bins": 512, "num_quantized_bins": 128}),
}
OPERATORS = ("Conv", "ConvTranspose", "MaxPool", "Concat")
"""The matrix product of the head stays float: it is small, and the heat map is computed from its kernel."""
WEIGHTED = ("Conv", "ConvTranspose")
AROUND_ZERO = "model.int8.trt.onnx"
"""The int8 graph that TensorRT takes: activations too are int8 around zero, and biases float."""


class _Pictures(CalibrationDataReader):  # type: ignore[misc]
    """One batch of one picture, then nothing: ranges are collected picture by picture, or all would lie in memory."""

    def __init__(self, reads: str, picture: npt.NDArray[np.uint8]) -> None:
        self._left = [{reads: picture[None]}]

    def get_next(self) -> dict[str, npt.NDArray[np.uint8]] | None:
        return self._left.pop() if self._left else None


def fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights and arithmetic in float16; inputs and outputs keep their types."""
    with _silenced():
        half: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=True)
    OnnxModel.graph_topological_sort(half.graph)  # it appends the casts of outputs that inner nodes read, too late
    return half


def ranges(
    model: onnx.ModelProto, reads: str, pictures: npt.NDArray[np.uint8], calibration: Calibration
) -> TensorsData:
    """The range of every activation over `pictures`, uint8 `[n, height, width, channels]`."""
    method, settings = CALIBRATIONS[calibration]
    with tempfile.TemporaryDirectory(prefix="fovea-") as folder, _silenced():
        source = Path(folder) / "model.onnx"
        onnx.save(model, source)
        calibrator = create_calibrator(
            source,
            list(OPERATORS),
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=method,
            extra_options=settings,
        )
        for picture in pictures:
            calibrator.collect_data(_Pictures(reads, picture))
        return calibrator.compute_data()


def int8(
    model: onnx.ModelProto,
    calibration: Calibration,
    found: TensorsData,
    in_float: Sequence[str] = (),
    symmetric: bool = False,
    fuse: bool = True,
) -> onnx.ModelProto:
    """The QDQ graph with these ranges; nodes named in `in_float` are left as they are.

    `symmetric` quantises activations to int8 around zero, and leaves edges and biases float, as TensorRT wants it: an
    int32 bias it refuses (https://github.com/microsoft/onnxruntime/issues/14229). The mask's edge is fused unless so,
    or unless told not to `fuse` (to measure what that is worth).
    """
    with tempfile.TemporaryDirectory(prefix="fovea-") as folder, _silenced():
        cache, made = Path(folder) / "ranges.json", Path(folder) / "int8.onnx"
        save_tensors_data(found, cache, smooth_quant=False)
        quantize_static(
            model,
            made,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(OPERATORS),
            nodes_to_exclude=list(in_float),
            per_channel=True,
            activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CALIBRATIONS[calibration][0],
            calibration_cache_path=cache,
            extra_options={"ActivationSymmetric": symmetric, "QuantizeBias": not symmetric},
        )
        quantised = onnx.load(made)
    if fuse and not symmetric:
        _fuse_masks(quantised)
    _drop_unused(quantised)
    return quantised


def sensitive(
    model: onnx.ModelProto, calibration: Calibration, found: TensorsData, pictures: npt.NDArray[np.uint8]
) -> list[str]:
    """Names of the nodes with weights; first the one that, quantised alone, moves the answers on `pictures` most."""
    nodes = [node.name for node in model.graph.node if node.op_type in OPERATORS]
    weighted = [node.name for node in model.graph.node if node.op_type in WEIGHTED]
    expected = _answers(model, pictures)
    moved = {}
    for name in weighted:
        alone = int8(model, calibration, found, in_float=[other for other in nodes if other != name])
        moved[name] = sum(float(np.abs(a - b).mean()) for a, b in zip(_answers(alone, pictures), expected, strict=True))
    return sorted(weighted, key=lambda name: -moved[name])


def _answers(model: onnx.ModelProto, pictures: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float64]]:
    """Every output for all pictures, each in parts of its largest value, so that they can be added."""
    probe = parity.session(model)
    name = model.graph.input[0].name
    rows = [probe.run(None, {name: picture[None]}) for picture in pictures]
    outputs = [np.concatenate(parts).astype(np.float64) for parts in zip(*rows, strict=True)]
    return [output / max(float(np.abs(output).max()), np.finfo(np.float32).tiny) for output in outputs]


def _fuse_masks(model: onnx.ModelProto) -> None:
    """uint8(round(255 · p)) becomes QuantizeLinear(p, 1/255): one pass over the mask in place of three."""
    inner = model.graph
    made_by = {name: node for node in inner.node for name in node.output}
    for cast in [node for node in inner.node if node.op_type == "Cast"]:
        rounded = made_by.get(cast.input[0])
        scaled = made_by.get(rounded.input[0]) if rounded is not None and rounded.op_type == "Round" else None
        if rounded is None or scaled is None or scaled.op_type != "Mul":
            continue
        level, zero = f"{cast.output[0]}_level", f"{cast.output[0]}_zero"
        inner.initializer.append(numpy_helper.from_array(np.array(1 / 255, np.float32), level))
        inner.initializer.append(numpy_helper.from_array(np.zeros((), np.uint8), zero))
        place = list(inner.node).index(scaled)
        for node in (cast, rounded, scaled):
            inner.node.remove(node)
        inner.node.insert(place, helper.make_node("QuantizeLinear", [scaled.input[0], level, zero], cast.output))


def _drop_unused(model: onnx.ModelProto) -> None:
    read = {name for node in model.graph.node for name in node.input}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in read]:
        model.graph.initializer.remove(tensor)


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """ONNX Runtime's quantizer prints its progress and its advice to stdout and to the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
