"""Exact Grad-CAM without a backward pass, as one more output of a classifier.

Grad-CAM (arXiv:1610.02391) of class c is ReLU(Σₖ αₖ Aₖ), where A is the last feature map `[h, w, k]` and αₖ the mean
over its pixels of ∂yᶜ/∂Aₖ, with yᶜ the logit before softmax. Under global average pooling and one Dense layer with
kernel W `[k, classes]`, that derivative is Wₖᶜ / (h·w) at every pixel: a gather and a dot product give the map exactly.
Dropout is the identity in service. The map belongs to the class with the largest probability.
"""

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from fovea.errors import ExportError


class GradCAM(keras.layers.Layer):  # type: ignore[misc]
    """(features `[batch, h, w, k]`, probabilities `[batch, classes]`) → map float32 `[batch, h, w]`, ≥ 0."""

    def __init__(self, dense: keras.layers.Dense, **options: object) -> None:
        super().__init__(**options)
        self.dense = dense

    def call(self, features: keras.KerasTensor, probabilities: keras.KerasTensor) -> keras.KerasTensor:
        # top_k, because tf2onnx does not know the Bitcast inside keras.ops.argmax; of equals, both take the first.
        top = keras.ops.top_k(probabilities, k=1)[1][:, 0]  # [batch]
        weights = keras.ops.take(keras.ops.transpose(self.dense.kernel), top, axis=0)  # [batch, k]
        pixels = features.shape[1] * features.shape[2]
        # A product and a sum, not einsum: tf2onnx turns it into two plain operators with a free batch axis.
        weighted = keras.ops.sum(features * weights[:, None, None, :], axis=-1)
        return keras.ops.relu(weighted) / pixels


def with_heatmap(model: keras.Model) -> keras.Model:
    """The same network with outputs `probabilities` and `heatmap`.

    Raises:
        ExportError: the head is not global average pooling (then dropout) and one softmax Dense layer.
    """
    pool, dense = _head(model)
    heatmap = GradCAM(dense, name="gradcam")(pool.input, model.output)
    return keras.Model(model.input, {"probabilities": model.output, "heatmap": heatmap}, name=model.name)


def by_gradient(model: keras.Model, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The same map the long way, by automatic differentiation: what the exported one is judged against."""
    pool, dense = _head(model)
    features = keras.Model(model.input, pool.input)(images, training=False)
    with tf.GradientTape() as tape:
        tape.watch(features)
        pooled = pool(features)
        logits = tf.linalg.matmul(pooled, dense.kernel) + (0 if dense.bias is None else dense.bias)
        # The first of equal probabilities, like everyone else; reduce_max would share the gradient out among them.
        top = tf.gather(logits, np.asarray(dense(pooled)).argmax(axis=-1), batch_dims=1)
    gradient = tape.gradient(top, features)  # [batch, h, w, k]
    weights = tf.reduce_mean(gradient, axis=(1, 2), keepdims=True)
    return np.asarray(tf.nn.relu(tf.reduce_sum(weights * features, axis=-1)), np.float32)


def _head(model: keras.Model) -> tuple[keras.layers.Layer, keras.layers.Dense]:
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.Dropout)]
    dense, pool = layers[-1], layers[-2]
    softmax = isinstance(dense, keras.layers.Dense) and dense.activation is keras.activations.softmax
    if not (softmax and isinstance(pool, keras.layers.GlobalAveragePooling2D)):
        raise ExportError(
            f"{model.name} ends in {type(pool).__name__} and {type(dense).__name__}; the heat map needs "
            "GlobalAveragePooling2D and a softmax Dense: change the head, or declare the network without a Heatmap."
        )
    return pool, dense
