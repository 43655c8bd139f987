"""The heat map where it is hardest to get right: equal classes, nothing to show, and heads that it does not fit."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import RETINA, SIDE

from fovea import quiet
from fovea.errors import ExportError

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


def head(*layers: keras.layers.Layer) -> keras.Model:
    return keras.Sequential([keras.Input((8, 8, 2)), *layers], name="strange")


HEADS = {
    "flattened": lambda: head(keras.layers.Flatten(), keras.layers.Dense(4, activation="softmax")),
    "two dense layers": lambda: head(
        keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(5), keras.layers.Dense(4, activation="softmax")
    ),
    "maximum pooling": lambda: head(keras.layers.GlobalMaxPooling2D(), keras.layers.Dense(4, activation="softmax")),
    "sigmoid": lambda: head(keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(4, activation="sigmoid")),
    "logits": lambda: head(keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(4)),
    "softmax apart": lambda: head(keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(4), keras.layers.Softmax()),
}


@pytest.mark.parametrize("make", HEADS.values(), ids=HEADS.keys())
def test_a_head_for_which_the_heat_map_would_be_wrong_is_refused(make: Callable[[], keras.Model]) -> None:
    for use in (gradcam.with_heatmap, lambda model: gradcam.by_gradient(model, np.zeros((1, 8, 8, 2), np.uint8))):
        with pytest.raises(ExportError, match=r"strange ends in .* needs GlobalAveragePooling2D and a softmax Dense"):
            use(make())
