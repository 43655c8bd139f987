"""`--prepare superresolution`: a small autoencoder that learnt to restore pictures from half-size copies of them.

A convolutional encoder and decoder joined by a skip (arXiv:1603.09056) tells the difference between a picture that was
halved and enlarged again and the picture itself (residual learning: arXiv:1511.04587), by the mean absolute error
(arXiv:1511.08861); the decoder enlarges, then convolves, which leaves no checkerboard (doi:10.23915/distill.00003). In
front of a classifier it is shown pictures in full size, as if they were enlarged ones, and sharpens them.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import numpy.typing as npt
from rich.progress import Progress

from fovea.errors import TrainingError
from training.run import Run

NAME = "superresolution"
Stack = npt.NDArray[np.uint8]  # [n, height, width, 3]


@dataclass(frozen=True)
class Settings:
    """In each of the steps, `crop` pixels are cut at random from `batch` pictures; `rate` is Adam's.

    Steps, not epochs: an autoencoder that few pictures taught for few epochs would blur what it should sharpen.
    """

    steps: int = 400
    crop: int = 128
    batch: int = 16
    rate: float = 1e-3
    channels: tuple[int, int] = (16, 32)


SETTINGS = Settings()


def build(settings: Settings) -> keras.Model:
    """uint8 `[batch, height, width, 3]` in, float32 of the same shape out, 0…255; both sides must be even.

    The last convolution begins as zero, so that the untrained network changes nothing.
    """
    narrow, wide = settings.channels

    def convolution(x: keras.KerasTensor, channels: int, stride: int = 1) -> keras.KerasTensor:
        return keras.layers.Conv2D(channels, 3, strides=stride, padding="same", activation="relu")(x)

    picture = keras.Input((None, None, 3), dtype="uint8", name="picture")
    fine = convolution(keras.layers.Rescaling(1 / 255)(picture), narrow)
    x = convolution(fine, wide, stride=2)
    x = convolution(convolution(x, wide), wide)
    x = keras.layers.UpSampling2D(2)(convolution(x, narrow))
    x = keras.layers.Add()([x, fine])
    lost = keras.layers.Conv2D(3, 3, padding="same", kernel_initializer="zeros")(x)
    values = keras.layers.Add()([keras.layers.Rescaling(1.0)(picture), keras.layers.Rescaling(255.0)(lost)])
    return keras.Model(picture, keras.layers.ReLU(max_value=255.0, name="clipped")(values), name=NAME)


def restorer(pictures: Stack, run: Run, bar: Progress, settings: Settings) -> tuple[keras.Model, dict[str, Any]]:
    """The frozen network that `pictures` (those of the training split, and no others) taught, and facts about it.

    It lies whole in the run's folder, named by manifest, seed, settings and pictures' size: a resumed run reads it.

    Raises:
        TrainingError: the pictures have an odd side, or the stored network is damaged.
    """
    if any(side % 2 for side in pictures.shape[1:3]):
        raise TrainingError(f"Pictures of {pictures.shape[1:3]} cannot be halved: declare an even side in tasks.py.")
    # Whether tasks.py now declares other pictures shows in the first one.
    first = hashlib.sha256(pictures[0].tobytes()).hexdigest()
    key = json.dumps([run.manifest_sha256, run.seed, pictures.shape, first, asdict(settings)])
    path = run.folder / f"{NAME}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.keras"
    record = path.with_suffix(".json")
    if not (path.exists() and record.exists()):
        model, facts = _taught(pictures, run.seed, bar, settings)
        run.replace(path, model.save)
        run.write_json(record, facts)
    model, facts = _load(path), json.loads(record.read_text(encoding="utf-8"))
    model.trainable = False
    return model, facts


def _load(path: Path) -> keras.Model:
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # a damaged archive raises whatever its reader meets first
        raise TrainingError(f"{path} is no Keras network ({type(error).__name__}): delete it to train again.") from None


def _taught(pictures: Stack, seed: int, bar: Progress, settings: Settings) -> tuple[keras.Model, dict[str, Any]]:
    keras.utils.set_random_seed(seed)
    model = build(settings)
    model.compile(keras.optimizers.Adam(settings.rate), loss="mean_absolute_error")
    generator = np.random.default_rng([seed, 0])
    row = bar.add_task(NAME, total=settings.steps, note="")
    for _ in range(settings.steps):
        chosen = generator.integers(len(pictures), size=settings.batch)
        whole = _crops(pictures, chosen, settings.crop, generator)
        loss = float(model.train_on_batch(enlarged(whole), whole.astype(np.float32)))
        if not np.isfinite(loss):
            raise TrainingError("The autoencoder's loss is no longer finite: look for damaged photographs.")
        bar.update(row, advance=1, note=f"{loss:.2f} grey levels")
    chosen = generator.permutation(len(pictures))[: 4 * settings.batch]
    whole = _crops(pictures, chosen, settings.crop, generator)
    copies = enlarged(whole)
    errors = [np.abs(whole - answer.astype(np.float32)).mean() for answer in (copies, model.predict(copies, verbose=0))]
    bar.remove_task(row)
    return model, {
        "pictures": len(pictures),
        "parameters": model.count_params(),
        "settings": asdict(settings),
        # On pictures it learnt from: whether it learnt at all, not how well it does on others.
        "grey_levels_lost": {"enlarged": round(float(errors[0]), 3), "restored": round(float(errors[1]), 3)},
    }


def _crops(pictures: Stack, places: npt.NDArray[np.int64], side: int, generator: np.random.Generator) -> Stack:
    """A random square of each of those pictures; of smaller pictures, all of it."""
    height, width = (min(side, length) // 2 * 2 for length in pictures.shape[1:3])
    tops = generator.integers(pictures.shape[1] - height + 1, size=len(places))
    lefts = generator.integers(pictures.shape[2] - width + 1, size=len(places))
    return np.stack(
        [
            pictures[place, top : top + height, left : left + width]
            for place, top, left in zip(places, tops, lefts, strict=True)
        ]
    )


def enlarged(pictures: Stack) -> Stack:
    """Each picture halved by averaging and enlarged again (bicubic): what the autoencoder sees while it learns."""
    size = pictures.shape[2], pictures.shape[1]
    half = size[0] // 2, size[1] // 2
    copies: list[Stack] = [
        np.asarray(cv2.resize(small, size, interpolation=cv2.INTER_CUBIC), np.uint8)
        for small in (cv2.resize(picture, half, interpolation=cv2.INTER_AREA) for picture in pictures)
    ]
    return np.stack(copies)
