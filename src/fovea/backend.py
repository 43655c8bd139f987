"""Triton Python models around `fovea.pixels`; they run in Triton's stub, where `triton_python_backend_utils` is."""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import triton_python_backend_utils as pb_utils

from fovea import alone, pixels
from fovea.errors import UnreadableImage
from fovea.fingerprint import preprocessing
from fovea.tasks import task_named


class Preprocess:
    """`image` BYTES `[batch, 1]` → `pixels` uint8 `[batch, side, side, 3]` and `frame` int32 `[batch, 4]`."""

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        parameters = config["parameters"]
        task = task_named(parameters["task"]["string_value"])
        self.image = task.image
        self.mark = alone.claim()
        self.pool = ThreadPoolExecutor(sum(group["count"] for group in config["instance_group"]))
        # Later steps go first, or requests pile up before the networks, where nothing bounds their number.
        os.nice(10)
        # A release carries its networks but not this code: with another preprocessing they would answer otherwise.
        released = parameters.get("preprocessing")
        if released and released["string_value"] != preprocessing(task.image):
            raise pb_utils.TritonModelException(
                f"{args['model_name']} was released with another preprocessing than the installed fovea's: install the "
                f"fovea that its release.json names, or release it again with python -m export release {task.name}."
            )

    def execute(self, requests: list["pb_utils.InferenceRequest"]) -> list["pb_utils.InferenceResponse"]:
        with self.mark:
            return [self._answer(request) for request in requests]

    def finalize(self) -> None:
        self.pool.shutdown()
        self.mark.leave()

    def _answer(self, request: "pb_utils.InferenceRequest") -> "pb_utils.InferenceResponse":
        encoded = pb_utils.get_input_tensor_by_name(request, "image").as_numpy()[:, 0]
        pictures = np.empty((len(encoded), self.image.side, self.image.side, 3), np.uint8)
        frames = np.empty((len(encoded), 4), np.int32)
        # A lone request with several pictures has all cores, as it has in the networks.
        seen = self.pool.map(self._seen, encoded) if len(encoded) > 1 and self.mark.alone else map(self._seen, encoded)
        for row, found in enumerate(seen):
            if isinstance(found, UnreadableImage):
                place = f"Image {row + 1} of {len(encoded)}: " if len(encoded) > 1 else ""
                refusal = pb_utils.TritonError(f"UnreadableImage: {place}{found}", pb_utils.TritonError.INVALID_ARG)
                return pb_utils.InferenceResponse(error=refusal)
            pictures[row], frames[row] = found
        return pb_utils.InferenceResponse([pb_utils.Tensor("pixels", pictures), pb_utils.Tensor("frame", frames)])

    def _seen(self, encoded: bytes) -> tuple[pixels.Picture, pixels.Frame] | UnreadableImage:
        try:
            return pixels.preprocess(encoded, self.image)
        except UnreadableImage as error:
            return error
