"""`--precision`: every candidate measured with the task's own metric and its latency; the fastest that holds is kept.

A candidate holds where it keeps its `KEEPS` share of fp32's Dice or AUC on held-out pictures and `AGREES` with fp32's
decisions, answers no NaN or infinity on any of them, and is at least `FASTER` times as fast as fp32 on the same
hardware. Otherwise fp32 stays.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from export import quantise
from export.evidence import Evidence, Stack
from fovea import engines
from fovea.errors import ExportError
from fovea.repository import Choice, Hardware
from fovea.spec import THRESHOLD, Network

Answers = npt.NDArray[Any]
"""Masks uint8 `[n, side, side, 1]` or probabilities float32 `[n, classes]`."""
Precision = Literal["fp32", "fp16", "bf16", "int8"]
KEEPS: dict[Precision, float] = {"fp16": 0.999, "bf16": 0.999, "int8": 0.99}
"""Least share of fp32's metric, the less exact the later in this order."""
AGREES = 0.98
"""Least share of classes, or mask pixels, decided as fp32 decides: AUC is blind to answers that shift together, and the
operating points stored with a classifier are not."""
FASTER = 1.1
NEAR = 1.05
"""Latencies within this factor are called equal: of equally fast candidates the more exact one is kept."""
SENSITIVE = (1, 2, 4, 8)
"""How many of the most sensitive layers are tried in float, where int8 does not hold without."""
PAIRS = 100
"""Least pairs of one picture with and one without a class: with fewer, AUC moves by more than 1 % or not at all."""
CALIBRATED = 8 * 512 * 512
"""Pixels to calibrate on, at most: histograms of every activation cost seconds a megapixel."""
ROUNDS, SECONDS = 9, 12.0
"""Latencies are medians of at least so many interleaved rounds, and of as many more as fit into these seconds."""


@dataclass(frozen=True)
class Candidate:
    precision: Precision
    model: onnx.ModelProto = field(repr=False)
    hint: Literal["f32", "bf16"] = "f32"
    calibration: str = ""
    in_float: int = 0

    @property
    def title(self) -> str:
        floats = f", {self.in_float} layers in float" if self.in_float else ""
        return f"{self.precision} {self.calibration}{floats}".strip()


@dataclass(frozen=True)
class Row:
    """One candidate on one hardware; `share` and `speed` are relative to fp32, `agrees` of classes or mask pixels."""

    network: str
    hardware: Hardware
    precision: Precision
    title: str
    metric: str
    pictures: int
    value: float
    share: float
    agrees: float
    finite: bool
    enough: bool
    latency_ms: float
    speed: float
    verdict: str = ""

    @property
    def holds(self) -> bool:
        if self.precision == "fp32":
            return True
        return self.finite and self.enough and self.share >= KEEPS[self.precision] and self.agrees >= AGREES


@dataclass(frozen=True)
class Ladder:
    """What came of one network: the table, the graph for each hardware, and the graphs by file name."""

    rows: tuple[Row, ...]
    choices: dict[Hardware, Choice]
    graphs: dict[str, onnx.ModelProto]


@dataclass(frozen=True)
class Bench:
    """The pictures that a network is judged on, per hardware where an earlier network's masks differ."""

    network: Network
    evidence: Evidence
    seen: Mapping[Hardware, Stack]
    plain: Stack  # as fp32 networks before it show them: what the reference sees

    @property
    def metric(self) -> str:
        return "Dice" if self.network.masks else "AUC"

    def value(self, answers: Answers) -> float:
        return self.evidence.dice(answers) if self.network.masks else self.evidence.auc(answers)

    def decided(self, answers: Answers) -> Answers:
        """What a user reads off the answers: inside or not, the top class."""
        return answers >= THRESHOLD if self.network.masks else answers.argmax(axis=1)

    @property
    def output(self) -> str:
        return self.network.masks[0].name if self.network.masks else "probabilities"


