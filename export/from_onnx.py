"""ONNX → ONNX: a network that somebody else exported, checked before anything runs it, becomes one of a task's."""

from pathlib import Path

import onnx
import onnxruntime as ort

from export import graph
from export.lint import triton, weights
from fovea.engines import Engine
from fovea.errors import ExportError
from fovea.spec import Network, Task

LARGEST = 2**31 - 1
"""Bytes of one protobuf message: more needs external data, which is read into the file here."""


def convert(task: Task, network: Network, path: Path) -> onnx.ModelProto:
    """The graph in `path`, its weights with it.

    Raises:
        ExportError: it is missing, damaged, names files outside its folder, is too new or too large.
    """
    if not path.exists():
        raise ExportError(f"{path} does not exist: put the network there, or give its folder with --weights.")
    release = triton.release(triton.DEFAULT)
    outline, findings = weights.read(path, str(path))
    if outline is not None:
        findings += weights.check(outline, path, str(path), release, native=True, library=False)
    # An operator of a library that nobody named is a warning to the linter, and no use here.
    faults = [finding for finding in findings if finding.severity == "error" or finding.rule == "custom-operator"]
    if faults:
        raise ExportError(f"{path}: {faults[0].said} {faults[0].cure}")
    assert outline is not None
    if path.stat().st_size + sum(weight.stored for weight in outline.weights if weight.external) > LARGEST:
        raise ExportError(f"{path} and its weights are larger than 2 GiB, which one ONNX file cannot hold.")
    model = onnx.load(path)
    if [value.name for value in model.graph.input] == [network.reads]:
        graph.free_batch([*model.graph.input, *model.graph.output])
    return model


def unoptimised(path: Path, network: Network) -> Engine:
    """The network exactly as it came: no operator fused or folded.

    Raises:
        ExportError: ONNX Runtime cannot run it.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a class per status code, none of them public
        raise ExportError(f"{path} cannot be run ({str(error).splitlines()[0]}): export it again.") from None
    names = [value.name for value in session.get_outputs()]
    return lambda batch: dict(zip(names, session.run(names, {network.reads: batch}), strict=True))
