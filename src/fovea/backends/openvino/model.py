"""A Triton backend named `openvino`, on Triton's Python backend, for ONNX graphs on a CPU.

The arithmetic of floats is always stated (`INFERENCE_PRECISION_HINT`): left alone, OpenVINO takes bf16 on a CPU that
has it, and nobody would know. A CPU without bf16 is refused, not served in another precision.

The graph is compiled for one picture (with a free batch axis OpenVINO is up to twice as slow), and the rows of a batch
run one after another: on a CPU batching gains nothing, and a picture's answer does not depend on its neighbours.
A lone request gets the cores of all instances.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from fovea import alone

# Importing openvino reports the import to Intel's analytics. A server of medical images reports nothing to anyone:
# without this module, OpenVINO takes a stub.
sys.modules["openvino_telemetry"] = None

import openvino  # noqa: E402

Array = np.ndarray[Any, Any]
HONOURED = {"INFERENCE_PRECISION_HINT", "INFERENCE_NUM_THREADS", "NUM_STREAMS"}


class TritonPythonModel:
    """One instance: one compiled graph with one request, and another of all cores for a request that is alone."""

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        name = config["name"]
        parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        if set(parameters) - HONOURED or config.get("optimization", {}).get("execution_accelerators"):
            unknown = ", ".join(sorted(set(parameters) - HONOURED)) or "accelerators"
            raise pb_utils.TritonModelException(
                f"{name}: this openvino backend does not know {unknown}; remove the setting, or serve the repository "
                "with NVIDIA's native backend."
            )
        if args["model_instance_kind"] != "CPU":
            raise pb_utils.TritonModelException(f"{name}: this openvino backend serves on CPUs: say KIND_CPU.")
        path = Path(args["model_repository"]) / args["model_version"] / config["default_model_filename"]
        share = int(parameters.get("INFERENCE_NUM_THREADS", 1))
        cores = share * sum(group["count"] for group in config["instance_group"])
        compiled = _compiled(name, path, parameters)
        self.inputs = [port.get_any_name() for port in compiled.inputs]
        found = {alias for port in (*compiled.inputs, *compiled.outputs) for alias in port.get_names()}
        outputs = [tensor["name"] for tensor in config["output"]]
        declared = {tensor["name"] for tensor in (*config["input"], *config["output"])}
        if not declared <= found:
            raise pb_utils.TritonModelException(
                f"{name}: {path} has no {', '.join(sorted(declared - found))}; config.pbtxt and the graph do not "
                "belong together: export both again."
            )
        noise = {
            port.get_any_name(): alone.noise(port.shape).astype(port.element_type.to_dtype())
            for port in compiled.inputs
        }

        def make(threads: int) -> openvino.InferRequest:
            wide = parameters | {"INFERENCE_NUM_THREADS": str(threads)}
            return (compiled if threads == share else _compiled(name, path, wide)).create_infer_request()

        def probe(request: openvino.InferRequest) -> bytes:
            return b"".join(array.tobytes() for array in _run(request, noise, outputs))

        self.mark = alone.claim()
        self.elastic = alone.Elastic(self.mark, share, cores, make, probe)

    def execute(self, requests: list["pb_utils.InferenceRequest"]) -> list["pb_utils.InferenceResponse"]:
        with self.mark:
            return [self._answer(request) for request in requests]

    def finalize(self) -> None:
        self.elastic.close()
        self.mark.leave()

    def _answer(self, request: "pb_utils.InferenceRequest") -> "pb_utils.InferenceResponse":
        names = request.requested_output_names()
        inputs = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
        engine = self.elastic.engine
        rows = [
            _run(engine, {name: batch[row : row + 1] for name, batch in inputs.items()}, names)
            for row in range(len(inputs[self.inputs[0]]))
        ]
        answers = rows[0] if len(rows) == 1 else [np.concatenate(parts) for parts in zip(*rows, strict=True)]
        return pb_utils.InferenceResponse([pb_utils.Tensor(n, a) for n, a in zip(names, answers, strict=True)])


def _run(request: openvino.InferRequest, inputs: dict[str, Array], names: list[str]) -> list[Array]:
    # Inputs are copied in: shared, they would stay aliased to memory that Triton takes back. Outputs are copied out:
    # the next row overwrites them.
    request.infer(inputs)
    return [request.get_tensor(name).data.copy() for name in names]


def _compiled(name: str, path: Path, parameters: dict[str, str]) -> openvino.CompiledModel:
    hint = parameters.get("INFERENCE_PRECISION_HINT")
    if hint not in ("f32", "bf16"):
        raise pb_utils.TritonModelException(f"{name}: INFERENCE_PRECISION_HINT is {hint}; state f32 or bf16.")
    core = openvino.Core()
    if hint == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise pb_utils.TritonModelException(
            f"{name}: the config asks for bf16, which this CPU does not compute: serve with HARDWARE=cpu."
        )
    # Instances are processes that share the cores: pinned, they would all sit on the first ones.
    settings = {**parameters, "ENABLE_CPU_PINNING": "NO"}
    try:
        model = core.read_model(path)
        model.reshape({port.get_any_name(): [1, *list(port.get_partial_shape())[1:]] for port in model.inputs})
        return core.compile_model(model, "CPU", settings)
    except RuntimeError as error:
        raise pb_utils.TritonModelException(
            f"{name}: {path} cannot be loaded ({_reason(error)}): restore it, or export it again."
        ) from None


def _reason(error: RuntimeError) -> str:
    """The message without the places in OpenVINO's source that it begins with."""
    places = ("Exception from", "Check '", "Summary", "To facilitate")
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith(places))