def climb(
    network: Network,
    model: onnx.ModelProto,
    wanted: Literal["fp32", "fp16", "int8", "auto"],
    bench: Bench,
    calibration: Stack,
    only_fp32: Sequence[Hardware],
    tell: Callable[[str], None],
) -> Ladder:
    """Measure and choose for one network; `calibration` is what it reads of training pictures.

    Raises:
        ExportError: the precision that was asked for does not hold.
    """
    tell("fp32")
    reference, _ = _ask(bench, _engine(bench, "cpu", Candidate("fp32", model)), bench.plain)
    if not bench.value(reference):
        raise ExportError(
            f"{network.name}: fp32 itself has a {bench.metric} of 0 on {len(bench.plain)} held-out pictures, of which "
            "nothing can be kept: train it further, or export it with --precision fp32."
        )
    candidates = [Candidate("fp32", model)]
    if wanted in ("fp16", "auto"):
        candidates.append(Candidate("fp16", quantise.fp16(model)))
    compared: list[Row] = []
    chosen: dict[str, Candidate] = {}
    if wanted in ("int8", "auto"):
        pictures = calibration[: max(1, CALIBRATED // (calibration.shape[1] * calibration.shape[2]))]
        best, around_zero, compared = _int8(bench, model, reference, pictures, tell)
        candidates.append(best)
        if compared[-1].holds:
            chosen[quantise.AROUND_ZERO] = around_zero
    rows: list[Row] = []
    choices: dict[Hardware, Choice] = {}
    for hardware in engines.available():
        tell(f"latency and {bench.metric} on {hardware}")
        own = candidates[:1] if hardware in only_fp32 else list(candidates)
        if hardware == "openvino" and wanted == "auto" and hardware not in only_fp32:
            own.insert(1, Candidate("bf16", model, hint="bf16"))
        judged = _race(bench, hardware, own, reference)
        kept = choose(judged) if wanted == "auto" or hardware in only_fp32 else _asked(judged, wanted)
        rows += [replace(row, verdict=_verdict(row, kept)) for row in judged]
        candidate = own[judged.index(kept)]
        file = "model.onnx" if candidate.model is model else f"model.{candidate.precision}.onnx"
        choices[hardware] = Choice(file, candidate.hint, round(kept.latency_ms, 2))
        if candidate.model is not model:
            chosen[file] = candidate
    graphs = {file: _stamped(candidate) for file, candidate in chosen.items()}
    return Ladder((*compared, *rows), choices, graphs)


def choose(rows: Sequence[Row]) -> Row:
    """The fastest row that holds, or a more exact one that is as fast; fp32, the first, if none does."""
    held = [row for row in rows if row.holds and (row.precision == "fp32" or row.speed >= FASTER)]
    fastest = min(row.latency_ms for row in held)
    exact = ["fp32", *KEEPS]
    return min((row for row in held if row.latency_ms <= NEAR * fastest), key=lambda row: exact.index(row.precision))


def _asked(rows: Sequence[Row], wanted: str) -> Row:
    row = next(row for row in rows if row.precision == wanted)
    if not row.holds:
        share = f"keeps {row.share:.4f} of fp32's {row.metric} and agrees with it in {row.agrees:.4f}"
        few = "" if row.enough else f", too few ({PAIRS} pairs of one with and one without a class are needed)"
        raise ExportError(
            f"{row.network}: {row.title} {share if row.finite else 'answers NaN or infinity'} on {row.pictures} "
            f"held-out pictures ({row.hardware}){few}; {wanted} must keep {KEEPS[row.precision]:g} and agree in "
            f"{AGREES:g}: use --precision auto, which keeps what holds. Nothing was exported."
        )
    return row


def _verdict(row: Row, kept: Row) -> str:
    if row == kept:
        return "kept"
    if not row.finite:
        return "NaN or infinity"
    if row.precision != "fp32" and not row.enough:
        return "too few pictures"
    if row.agrees < AGREES:
        return f"agrees in less than {AGREES:g}"
    if not row.holds:
        return f"below {KEEPS[row.precision]:g} of fp32"
    return "reference" if row.precision == "fp32" else "not faster" if row.speed < FASTER else "holds"


def _int8(
    bench: Bench,
    model: onnx.ModelProto,
    reference: Answers,
    pictures: Stack,
    tell: Callable[[str], None],
) -> tuple[Candidate, Candidate, list[Row]]:
    """The int8 candidate that keeps most, the same around zero for TensorRT, and rows; the last is TensorRT's.

    ONNX Runtime judges both: the arithmetic of QDQ is in the graph.
    """
    made: list[tuple[Row, Candidate]] = []

    def judge(candidate: Candidate) -> Row:
        answers = _ask(bench, _engine(bench, "cpu", candidate), bench.plain)
        row = _row(bench, "cpu", candidate, answers, reference, verdict="compared")
        made.append((row, candidate))
        return row

    found, layers = {}, list[str]()
    for calibration in quantise.CALIBRATIONS:
        tell(f"int8, calibrating by {calibration} on {len(pictures)} pictures")
        found[calibration] = quantise.ranges(model, bench.network.reads, pictures, calibration)
        judge(Candidate("int8", quantise.int8(model, calibration, found[calibration]), calibration=calibration))
    best, candidate = max(made, key=lambda pair: (pair[0].holds, pair[0].share))
    if best.finite and best.enough and not best.holds:
        method = next(name for name in quantise.CALIBRATIONS if name == candidate.calibration)
        tell("int8, looking for sensitive layers")
        layers = quantise.sensitive(model, method, found[method], pictures[:2])
        for count in SENSITIVE:
            kept = quantise.int8(model, method, found[method], in_float=layers[:count])
            if judge(Candidate("int8", kept, calibration=method, in_float=count)).holds:
                break
        best, candidate = max(made, key=lambda pair: (pair[0].holds, pair[0].share))
    compared = [row for row, other in made if other is not candidate]
    tell("int8 around zero, for TensorRT")
    method = next(name for name in quantise.CALIBRATIONS if name == candidate.calibration)
    graph = quantise.int8(model, method, found[method], in_float=layers[: candidate.in_float], symmetric=True)
    around_zero = replace(candidate, model=graph, calibration=f"{method} around zero")
    row = judge(around_zero)
    verdict = f"for TensorRT: {quantise.AROUND_ZERO}" if row.holds else _verdict(row, best)
    return candidate, around_zero, [*compared, replace(row, verdict=verdict)]


def _engine(bench: Bench, hardware: Hardware, candidate: Candidate) -> engines.Engine:
    return engines.engine(hardware, candidate.model.SerializeToString(), candidate.hint, bench.network.reads)


def _ask(bench: Bench, run: engines.Engine, pictures: Stack) -> tuple[Answers, bool]:
    """The judged output for all pictures, and whether every number of every output is finite."""
    answers = [run(picture[None]) for picture in pictures]
    finite = all(np.all(np.isfinite(output)) for answer in answers for output in answer.values())
    return np.concatenate([answer[bench.output] for answer in answers]), finite


def _race(bench: Bench, hardware: Hardware, candidates: Sequence[Candidate], reference: Answers) -> list[Row]:
    """Every candidate on one hardware: answers to all pictures, then latencies of one picture in interleaved rounds."""
    runs = [_engine(bench, hardware, each) for each in candidates]
    pictures = bench.seen[hardware]
    answers = [_ask(bench, run, pictures) for run in runs]
    times: list[list[float]] = [[] for _ in runs]
    began = time.monotonic()
    turn = 0
    while turn < ROUNDS or (time.monotonic() - began < SECONDS and turn < 10 * ROUNDS):
        picture = pictures[turn % len(pictures)][None]
        for run, taken in zip(runs, times, strict=True):
            start = time.perf_counter()
            run(picture)
            taken.append(1000 * (time.perf_counter() - start))
        turn += 1
    medians = [float(np.median(taken)) for taken in times]
    return [
        _row(bench, hardware, each, answer, reference, latency_ms=median, speed=medians[0] / median)
        for each, answer, median in zip(candidates, answers, medians, strict=True)
    ]


def _row(
    bench: Bench,
    hardware: Hardware,
    candidate: Candidate,
    asked: tuple[Answers, bool],
    reference: Answers,
    *,
    latency_ms: float = float("nan"),
    speed: float = float("nan"),
    verdict: str = "",
) -> Row:
    answers, finite = asked
    value = bench.value(answers) if finite else float("nan")
    return Row(
        network=bench.network.name,
        hardware=hardware,
        precision=candidate.precision,
        title=candidate.title,
        metric=bench.metric,
        pictures=len(answers),
        value=value,
        share=value / bench.value(reference) if finite else 0.0,
        agrees=float(np.mean(bench.decided(answers) == bench.decided(reference))),
        finite=finite,
        enough=bool(bench.network.masks) or bench.evidence.pairs >= PAIRS,
        latency_ms=latency_ms,
        speed=speed,
        verdict=verdict,
    )


def _stamped(candidate: Candidate) -> onnx.ModelProto:
    metadata = {entry.key: entry.value for entry in candidate.model.metadata_props}
    helper.set_model_props(candidate.model, metadata | {"fovea.precision": candidate.title})
    return candidate.model
