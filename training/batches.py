"""Labelled pictures as Keras is fed with them: from a file on disk, in an order that seed and epoch decide."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from rich.progress import Progress
from sklearn.utils.class_weight import compute_sample_weight

from fovea.errors import TrainingError
from fovea.spec import Network, Task
from training import augmentation
from training.inputs import stored_inputs
from training.recipes import Recipe
from training.run import Run
from training.splits import Entry


@dataclass(frozen=True)
class Labelled:
    """Inputs uint8 `[n, height, width, channels]`, places of the labels `[n]`, targets as the loss wants, weights.

    `groups` name the data set and class of each, over which the weights are balanced.
    """

    inputs: npt.NDArray[np.uint8]
    labels: tuple[int, ...]
    targets: npt.NDArray[Any]
    weights: npt.NDArray[np.float32]
    groups: tuple[str, ...] = ()


def labelled(task: Task, network: Network, run: Run, split: str, recipe: Recipe, bar: Progress) -> Labelled:
    """What `network` sees of a split, with labels and weights.

    Every class of every data set weighs the same in all. Weights by class alone would teach that a camera which took
    all photographs of a rare class shows nothing else.

    Raises:
        TrainingError: a class has nothing to train on, the split is empty, or a picture is unreadable.
    """
    entries: list[Entry] = [e for e in run.entries if e.split == split and e.sample.label in task.labels]
    missing = set(task.labels) - {entry.sample.label for entry in entries}
    if missing and split == "train":
        raise TrainingError(
            f"No picture to train on for {', '.join(sorted(missing))}: {task.name} needs pictures of every class, of "
            "several patients each."
        )
    if not entries:
        raise TrainingError(f"No labelled picture in the {split} split: {task.name} needs at least five a class.")
    labels = tuple(task.labels.index(entry.sample.label or "") for entry in entries)
    groups = tuple(f"{entry.sample.dataset}/{entry.sample.label}" for entry in entries)
    inputs = stored_inputs(task, network, entries, run, bar)
    return Labelled(inputs, labels, targets(recipe, labels, len(task.labels)), balanced(groups), groups)


def balanced(groups: Sequence[str]) -> npt.NDArray[np.float32]:
    """Weights `[n]`, 1 on average, of which every group has the same sum."""
    return np.asarray(compute_sample_weight("balanced", list(groups)), np.float32)


def targets(recipe: Recipe, labels: Sequence[int], count: int) -> npt.NDArray[Any]:
    """One-hot float32 `[n, count]`, or float32 or int32 `[n, 1]`."""
    if recipe.loss == "categorical":
        return np.asarray(keras.utils.to_categorical(labels, count), np.float32)
    return np.asarray(labels, np.float32 if recipe.loss == "binary" else np.int32)[:, None]


def augmented(data: Labelled, recipe: Recipe, seed: int, epochs: range) -> tf.data.Dataset:
    """Shuffled batches of those epochs (counted from 0), augmented unless the network does so itself."""
    count = len(data.inputs)
    orders = np.stack([np.random.default_rng([seed, epoch]).permutation(count) for epoch in epochs])
    places = tf.data.Dataset.from_tensor_slices(orders).flat_map(
        lambda order: tf.data.Dataset.from_tensor_slices(order).batch(recipe.batch)
    )
    batches = _gathered(data, places)
    if recipe.augments_inside:
        return batches.prefetch(2)
    augment = augmentation.layers(recipe.augmentation, seed)
    first = data.inputs[:1].astype(np.float32)
    augmentation.skip(augment, first, epochs.start * -(-count // recipe.batch))

    def change(images: tf.Tensor, answers: tf.Tensor, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        changed = augment(tf.cast(images, tf.float32), training=True)
        return tf.cast(tf.clip_by_value(tf.round(changed), 0, 255), tf.uint8), answers, weights

    return batches.map(change).prefetch(2)


def in_order(data: Labelled, size: int) -> tf.data.Dataset:
    """Every picture once, as it is, in batches."""
    return _gathered(data, tf.data.Dataset.range(len(data.inputs)).batch(size))


def _gathered(data: Labelled, places: tf.data.Dataset) -> tf.data.Dataset:
    """(inputs, targets, weights) of every batch of places, read from where they lie."""
    arrays: tuple[npt.NDArray[Any], ...] = data.inputs, data.targets, data.weights

    def read(chosen: npt.NDArray[np.int64]) -> tuple[npt.NDArray[Any], ...]:
        return tuple(array[chosen] for array in arrays)

    def gather(chosen: tf.Tensor) -> tuple[tf.Tensor, ...]:
        found = tf.numpy_function(read, [chosen], [array.dtype for array in arrays])
        for tensor, array in zip(found, arrays, strict=True):
            tensor.set_shape((None, *array.shape[1:]))
        return tuple(found)

    return places.map(gather)
