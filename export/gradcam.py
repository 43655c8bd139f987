"""Exact Grad-CAM without a backward pass, as one more output of a classifier.

Grad-CAM (arXiv:1610.02391) of class c is ReLU(Σₖ αₖ Aₖ), where A is the last feature map `[h, w, k]` and αₖ the mean
over its pixels of ∂yᶜ/∂Aₖ, with yᶜ the logit before softmax; for one sigmoid, yᶜ is ± its logit. Behind A stands a head
of layers whose derivatives are products: Dense (its kernel), BatchNormalization (γ/√(σ² + ε)), ReLU (1 where it let
something through), Dropout (1 in service). They are multiplied from the answer back to A:

- after global average pooling, each pixel of Aₖ has the derivative of the pooled value over h·w;
- after Flatten, the mean over pixels passes through the first Dense layer: its kernel `[h·w·k, units]` is averaged over
  the pixels once, when the graph is made, and never multiplied in full.
"""

from collections.abc import Sequence

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from fovea.errors import ExportError

ANSWERS = {"softmax": keras.activations.softmax, "sigmoid": keras.activations.sigmoid}


class GradCAM(keras.layers.Layer):  # type: ignore[misc]
    """(features `[batch, h, w, k]`, answer `[batch, K]`, what each ReLU let through…) → map `[batch, h, w]`, ≥ 0."""

    def __init__(self, head: Sequence[keras.layers.Layer], **options: object) -> None:
        super().__init__(**options)
        self.head = list(head)

    def call(self, inputs: Sequence[keras.KerasTensor]) -> keras.KerasTensor:
        features, answer, *passed = inputs
        joint, *layers, last = self.head
        first = next(layer for layer in self.head if isinstance(layer, keras.layers.Dense))

        def backwards(layer: keras.layers.Dense) -> keras.KerasTensor:
            """The transposed kernel `[units, units below]`; over pixels below Flatten its mean, `[units, k]`."""
            kernel = layer.kernel
            if layer is first and isinstance(joint, keras.layers.Flatten):
                kernel = keras.ops.mean(keras.ops.reshape(kernel, (-1, features.shape[-1], layer.units)), axis=0)
            return keras.ops.transpose(kernel)

        if last.units == 1:
            # Of equals the first label is the top one, as with softmax.
            slope = keras.ops.where(answer > 0.5, 1.0, -1.0) * backwards(last)
        else:
            # top_k, because tf2onnx does not know the Bitcast inside keras.ops.argmax; of equals, both take the first.
            top = keras.ops.top_k(answer, k=1)[1][:, 0]
            slope = keras.ops.take(backwards(last), top, axis=0)
        for layer in reversed(layers):
            if _is_relu(layer):
                slope = slope * keras.ops.cast(passed.pop() > 0, "float32")
            if isinstance(layer, keras.layers.BatchNormalization):
                slope = slope * _scale(layer)
            if isinstance(layer, keras.layers.Dense):
                slope = keras.ops.matmul(slope, backwards(layer))
        if isinstance(joint, keras.layers.GlobalAveragePooling2D):
            slope = slope / (features.shape[1] * features.shape[2])
        # A product and a sum, not einsum: tf2onnx turns it into two plain operators with a free batch axis.
        return keras.ops.relu(keras.ops.sum(features * slope[:, None, None, :], axis=-1))


def _scale(layer: keras.layers.BatchNormalization) -> keras.KerasTensor:
    narrowed = keras.ops.rsqrt(layer.moving_variance + layer.epsilon)
    return layer.gamma * narrowed if layer.scale else narrowed


def _is_relu(layer: keras.layers.Layer) -> bool:
    """ReLU as a layer or as a Dense layer's activation; not one that is bounded or leaks."""
    if isinstance(layer, keras.layers.ReLU):
        return layer.max_value is None and not layer.negative_slope and not layer.threshold
    return getattr(layer, "activation", None) is keras.activations.relu


def with_heatmap(model: keras.Model) -> keras.Model:
    """The same network with outputs `probabilities` and `heatmap`.

    Raises:
        ExportError: the head is none of those above.
    """
    head = head_of(model)
    passed = [layer.output for layer in head[1:] if _is_relu(layer)]
    heatmap = GradCAM(head, name="gradcam")([head[0].input, model.output, *passed])
    return keras.Model(model.input, {"probabilities": model.output, "heatmap": heatmap}, name=model.name)


def by_gradient(model: keras.Model, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The same map the long way, by automatic differentiation: what the exported one is judged against."""
    features, gradient = slopes(model, images)
    weights = gradient.mean(axis=(1, 2), keepdims=True)
    return np.asarray(np.maximum((weights * features).sum(axis=-1), 0), np.float32)


def slopes(
    model: keras.Model, images: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The last feature map and the top class's ∂yᶜ/∂A by automatic differentiation, both `[batch, h, w, k]`."""
    *layers, last = head_of(model)
    features = keras.Model(model.input, layers[0].input)(images, training=False)
    with tf.GradientTape() as tape:
        tape.watch(features)
        x = features
        for layer in layers:
            x = layer(x, training=False)
        logits = tf.linalg.matmul(x, last.kernel) + (0 if last.bias is None else last.bias)
        if last.units == 1:
            top = tf.where(np.asarray(last(x)) > 0.5, logits, -logits)[:, 0]
        else:
            # The first of equal probabilities, like everyone else; reduce_max would share the gradient out among them.
            top = tf.gather(logits, np.asarray(last(x)).argmax(axis=-1), batch_dims=1)
    return np.asarray(features), np.asarray(tape.gradient(top, features))


def head_of(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers from the pooling or flattening of the last feature map to the answer, in order.

    Raises:
        ExportError: there is another layer among them.
    """
    head: list[keras.layers.Layer] = []
    for layer in reversed(model.layers):
        head.insert(0, layer)
        if isinstance(layer, (keras.layers.GlobalAveragePooling2D, keras.layers.Flatten)):
            break
        if not head[1:]:
            fits = isinstance(layer, keras.layers.Dense) and layer.activation in ANSWERS.values()
            fits = fits and (layer.units == 1) == (layer.activation is ANSWERS["sigmoid"])
        elif isinstance(layer, keras.layers.Dense):
            fits = layer.activation is keras.activations.linear or _is_relu(layer)
        else:
            fits = _is_relu(layer) or isinstance(layer, (keras.layers.BatchNormalization, keras.layers.Dropout))
        if not fits:
            break
    joint = (keras.layers.GlobalAveragePooling2D, keras.layers.Flatten)
    if len(head) < 2 or not isinstance(head[0], joint) or len(head[0].input.shape) != 4:
        raise ExportError(
            f"{model.name} has {type(head[0]).__name__} {_described(head[0])}before its answer; the heat map needs "
            "GlobalAveragePooling2D or Flatten, then Dense, BatchNormalization, ReLU and Dropout, at last a softmax or "
            "one sigmoid: change the head, or declare the network without a Heatmap."
        )
    return head


def _described(layer: keras.layers.Layer) -> str:
    if not isinstance(layer, keras.layers.Dense):
        return ""
    return f"({layer.units} units, {layer.activation.__name__}) "
