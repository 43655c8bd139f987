"""Keras → ONNX: a classifier becomes a graph that answers probabilities and an exact Grad-CAM of its top class."""

from pathlib import Path
from typing import Any

import keras
import onnx
import tensorflow as tf
import tf2onnx

from export import graph
from export.gradcam import with_heatmap
from fovea.errors import ExportError
from fovea.spec import Heatmap, Network, Task


def load(task: Task, network: Network, path: Path) -> keras.Model:
    """The trained classifier: uint8 `[batch, height, width, channels]` in, probabilities `[batch, K]` out."""
    if not path.exists():
        raise ExportError(f"{path} does not exist: train the network first, or give its folder with --weights.")
    try:
        # safe_mode (the default) refuses pickled lambdas: weights may come from anywhere.
        model = keras.models.load_model(path, compile=False)
    except Exception as error:  # as in from_torch: a damaged archive raises anything
        raise ExportError(f"{path} cannot be read as a Keras model ({type(error).__name__}): train it again.") from None
    expected = (None, *task.input_shape(network)), (None, len(task.labels))
    # One sigmoid is an answer about two labels.
    wide = (None, 2) if model.output_shape == (None, 1) else model.output_shape
    if (model.input_shape, wide) != expected:
        raise ExportError(
            f"{path} sees {model.input_shape} and answers {model.output_shape}; task {task.name} declares "
            f"{expected[0]} and {expected[1]}: it was trained for another task."
        )
    return model


def both(answer: Any) -> Any:
    """One sigmoid `[batch, 1]` as the probabilities of both labels `[batch, 2]`; a softmax as it is."""
    return keras.ops.concatenate([1.0 - answer, answer], axis=1) if answer.shape[1] == 1 else answer


def convert(task: Task, network: Network, path: Path) -> onnx.ModelProto:
    """The ONNX graph of a classifier."""
    model = load(task, network, path)
    if any(isinstance(answer, Heatmap) for answer in network.answers):
        model = with_heatmap(model)
    else:
        model = keras.Model(model.input, {"probabilities": model.output})
    signature = [tf.TensorSpec((None, *task.input_shape(network)), tf.uint8, name=network.reads)]

    @tf.function(input_signature=signature)  # type: ignore[untyped-decorator]
    def answer(image: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs: dict[str, tf.Tensor] = model(image, training=False)
        return outputs | {"probabilities": both(outputs["probabilities"])}

    converted, _ = tf2onnx.convert.from_function(answer, input_signature=signature, opset=graph.OPSET)
    assert isinstance(converted, onnx.ModelProto)
    graph.free_batch([*converted.graph.input, *converted.graph.output])
    return converted
