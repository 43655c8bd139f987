"""Does an engine answer what ONNX Runtime does? At every batch size of its profile, on phantoms and real pictures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from rich.table import Table

from export import parity
from export.tensorrt_graph import Precision
from fovea.errors import ParityError
from fovea.spec import Network, Tolerance

Arrays = Mapping[str, npt.NDArray[Any]]
Run = Callable[[npt.NDArray[np.uint8]], Arrays]


@dataclass(frozen=True)
class Allowed:
    """Largest difference: of a mask in grey levels, of a probability, of a heat map in parts of its largest value."""

    levels: int
    probability: float
    heatmap: float


ALLOWED: dict[Precision, Allowed] = {
    # Against the fp32 graph: kernels that sum in another order. TF32, with fp16's mantissa, would be ten times as far.
    "fp32": Allowed(1, 1e-3, 1e-3),
    # Against the fp32 graph: twice what the fp16 graphs differ in ONNX Runtime on a CPU, on phantoms: 1, 0.015, 0.040.
    "fp16": Allowed(2, 0.03, 0.08),
    # Against the int8 graph itself: twice the difference, in ONNX Runtime on a CPU, on phantoms, between computing it
    # in integers and in floats: 14, 0.013, 0.076. What int8 costs the answers is judged where the graph is made.
    "int8": Allowed(30, 0.03, 0.16),
}
"""None of them was measured on a GPU yet."""


@dataclass(frozen=True)
class Judged:
    """One output over one set of pictures; `worst` is the largest difference, first met at batch `batch`."""

    network: str
    output: str
    pictures: str
    count: int
    batches: tuple[int, ...]
    worst: float
    batch: int
    allowed: float
    holds: bool


def measure(
    network: Network,
    precision: Precision,
    reference: onnx.ModelProto,
    run: Run,
    pictures: Mapping[str, npt.NDArray[np.uint8]],
) -> list[Judged]:
    """Compare `run` with `reference` in ONNX Runtime on every set of pictures, uint8 `[n, height, width, channels]`."""
    names = [value.name for value in reference.graph.output]
    probe = parity.session(reference)
    sizes = tuple(range(1, network.max_batch + 1))
    judged = []
    for source, stack in pictures.items():
        rows = [probe.run(names, {network.reads: picture[None]}) for picture in stack]
        expected = {name: np.concatenate(parts) for name, parts in zip(names, zip(*rows, strict=True), strict=True)}
        worst = dict.fromkeys(names, (0.0, 1))
        for size in sizes:
            found = _in_batches(run, stack, size)
            for name in names:
                error = difference(name, found, expected)
                worst[name] = max(worst[name], (error, size), key=lambda pair: pair[0])
        for name in names:
            limit, (error, size) = allowed(precision, name, reference), worst[name]
            judged.append(
                Judged(network.name, name, source, len(stack), sizes, error, size, limit, bool(error <= limit))
            )
    return judged


def _in_batches(run: Run, stack: npt.NDArray[np.uint8], size: int) -> Arrays:
    """Answers to all pictures, `size` at a time; the last batch is filled up from the beginning."""
    places = np.arange(-(-len(stack) // size) * size) % len(stack)
    parts = [run(stack[places[start : start + size]]) for start in range(0, len(places), size)]
    return {name: np.concatenate([part[name] for part in parts])[: len(stack)] for name in parts[0]}


def allowed(precision: Precision, output: str, reference: onnx.ModelProto) -> float:
    limits = ALLOWED[precision]
    if output == "heatmap":
        return limits.heatmap
    (value,) = [value for value in reference.graph.output if value.name == output]
    mask = value.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    return float(limits.levels) if mask else limits.probability


def difference(name: str, found: Arrays, expected: Arrays) -> float:
    """The largest |found − expected|; infinity where shapes differ or a number is NaN.

    A heat map is taken relative to its own largest value, and only where both find the same class: it is the map of the
    top class, and where two are about as probable, rounding may choose.
    """
    one, other = found[name].astype(np.float64), expected[name].astype(np.float64)
    if name == "heatmap" and one.shape == other.shape:
        same = found["probabilities"].argmax(axis=1) == expected["probabilities"].argmax(axis=1)
        scale = np.maximum(other.max(axis=(1, 2), keepdims=True), np.finfo(np.float32).tiny)
        one, other = (one / scale)[same], (other / scale)[same]
        if not same.any():
            return 0.0
    return parity.compare(one.astype(np.float32), other.astype(np.float32), Tolerance(0, 0))[0]


def enforce(judged: Sequence[Judged]) -> None:
    """Raise `ParityError` naming the worst unless all hold."""
    broken = [line for line in judged if not line.holds]
    if broken:
        line = max(broken, key=lambda line: line.worst / line.allowed)
        raise ParityError(
            f"{line.network}: {line.output} of the engine differs from ONNX Runtime by {line.worst:.2g} on "
            f"{line.pictures} at batch {line.batch}, more than {line.allowed:g}: nothing was exported."
        )


def notes(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    return [asdict(line) for line in judged]


def table(judged: Sequence[Judged]) -> Table:
    drawn = Table(title="parity: |TensorRT − ONNX Runtime|", box=None, title_justify="left", pad_edge=False)
    for name in ("network", "output", "pictures"):
        drawn.add_column(name)
    for name in ("batches", "largest", "at batch", "allowed"):
        drawn.add_column(name, justify="right")
    drawn.add_column("")
    for line in judged:
        batches = f"{line.batches[0]}–{line.batches[-1]}"
        shown = (f"{line.count} {line.pictures}", batches, f"{line.worst:.1e}", str(line.batch), f"{line.allowed:g}")
        drawn.add_row(line.network, line.output, *shown, "holds" if line.holds else "[red]broken[/red]")
    return drawn
