"""The heat map where it is hardest to get right: equal classes, nothing to show, and heads that it does not fit."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import RETINA, SIDE

from fovea import quiet
from fovea.errors import ExportError
from fovea.spec import Classes

with quiet.native_stderr():
    import keras

    from export import from_keras, gradcam, parity

MASK_CLASSIFIER = RETINA.networks[1]


def shifting_model(kernel: list[list[float]], bias: list[float]) -> keras.Model:
    """Two features, the mask and the mask one pixel to the right, then this last layer: everything is exact."""
    image = keras.Input(RETINA.input_shape(MASK_CLASSIFIER), dtype="uint8", name="vessels")
    features = keras.layers.Conv2D(2, 3, padding="same", use_bias=False, name="shift")(keras.layers.Rescaling(1)(image))
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    model = keras.Model(
        image, keras.layers.Dense(4, activation="softmax", name="probabilities")(pooled), name="shifting"
    )
    shift = np.zeros((3, 3, 1, 2), np.float32)
    shift[1, 1, 0, 0] = shift[1, 0, 0, 1] = 1
    model.get_layer("shift").set_weights([shift])
    model.get_layer("probabilities").set_weights([np.array(kernel, np.float32), np.array(bias, np.float32)])
    return model


SPOT = np.zeros((1, SIDE, SIDE, 1), np.uint8)
SPOT[0, 20:28, 30:36] = 255


def answers(model: keras.Model, path: Path) -> tuple[Any, Any, Any]:
    """Probabilities and heat map of the exported graph for `SPOT`, and the heat map by automatic differentiation."""
    model.save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = from_keras.convert(RETINA, MASK_CLASSIFIER, path)
    found = parity.session(converted).run(["probabilities", "heatmap"], {"vessels": SPOT})
    return found[0][0], found[1][0], gradcam.by_gradient(model, SPOT)[0]


@pytest.mark.parametrize("first", [0, 1])
def test_of_equal_classes_the_heat_map_shows_the_first_as_the_label_does(first: int, tmp_path: Path) -> None:
    """Two classes tie to the last bit, one by the mask and one by its shifted copy: their maps differ."""
    kernel = [[0, 1 / 256, 0, 0], [0, 0, 1 / 256, 0]]
    model = shifting_model(kernel[::-1] if first else kernel, [-50, 0, 0, -50])
    probabilities, found, expected = answers(model, tmp_path / "m.keras")
    assert probabilities[1] == probabilities[2] == probabilities.max()
    shown = np.zeros((SIDE, SIDE), np.float32)
    shown[20:28, 30 + first : 36 + first] = 255 / 256 / SIDE**2
    assert np.abs(found - shown).max() <= 1e-5 * shown.max()
    assert np.abs(expected - shown).max() <= 1e-5 * shown.max()


def test_a_map_that_nothing_speaks_for_is_all_zero_and_parity_holds_there(tmp_path: Path) -> None:
    """The top class wins by its bias; all that is seen speaks against it."""
    model = shifting_model([[-1 / 256, 0, 0, 0], [-1 / 256, 0, 0, 0]], [50, 0, 0, 0])
    probabilities, found, expected = answers(model, tmp_path / "m.keras")
    assert probabilities.argmax() == 0
    assert not found.any()
    assert not expected.any()
    scale = np.finfo(np.float32).tiny
    assert parity.compare(found / scale, expected / scale, MASK_CLASSIFIER.tolerance) == (0, True)
    assert not parity.compare((found + 1e-20) / scale, expected / scale, MASK_CLASSIFIER.tolerance)[1]


def network(joint: keras.layers.Layer, *layers: keras.layers.Layer) -> keras.Model:
    """A random convolution with signs of both kinds, then this head, every batch norm with statistics of its own."""
    keras.utils.set_random_seed(5)
    image = keras.Input(RETINA.input_shape(MASK_CLASSIFIER), dtype="uint8", name="vessels")
    x = keras.layers.Conv2D(6, 3, strides=8, padding="same")(keras.layers.Rescaling(1 / 64, -2)(image))
    for layer in (joint, *layers):
        x = layer(x)
        if isinstance(layer, keras.layers.BatchNormalization):
            width = x.shape[-1]
            draw = np.random.default_rng(1).uniform(0.2, 2, (4, width)).astype(np.float32)
            layer.set_weights(list(draw - np.array([[0], [1], [1], [0]], np.float32)))
    return keras.Model(image, x, name="strange")


def mlp() -> list[keras.layers.Layer]:
    """Both orders of batch norm and ReLU."""
    layers = keras.layers
    return [
        layers.Dropout(0.5),
        layers.Dense(16, activation="relu"),
        layers.BatchNormalization(),
        layers.Dropout(0.5),
        layers.Dense(8, use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
    ]


SOFTMAX = {"units": 4, "activation": "softmax", "kernel_initializer": "random_normal"}
SIGMOID = {"units": 1, "activation": "sigmoid", "kernel_initializer": "random_normal"}
POOL, FLATTEN = keras.layers.GlobalAveragePooling2D, keras.layers.Flatten
EXPLAINED = {
    "pooled": lambda answer: network(POOL(), keras.layers.Dense(**answer)),
    "pooled, layers between": lambda answer: network(POOL(), *mlp(), keras.layers.Dense(**answer)),
    "flattened": lambda answer: network(FLATTEN(), keras.layers.Dense(**answer)),
    "flattened, layers between": lambda answer: network(FLATTEN(), *mlp(), keras.layers.Dense(**answer)),
}
PICTURES = np.random.default_rng(2).integers(0, 256, (7, SIDE, SIDE, 1), np.uint8)


@pytest.mark.parametrize("answer", [SOFTMAX, SIGMOID], ids=["softmax", "sigmoid"])
@pytest.mark.parametrize("name", EXPLAINED)
def test_the_heat_map_of_every_head_equals_the_one_by_automatic_differentiation(
    name: str, answer: dict[str, Any], tmp_path: Path
) -> None:
    model = EXPLAINED[name](answer)
    model.save(tmp_path / "m.keras")
    network = MASK_CLASSIFIER
    task = RETINA
    if answer is SIGMOID:  # a question of two labels
        classes = Classes(("no", "yes"), healthy="no")
        network = replace(network, answers=(classes, *network.answers[1:]))
        task = replace(task, networks=(task.networks[0], network))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = from_keras.convert(task, network, tmp_path / "m.keras")
    probabilities, found = parity.session(converted).run(["probabilities", "heatmap"], {"vessels": PICTURES})
    expected = gradcam.by_gradient(model, PICTURES)
    assert expected.max() > 0
    assert np.abs(found - expected).max() <= 1e-5 * expected.max()
    assert np.abs(probabilities.sum(axis=1) - 1).max() <= 1e-6
    if answer is SIGMOID:
        assert np.abs(probabilities[:, 1:] - np.asarray(model(PICTURES))).max() <= 1e-6
    # HiResCAM (arXiv:2011.08891) weighs every pixel by its own derivative: the same under pooling, not under Flatten.
    features, slope = gradcam.slopes(model, PICTURES)
    hires = np.maximum((features * slope).sum(axis=-1), 0)
    apart = np.abs(hires - (expected / (1 if "pooled" in name else hires[0].size))).max() / hires.max()
    assert apart <= 1e-5 if "pooled" in name else apart > 0.05


def test_a_sigmoid_explains_whichever_of_its_two_labels_is_the_answer(tmp_path: Path) -> None:
    """What speaks for yes speaks against no: turning the last layer's signs round turns the map into the other's."""
    model = EXPLAINED["pooled, layers between"](SIGMOID)
    last = model.layers[-1]
    answers = np.asarray(model(PICTURES))
    middle = np.median(np.log(answers / (1 - answers)))
    last.set_weights([last.get_weights()[0], np.array([1e-3 - middle], np.float32)])
    features, slope = gradcam.slopes(model, PICTURES)
    yes = np.asarray(model(PICTURES))[:, 0] > 0.5
    assert yes.any()
    assert not yes.all()
    assert gradcam.by_gradient(model, PICTURES).shape == features.shape[:3]
    last.set_weights([-values for values in last.get_weights()])
    _, turned = gradcam.slopes(model, PICTURES)
    assert np.array_equal(np.asarray(model(PICTURES))[:, 0] > 0.5, ~yes)
    assert np.abs(turned - slope).max() <= 1e-7 * np.abs(slope).max()


@pytest.mark.parametrize("name", EXPLAINED)
def test_the_heat_map_adds_hardly_an_operation_to_the_network(name: str, tmp_path: Path) -> None:
    """Flatten's first kernel is averaged when the graph is made: nothing of its size is multiplied a second time."""
    model = EXPLAINED[name](SOFTMAX)
    model.save(tmp_path / "m.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = from_keras.convert(RETINA, MASK_CLASSIFIER, tmp_path / "m.keras")
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in converted.graph.initializer}
    first = next(layer for layer in model.layers if isinstance(layer, keras.layers.Dense))
    users = [n.op_type for n in converted.graph.node if any(sizes.get(i) == first.kernel.shape.num_elements()
             for i in n.input)]  # fmt: skip
    # Its kernel is multiplied once for the answer; under pooling, where it is no larger than its mean, once more.
    assert users.count("MatMul") + users.count("Gemm") >= 1
    assert not {"ReduceMean", "Reshape", "Transpose"} & set(users)
    assert "flattened" not in name or len(users) == 1


