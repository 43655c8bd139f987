"""The convolutional parts of the classifiers: uint8 pictures in, a feature map out, scaling included.

A pretrained trunk is the published one, with the scaling it was trained under. Without pretrained weights VGG16 and
ResNet50 keep their depth at three sixteenths of the width, MobileNetV2 its at 0.35, and all have batch norm: at full
width they cannot be trained on the few hundred pictures a clinic has, and VGG16 without batch norm hardly at all.
"""

from pathlib import Path

import keras

from fovea.errors import TrainingError
from training.recipes import Trunk

MOMENTUM = 0.9
"""Of the batch norms' running statistics: an epoch here has some twenty steps."""
CAFFE_MEAN = (123.68, 116.779, 103.939)
"""Of ImageNet's red, green and blue, which the published VGG16 and ResNet50 subtract (arXiv:1409.1556)."""
NARROW = 12
"""Channels of the first stage of a narrow VGG16 or ResNet50; the published ones have 64."""


def features(trunk: Trunk, image: keras.KerasTensor, base: str | Path) -> keras.KerasTensor:
    """The last feature map `[batch, h, w, channels]` of `image`, values 0…255 `[batch, height, width, channels]`.

    `base` is "imagenet" (downloaded by Keras), "none", or a `.weights.h5` file of the published trunk without its top.

    Raises:
        TrainingError: the pretrained weights cannot be had.
    """
    match trunk:
        case "cnn":
            return _cnn(image)
        case "mask_cnn":
            return _mask_cnn(image)
        case "mobilenet_v2":
            return _mobilenet_v2(image, base)
        case "vgg16":
            return _vgg16(image) if base == "none" else _published(keras.applications.VGG16, image, base)
        case "resnet50":
            return _resnet50(image) if base == "none" else _published(keras.applications.ResNet50, image, base)


def pretrained(trunk: Trunk) -> bool:
    """Whether there are published weights for it."""
    return trunk not in ("cnn", "mask_cnn")


def _load(make: type[keras.Model], base: str | Path, shape: tuple[int, ...], **options: object) -> keras.Model:
    weights = "imagenet" if base == "imagenet" else None
    try:
        whole = make(weights=weights, include_top=False, input_shape=shape, **options)
        if isinstance(base, Path):
            whole.load_weights(base)
    except Exception as error:  # Keras raises OSError, ValueError or a bare Exception for an unreachable download
        raise TrainingError(
            f"The pretrained base {base} could not be loaded ({(str(error).splitlines() or [''])[0]}): "
            "give a file with --weights FILE, or train from nothing with --weights none."
        ) from None
    return whole


def _mobilenet_v2(image: keras.KerasTensor, base: str | Path) -> keras.KerasTensor:
    """MobileNetV2 (arXiv:1801.04381) up to the widened map at a sixteenth of the side."""
    alpha = 0.35 if base == "none" else 1.0
    whole = _load(keras.applications.MobileNetV2, base, tuple(image.shape[1:]), alpha=alpha)
    trunk = keras.Model(whole.input, whole.get_layer("block_13_expand_relu").output, name="trunk")
    _settle(trunk, base)
    return trunk(keras.layers.Rescaling(1 / 127.5, offset=-1)(image))


def _published(make: type[keras.Model], image: keras.KerasTensor, base: str | Path) -> keras.KerasTensor:
    """VGG16 up to its last convolution, or ResNet50; both learnt on blue, green, red less their means."""
    whole = _load(make, base, tuple(image.shape[1:]))
    last = "block5_conv3" if make is keras.applications.VGG16 else "conv5_block3_out"
    trunk = keras.Model(whole.input, whole.get_layer(last).output, name="trunk")
    first = next(layer for layer in trunk.layers if isinstance(layer, keras.layers.Conv2D))
    kernel, *bias = first.get_weights()
    first.set_weights([kernel[:, :, ::-1], *bias])  # the channels' order is turned once here, not in every picture
    _settle(trunk, base)
    return trunk(keras.layers.Rescaling(1.0, offset=[-mean for mean in CAFFE_MEAN])(image))


def _settle(trunk: keras.Model, base: str | Path) -> None:
    for layer in trunk.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            # A pretrained base keeps its statistics; trainable = False is what holds Keras 3 to that, while
            # training=False at a call is overridden by fit. From nothing, the published momentum of 0.999 would
            # take more steps to settle than there are.
            layer.trainable = base == "none"
            layer.momentum = MOMENTUM


def _convolution(x: keras.KerasTensor, channels: int, side: int = 3, stride: int = 1) -> keras.KerasTensor:
    x = keras.layers.Conv2D(channels, side, strides=stride, padding="same", use_bias=False)(x)
    return keras.layers.BatchNormalization(momentum=MOMENTUM)(x)


def _cnn(image: keras.KerasTensor) -> keras.KerasTensor:
    """A strided 5×5 convolution, three pairs of 3×3 ones each with a pool, one more: a sixteenth of the side."""
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(image)
    x = keras.layers.ReLU()(_convolution(x, 16, 5, 2))
    for channels in (32, 64, 96):
        x = keras.layers.ReLU()(_convolution(x, channels))
        x = keras.layers.ReLU()(_convolution(x, channels))
        x = keras.layers.MaxPooling2D()(x)
        x = keras.layers.SpatialDropout2D(0.05)(x)
    return keras.layers.ReLU()(_convolution(x, 128))


def _mask_cnn(image: keras.KerasTensor) -> keras.KerasTensor:
    """Half resolution, then five convolutions, four of them strided: 512² → 16² × 128."""
    x = keras.layers.Rescaling(1 / 255)(image)
    x = keras.layers.AveragePooling2D(2)(x)
    for channels, stride in ((16, 2), (32, 2), (64, 2), (96, 2), (128, 1)):
        x = keras.layers.ReLU()(_convolution(x, channels, stride=stride))
    return x


def _vgg16(image: keras.KerasTensor) -> keras.KerasTensor:
    """The thirteen convolutions of VGG16 (arXiv:1409.1556), narrow, batch-normed, without the last pool."""
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(image)
    for block, (wider, count) in enumerate(((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))):
        if block:
            x = keras.layers.MaxPooling2D()(x)
        for _ in range(count):
            x = keras.layers.ReLU()(_convolution(x, NARROW * wider))
    return x


def _resnet50(image: keras.KerasTensor) -> keras.KerasTensor:
    """The sixteen bottlenecks of ResNet50 (arXiv:1512.03385), narrow."""
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(image)
    x = keras.layers.ReLU()(_convolution(x, NARROW, 7, 2))
    x = keras.layers.MaxPooling2D(3, strides=2, padding="same")(x)
    for stage, count in enumerate((3, 4, 6, 3)):
        channels = NARROW * 2**stage
        for block in range(count):
            stride = 2 if stage and not block else 1
            inner = keras.layers.ReLU()(_convolution(x, channels, 1, stride))
            inner = keras.layers.ReLU()(_convolution(inner, channels))
            inner = _convolution(inner, 4 * channels, 1)
            past = x if block else _convolution(x, 4 * channels, 1, stride)
            x = keras.layers.ReLU()(keras.layers.Add()([inner, past]))
    return x
