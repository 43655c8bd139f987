"""A Triton Python model that answers a whole task in one hop; it runs in Triton's stub, as `fovea.backend` does.

Preprocessing and all graphs share one process: nothing is copied between steps. It answers what the ensemble answers,
bit for bit, on the same engine.
"""

import json
import os
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

from fovea import alone, engines, pixels
from fovea.errors import FoveaError, UnreadableImage
from fovea.spec import FRAME
from fovea.tasks import task_named


class Fused:
    """`image` BYTES `[batch, 1]` → every output of the task, one picture after another."""

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        settings = {key: value["string_value"] for key, value in config["parameters"].items()}
        task = task_named(settings["task"])
        self.image = task.image
        self.mark = alone.claim()
        # There is an instance more than cores: what computes is not to be interrupted by what wakes up.
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        cores = int(settings["cores"])
        folder = Path(args["model_repository"]) / args["model_version"]
        hardware, shapes = settings["hardware"], {task.source(each): task.input_shape(each) for each in task.networks}
        try:
            self.steps = [
                (source, engines.elastic(self.mark, cores, hardware, graph, arithmetic, reads, shapes[source]))
                for file, reads, source, arithmetic in json.loads(settings["graphs"])
                for graph in [(folder / file).read_bytes()]
            ]
        except FoveaError as error:
            raise pb_utils.TritonModelException(f"{config['name']}: {error}") from None

    def execute(self, requests: list["pb_utils.InferenceRequest"]) -> list["pb_utils.InferenceResponse"]:
        with self.mark:
            return [self._answer(request) for request in requests]

    def finalize(self) -> None:
        for _, step in self.steps:
            step.close()
        self.mark.leave()

    def _answer(self, request: "pb_utils.InferenceRequest") -> "pb_utils.InferenceResponse":
        encoded = pb_utils.get_input_tensor_by_name(request, "image").as_numpy()[:, 0]
        rows = []
        for place, data in enumerate(encoded, start=1):
            try:
                picture, frame = pixels.preprocess(data, self.image)
            except UnreadableImage as error:
                which = f"Image {place} of {len(encoded)}: " if len(encoded) > 1 else ""
                refusal = pb_utils.TritonError(f"UnreadableImage: {which}{error}", pb_utils.TritonError.INVALID_ARG)
                return pb_utils.InferenceResponse(error=refusal)
            tensors: engines.Arrays = {"pixels": picture[None], FRAME.name: np.array([frame], np.int32)}
            for source, step in self.steps:
                tensors |= step.engine(tensors[source].astype(np.uint8, copy=False))
            rows.append(tensors)
        names = request.requested_output_names()
        outputs = {name: rows[0][name] if len(rows) == 1 else np.concatenate([r[name] for r in rows]) for name in names}
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in outputs.items()])
