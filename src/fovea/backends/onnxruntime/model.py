"""A Triton backend named `onnxruntime`, on Triton's Python backend: the configs of NVIDIA's native one, unchanged.

It honours the settings the native backend shares with it and refuses the others by name; it never answers from
another device than the config asks for. On CPUs, a lone request gets the cores of all instances.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils

from fovea import alone

HONOURED = {
    "intra_op_thread_count",
    "inter_op_thread_count",
    "execution_mode",
    "enable_mem_arena",
    "enable_mem_pattern",
}


class TritonPythonModel:
    """One instance: one ONNX Runtime session. Requests that arrive together (dynamic batching) run as one batch."""

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        name = config["name"]
        parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        unknown = set(parameters) - HONOURED
        if unknown or config.get("optimization", {}).get("execution_accelerators"):
            raise pb_utils.TritonModelException(
                f"{name}: this onnxruntime backend does not know {', '.join(sorted(unknown)) or 'accelerators'}; "
                "remove the setting, or serve the repository with NVIDIA's native backend."
            )
        file = config.get("default_model_filename") or "model.onnx"
        path = Path(args["model_repository"]) / args["model_version"] / file
        session = _session(name, path, parameters, args)
        self.inputs = [value.name for value in session.get_inputs()]
        declared = {tensor["name"] for tensor in (*config["input"], *config["output"])}
        found = {value.name for value in (*session.get_inputs(), *session.get_outputs())}
        if not declared <= found:
            raise pb_utils.TritonModelException(
                f"{name}: {path} has no {', '.join(sorted(declared - found))}; config.pbtxt and the graph "
                "do not belong together: export both again."
            )
        noise = {
            tensor["name"]: alone.noise((1, *tensor["dims"])).astype(
                pb_utils.triton_string_to_numpy(tensor["data_type"])
            )
            for tensor in config["input"]
        }
        outputs = [tensor["name"] for tensor in config["output"]]
        share = int(parameters.get("intra_op_thread_count", 0))
        # Where ONNX Runtime may take all cores anyway, and on a GPU, there is nothing to gain.
        instances = sum(group["count"] for group in config["instance_group"]) if share and not _on_gpu(args) else 1

        def make(threads: int) -> ort.InferenceSession:
            wide = parameters | {"intra_op_thread_count": str(threads)}
            return session if threads == share else _session(name, path, wide, args)

        def probe(session: ort.InferenceSession) -> bytes:
            return b"".join(array.tobytes() for array in session.run(outputs, noise))

        self.mark = alone.claim()
        self.elastic = alone.Elastic(self.mark, share, share * instances, make, probe)

    def finalize(self) -> None:
        self.elastic.close()
        self.mark.leave()

    def execute(self, requests: list["pb_utils.InferenceRequest"]) -> list["pb_utils.InferenceResponse"]:
        """Run requests that want the same outputs together; their order is kept."""
        with self.mark:
            wanted, arrays = self._run(requests)
        if len(requests) == 1:
            return [_respond(wanted, arrays)]
        ends = np.cumsum([_rows(request, self.inputs[0]) for request in requests])[:-1]
        split = [np.split(array, ends) for array in arrays]
        return [_respond(wanted, list(parts)) for parts in zip(*split, strict=True)]

    def _run(self, requests: list["pb_utils.InferenceRequest"]) -> tuple[list[str], list["np.ndarray[Any, Any]"]]:
        wanted = sorted({name for request in requests for name in request.requested_output_names()})
        feeds = {}
        for name in self.inputs:
            parts = [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for request in requests]
            feeds[name] = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return wanted, self.elastic.engine.run(wanted, feeds)


def _rows(request: "pb_utils.InferenceRequest", name: str) -> int:
    return int(pb_utils.get_input_tensor_by_name(request, name).shape()[0])


def _respond(names: list[str], arrays: list["np.ndarray[Any, Any]"]) -> "pb_utils.InferenceResponse":
    # Triton drops outputs that this request did not ask for.
    return pb_utils.InferenceResponse([pb_utils.Tensor(n, a) for n, a in zip(names, arrays, strict=True)])


def _on_gpu(args: dict[str, str]) -> bool:
    return args["model_instance_kind"] == "GPU"


def _session(name: str, path: Path, parameters: dict[str, str], args: dict[str, str]) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = int(parameters.get("intra_op_thread_count", 0))
    options.inter_op_num_threads = int(parameters.get("inter_op_thread_count", 0))
    options.execution_mode = ort.ExecutionMode(int(parameters.get("execution_mode", 0)))
    options.enable_cpu_mem_arena = parameters.get("enable_mem_arena", "1") == "1"
    options.enable_mem_pattern = parameters.get("enable_mem_pattern", "1") == "1"
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # a waiting thread would hold a core
    gpu = _on_gpu(args)
    provider = "CUDAExecutionProvider" if gpu else "CPUExecutionProvider"
    if provider not in ort.get_available_providers():
        raise pb_utils.TritonModelException(
            f"{name}: the config asks for a GPU, but onnxruntime {ort.__version__} has no {provider}: "
            "install fovea[gpu] in place of fovea[server], or serve with HARDWARE=cpu."
        )
    if gpu:
        ort.preload_dlls()
    settings = {"device_id": args["model_instance_device_id"]} if gpu else {}
    try:
        session = ort.InferenceSession(str(path), options, providers=[(provider, settings)])
    except Exception as error:  # onnxruntime raises a class per status code, none of them public
        raise pb_utils.TritonModelException(
            f"{name}: {path} cannot be loaded ({str(error).splitlines()[0]}): restore it, or export it again."
        ) from None
    if session.get_providers()[0] != provider:  # onnxruntime falls back to the CPU without an error
        raise pb_utils.TritonModelException(
            f"{name}: CUDA could not be started, although onnxruntime has it: check the driver and the CUDA "
            "libraries (nvidia-smi), or serve with HARDWARE=cpu."
        )
    return session
