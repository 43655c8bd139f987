"""Does the exported graph answer what the network answered in its framework? Measured on pictures, at several batches.

|onnx − framework| ≤ atol + rtol · |framework| for every element, where atol and rtol stand beside the network in its
task. A mask is judged before it is rounded to a grey level (a value on a half may round either way), and its rounding
separately; a heat map is judged relative to its largest value, against the gradient that the framework computes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from fovea.errors import ParityError
from fovea.spec import Network, Tolerance

Arrays = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Line:
    """One output of one network, over one set of pictures, at one batch size."""

    network: str
    output: str
    pictures: str
    count: int
    batch: int
    worst: float
    tolerance: Tolerance
    holds: bool


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    """ONNX Runtime on one CPU thread, as the repository serves it."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def batches(largest: int) -> tuple[int, ...]:
    return tuple(sorted({1, 2, 3, largest}))


def measure(
    network: Network,
    model: onnx.ModelProto,
    reference: Callable[[npt.NDArray[np.uint8]], Mapping[str, npt.NDArray[np.float32]]],
    pictures: Mapping[str, npt.NDArray[np.uint8]],
) -> Iterator[Line]:
    """Compare `model` with `reference` on every set of pictures, uint8 `[n, height, width, channels]`.

    `reference` answers a batch with the outputs to be judged, named as tensors of the graph: outputs, or inner
    tensors (a mask's probability), which are made outputs of a copy.
    """
    names = list(reference(next(iter(pictures.values()))[:1]))
    probe = session(with_outputs(model, names))
    for source, stack in pictures.items():
        largest = network.max_batch
        parts = [reference(stack[start : start + largest]) for start in range(0, len(stack), largest)]
        answers = {name: np.concatenate([part[name] for part in parts]) for name in names}
        for size in batches(largest):
            worst = dict.fromkeys(names, 0.0)
            holds = dict.fromkeys(names, True)
            for start in range(0, len(stack), size):
                part = stack[start : start + size]
                expected = {name: answers[name][start : start + size] for name in names}
                found = dict(zip(names, probe.run(names, {network.reads: part}), strict=True))
                for name in names:
                    scale = np.float32(1)
                    if name == "heatmap":
                        scale = max(expected[name].max(), np.finfo(np.float32).tiny)
                    error, ok = compare(found[name] / scale, expected[name] / scale, network.tolerance)
                    worst[name] = max(worst[name], error)
                    holds[name] &= ok
            for name in names:
                yield Line(network.name, name, source, len(stack), size, worst[name], network.tolerance, holds[name])


def compare(
    found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32], tolerance: Tolerance
) -> tuple[float, bool]:
    """(largest |found − expected|, whether every element is within the tolerance); NaN and infinity never are."""
    if found.shape != expected.shape:
        return float("inf"), False
    with np.errstate(invalid="ignore"):  # ∞ − ∞
        difference = np.abs(found.astype(np.float64) - expected.astype(np.float64))
        within = difference <= tolerance.atol + tolerance.rtol * np.abs(expected)
    holds = bool(np.all(within & np.isfinite(difference)))
    return float(np.max(np.nan_to_num(difference, nan=np.inf))), holds


def check_rounding(network: Network, model: onnx.ModelProto, probability: str, stack: npt.NDArray[np.uint8]) -> None:
    """Every mask output, its twin too, must be exactly round(255 · probability), halves to even."""
    masks = [value.name for value in model.graph.output]
    probe = session(with_outputs(model, [*masks, probability]))
    *levels, value = probe.run([*masks, probability], {network.reads: stack})
    expected = np.rint(value * np.float32(255)).astype(np.uint8)
    for name, level in zip(masks, levels, strict=True):
        if not np.array_equal(level, expected):
            raise ParityError(f"{network.name}: output {name} is not round(255 · {probability}).")


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy in which inner tensors of that name are outputs too."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {value.name for value in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    return copy


def enforce(lines: Sequence[Line]) -> None:
    """Raise `ParityError` naming the worst line unless all hold."""
    broken = [line for line in lines if not line.holds]
    if broken:
        line = max(broken, key=lambda line: line.worst)
        raise ParityError(
            f"{line.network}: {line.output} differs from its framework by {line.worst:.2g} on {line.pictures} at batch "
            f"{line.batch}, more than {line.tolerance.atol:g} + {line.tolerance.rtol:g}·|value|: nothing was exported."
        )