def head(*layers: keras.layers.Layer) -> keras.Model:
    return keras.Sequential([keras.Input((8, 8, 2)), *layers], name="strange")


HEADS = {
    "maximum pooling": lambda: head(keras.layers.GlobalMaxPooling2D(), keras.layers.Dense(4, activation="softmax")),
    "many sigmoids": lambda: head(POOL(), keras.layers.Dense(4, activation="sigmoid")),
    "one softmax": lambda: head(POOL(), keras.layers.Dense(1, activation="softmax")),
    "logits": lambda: head(POOL(), keras.layers.Dense(4)),
    "softmax apart": lambda: head(POOL(), keras.layers.Dense(4), keras.layers.Softmax()),
    "leaking": lambda: head(
        POOL(), keras.layers.Dense(4), keras.layers.LeakyReLU(), keras.layers.Dense(4, activation="softmax")
    ),
    "bounded": lambda: head(
        POOL(), keras.layers.Dense(4), keras.layers.ReLU(6), keras.layers.Dense(4, activation="softmax")
    ),
    "smooth": lambda: head(
        POOL(), keras.layers.Dense(4, activation="gelu"), keras.layers.Dense(4, activation="softmax")
    ),
    "a pool between": lambda: head(
        FLATTEN(), keras.layers.Reshape((128, 1)), keras.layers.Flatten(), keras.layers.Dense(4, activation="softmax")
    ),
}


@pytest.mark.parametrize("make", HEADS.values(), ids=HEADS.keys())
def test_a_head_for_which_the_heat_map_would_be_wrong_is_refused(make: Callable[[], keras.Model]) -> None:
    for use in (gradcam.with_heatmap, lambda model: gradcam.by_gradient(model, np.zeros((1, 8, 8, 2), np.uint8))):
        with pytest.raises(ExportError, match=r"strange has .* before its answer; the heat map needs GlobalAverage"):
            use(make())
