"""What a picture is turned into, anew for every epoch."""

import keras
import numpy as np
import numpy.typing as npt

from training.recipes import Augmentation


def layers(how: Augmentation, seed: int) -> keras.Sequential:
    """Flip, turn, zoom, shift, contrast and brightness, on pictures in 0…255; what comes in from outside is black."""
    chosen = [
        keras.layers.RandomFlip(how.flip, seed=seed),
        keras.layers.RandomRotation(how.rotation, fill_mode="constant", seed=seed + 1),
        keras.layers.RandomZoom((-how.zoom, how.zoom), fill_mode="constant", seed=seed + 2),
        keras.layers.RandomContrast(how.contrast, value_range=(0, 255), seed=seed + 3),
        keras.layers.RandomBrightness(how.brightness, value_range=(0, 255), seed=seed + 4),
    ]
    if how.shift:
        chosen.insert(2, keras.layers.RandomTranslation(how.shift, how.shift, fill_mode="constant", seed=seed + 5))
    return keras.Sequential(chosen, name="augmentation")


def skip(augment: keras.Sequential, pictures: npt.NDArray[np.float32], batches: int) -> None:
    """Go on with the draws that follow `batches` batches like `pictures` `[n, height, width, 3]`, as if they were past.

    A training that was cut must see in its next epoch what it would have seen without the cut.
    """
    states = [layer.generator.state for layer in augment.layers]
    before = [np.asarray(state) for state in states]
    augment(pictures, training=True)
    for state, start in zip(states, before, strict=True):
        state.assign(start + (np.asarray(state) - start) * batches)
