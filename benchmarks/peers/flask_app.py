"""Flask as student projects serve: PyTorch and Keras themselves, `model.predict` for every request, default threads.

Left out is what they have not either: the heat map. Added is what they need to agree with: the crop of our training.
"""

import base64
import os
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import torch
from flask import Flask, jsonify, request
from flask.typing import ResponseReturnValue

from benchmarks.peers.answering import PORT, TASK, loaded
from fovea import pixels

WEIGHTS = Path(os.environ["PEER_WEIGHTS"])
MODELS: dict[str, Any] = {
    network.name: torch.export.load(WEIGHTS / network.file).module()
    if network.framework == "torch"
    else keras.models.load_model(WEIGHTS / network.file, compile=False)
    for network in TASK.networks
}
app = Flask(__name__)


@app.post("/answer")
def ask() -> ResponseReturnValue:
    blue_first = cv2.imdecode(np.frombuffer(request.get_data(), np.uint8), cv2.IMREAD_COLOR)
    picture = np.asarray(cv2.cvtColor(blue_first, cv2.COLOR_BGR2RGB), np.uint8)
    tensors = {"pixels": cropped(picture)[None]}
    for network in TASK.networks:
        read = tensors[TASK.source(network)]
        if network.framework == "torch":
            with torch.no_grad():
                share = MODELS[network.name](torch.from_numpy(read)).numpy()
            mask = np.round(255 * share).astype(np.uint8)  # [1, side, side, 1]
            tensors |= {tensor.name: mask for tensor in TASK.graph_outputs(network)}
        else:
            tensors["probabilities"] = MODELS[network.name].predict(read, verbose=0)
    masks = {mask.name: cv2.imencode(".png", tensors[mask.name][0])[1].tobytes() for mask in TASK.masks}
    return jsonify(
        label=TASK.labels[place(tensors["probabilities"][0])],
        masks={name: base64.b64encode(png).decode() for name, png in masks.items()},
    )


def cropped(picture: pixels.Picture) -> pixels.Picture:
    """The square that the networks were trained on, as in `fovea.pixels`, of the picture at its full size."""
    height, width = picture.shape[:2]
    box = pixels.field_of_view(picture) if TASK.image.crop == "field_of_view" else (0, 0, width, height)
    left, top, right, bottom = box
    side = max(right - left, bottom - top)
    square = pixels.cut(picture, (left + right - side) // 2, (top + bottom - side) // 2, side)
    return pixels.equalise(pixels.resize(square, TASK.image.side), TASK.image)


def place(probabilities: "np.ndarray[Any, Any]") -> int:
    """Of the label: one sigmoid answers the probability of the second of two."""
    return int(probabilities.argmax()) if len(probabilities) > 1 else int(probabilities[0] >= 0.5)


if __name__ == "__main__":
    loaded()
    app.run("127.0.0.1", PORT, threaded=True)
