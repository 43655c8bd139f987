"""The Keras recipe: a convolutional trunk, global average pooling, one Dense layer; saves `weights/<network>.keras`.

That head is chosen for what it makes free: the gradient of a class's logit with respect to the last feature map is
the Dense kernel itself, so `export.gradcam` adds an exact Grad-CAM without a backward pass.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from rich.progress import Progress, TaskID
from sklearn.utils.class_weight import compute_sample_weight

from fovea.errors import TrainingError
from fovea.spec import Network, Task
from training.inputs import network_inputs
from training.run import Run
from training.splits import Entry

Labelled = tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], npt.NDArray[np.float32]]
"""Inputs `[n, height, width, channels]`, one-hot labels `[n, classes]`, weights `[n]`."""


@dataclass(frozen=True)
class Schedule:
    """Adam with a cosine, on augmented batches; the epoch with the lowest validation loss is kept."""

    epochs: int
    rate: float
    batch: int = 16
    label_smoothing: float = 0.05
    dropout: float = 0.3


MOMENTUM = 0.9
"""Of the batch norms' running statistics: an epoch here has some twenty steps."""

SCHEDULES = {"image": Schedule(epochs=20, rate=2e-4), "mask": Schedule(epochs=100, rate=1e-3)}
"""A pretrained picture trunk is nudged; the mask trunk learns from nothing."""


def build(task: Task, network: Network, base: str | Path, schedule: Schedule) -> keras.Model:
    """The untrained network: uint8 `[batch, height, width, channels]` in, `probabilities` float32 `[batch, K]` out."""
    shape = task.input_shape(network)
    image = keras.Input(shape, dtype="uint8", name=network.reads)
    features = _picture_trunk(image, shape, base) if shape[2] == 3 else _mask_trunk(image)
    side = task.heatmap.side if task.heatmap else features.shape[1]
    if features.shape[1] != side:
        raise TrainingError(f"{network.name} ends in {features.shape[1]}² features, its heat map is declared {side}².")
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")(features)
    pooled = keras.layers.Dropout(schedule.dropout)(pooled)
    outputs = keras.layers.Dense(len(task.labels), activation="softmax", name="probabilities")(pooled)
    return keras.Model(image, outputs, name=network.name)


def _picture_trunk(image: keras.KerasTensor, shape: tuple[int, int, int], base: str | Path) -> keras.KerasTensor:
    """MobileNetV2 (arXiv:1801.04381) up to its 576-channel map at a sixteenth of the side."""
    weights = None if base == "none" or isinstance(base, Path) else base
    try:
        whole = keras.applications.MobileNetV2(weights=weights, include_top=False, input_shape=shape)
        if isinstance(base, Path):
            whole.load_weights(base)
    except Exception as error:  # Keras raises OSError, ValueError or a bare Exception for an unreachable download
        raise TrainingError(
            f"The pretrained base {base} could not be loaded ({(str(error).splitlines() or [''])[0]}): "
            "give a file with --weights FILE, or train from nothing with --weights none."
        ) from None
    trunk = keras.Model(whole.input, whole.get_layer("block_13_expand_relu").output, name="mobilenet_v2")
    for layer in trunk.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            # A pretrained base keeps its statistics; trainable = False is what holds Keras 3 to that, while
            # training=False at this call is overridden by fit. From nothing, the base's momentum of 0.999 would
            # take more steps to settle than there are.
            layer.trainable = base == "none"
            layer.momentum = MOMENTUM
    return trunk(keras.layers.Rescaling(1 / 127.5, offset=-1)(image))


def _mask_trunk(image: keras.KerasTensor) -> keras.KerasTensor:
    """Half resolution, then five Conv-BN-ReLU, four of them strided: 512² → 16² × 128."""
    x = keras.layers.Rescaling(1 / 255)(image)
    x = keras.layers.AveragePooling2D(2)(x)
    for channels, stride in ((16, 2), (32, 2), (64, 2), (96, 2), (128, 1)):
        x = keras.layers.Conv2D(channels, 3, strides=stride, padding="same", use_bias=False)(x)
        x = keras.layers.BatchNormalization(momentum=MOMENTUM)(x)
        x = keras.layers.ReLU()(x)
    return x


def augmentation(seed: int) -> keras.Sequential:
    """Flip, turn, zoom, contrast and brightness, on pictures in 0…255 with a black surround."""
    return keras.Sequential(
        [
            keras.layers.RandomFlip("horizontal_and_vertical", seed=seed),
            keras.layers.RandomRotation(0.08, fill_mode="constant", seed=seed + 1),
            keras.layers.RandomZoom((-0.15, 0.15), fill_mode="constant", seed=seed + 2),
            keras.layers.RandomContrast(0.2, value_range=(0, 255), seed=seed + 3),
            keras.layers.RandomBrightness(0.1, value_range=(0, 255), seed=seed + 4),
        ],
        name="augmentation",
    )


class _Keeper(keras.callbacks.Callback):  # type: ignore[misc]
    """After every epoch: the best network so far, the history, then a checkpoint, each whole; and the progress bar."""

    def __init__(self, run: Run, name: str, history: list[dict[str, float]], bar: Progress, row: TaskID) -> None:
        super().__init__()
        self.run, self.name, self.history, self.bar, self.row = run, name, history, bar, row

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if logs:
            self.bar.update(self.row, note=f"loss {logs['loss']:.4f}")

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        now = {name: float(value) for name, value in (logs or {}).items()}
        if not np.isfinite([now["loss"], now["val_loss"]]).all():
            raise TrainingError(
                "The loss is no longer finite: look for damaged photographs, or start from other weights."
            )
        if all(now["val_loss"] < past["validation_loss"] for past in self.history):
            self.run.replace(_best(self.run, self.name), self.model.save)
        self.history.append(
            {
                "epoch": epoch + 1,
                "loss": now["loss"],
                "validation_loss": now["val_loss"],
                "validation_accuracy": now["val_accuracy"],
            }
        )
        self.run.write_json(_history(self.run, self.name), self.history)
        self.run.replace(_checkpoint(self.run, self.name), self.model.save)
        self.bar.update(self.row, completed=epoch + 1, note=f"validation accuracy {now['val_accuracy']:.3f}")


def _best(run: Run, name: str) -> Path:
    return run.folder / f"{name}.best.keras"


def _history(run: Run, name: str) -> Path:
    return run.folder / f"{name}.history.json"


def _checkpoint(run: Run, name: str) -> Path:
    return run.folder / f"{name}.checkpoint.keras"


def train(task: Task, network: Network, run: Run, base: str | Path, epochs: int | None, bar: Progress) -> None:
    """Train `network` and leave `<weights>/<network>.keras`, its `.json`, history and plot."""
    keras.utils.set_random_seed(run.seed)
    schedule = SCHEDULES["image" if network.reads == "image" else "mask"]
    if epochs is not None:
        schedule = Schedule(**asdict(schedule) | {"epochs": epochs})
    settings = {
        "network": network.name,
        "seed": run.seed,
        "manifest": run.manifest_sha256,
        "base": str(base) if network.reads == "image" else "none",
    } | asdict(schedule)
    resumed = _resume(run, network.name, settings)
    data = {split: _labelled(task, network, run, split) for split in ("train", "validation")}
    x, y, weights = data["train"]
    steps_per_epoch = -(-len(x) // schedule.batch)
    history: list[dict[str, float]] = []
    if resumed is None:
        model = build(task, network, base, schedule)
        model.compile(
            optimizer=keras.optimizers.Adam(
                keras.optimizers.schedules.CosineDecay(schedule.rate, schedule.epochs * steps_per_epoch)
            ),
            loss=keras.losses.CategoricalCrossentropy(label_smoothing=schedule.label_smoothing),
            metrics=["accuracy"],
            weighted_metrics=[],
        )
    else:
        model, history = resumed
    # The history is written before the checkpoint: the optimiser's own count says which epochs are whole.
    epoch = int(model.optimizer.iterations) // steps_per_epoch
    del history[epoch:]
    row = bar.add_task(network.name, total=schedule.epochs, completed=epoch, note="")
    model.fit(
        _batches(x, y, weights, schedule.batch, run.seed),
        validation_data=data["validation"],
        initial_epoch=epoch,
        epochs=schedule.epochs,
        callbacks=[_Keeper(run, network.name, history, bar, row)],
        verbose=0,
        shuffle=False,  # the data set shuffles itself
    )
    run.replace(run.weights / f"{network.name}.keras", keras.models.load_model(_best(run, network.name)).save)
    summary: dict[str, Any] = {
        "network": network.name,
        "framework": f"keras {keras.__version__}, tensorflow {tf.__version__}",
        "seed": run.seed,
        "schedule": asdict(schedule),
        "base": "MobileNetV2, ImageNet" if network.reads == "image" and base != "none" else "none",
        "parameters": model.count_params(),
        "data": run.describe(entry for entry in run.entries if entry.sample.label in task.labels),
    }
    run.write_json(run.weights / f"{network.name}.json", summary)
    run.plot_history(network.name, history, "epoch", "validation_accuracy")
    _checkpoint(run, network.name).unlink()


def _resume(run: Run, name: str, settings: dict[str, Any]) -> tuple[keras.Model, list[dict[str, float]]] | None:
    """The network and history as the last whole epoch left them, or None for a fresh start."""
    checkpoint, record = _checkpoint(run, name), run.folder / f"{name}.settings.json"
    if not checkpoint.exists():
        run.write_json(record, settings)
        return None
    try:
        known = json.loads(record.read_text())
        resumed = keras.models.load_model(checkpoint), json.loads(_history(run, name).read_text())
    except Exception as error:  # a damaged archive raises whatever its reader meets first
        raise TrainingError(
            f"{checkpoint} is no checkpoint of this program ({type(error).__name__}): delete it to start again."
        ) from None
    if known != settings:
        raise TrainingError(
            f"{checkpoint} belongs to another run (other data, seed or schedule): "
            "delete it, or train into another folder with --out."
        )
    return resumed


def _labelled(task: Task, network: Network, run: Run, split: str) -> Labelled:
    """Inputs, one-hot labels and weights of a split.

    Every class of every data set weighs the same in all. Weights by class alone would teach that a camera which took
    all photographs of a rare class shows nothing else.
    """
    entries: list[Entry] = [e for e in run.entries if e.split == split and e.sample.label in task.labels]
    missing = set(task.labels) - {entry.sample.label for entry in entries}
    if missing and split == "train":
        raise TrainingError(
            f"No photograph to train on for {', '.join(sorted(missing))}: {task.name} needs pictures of every class."
        )
    if not entries:
        raise TrainingError(f"No labelled photograph in the {split} split: {task.name} needs at least five a class.")
    labels = [task.labels.index(entry.sample.label or "") for entry in entries]
    weights = compute_sample_weight("balanced", [f"{entry.sample.dataset}/{entry.sample.label}" for entry in entries])
    inputs = network_inputs(task, network, entries, run.weights)
    return inputs, keras.utils.to_categorical(labels, len(task.labels)), weights.astype(np.float32)


def _batches(
    x: npt.NDArray[np.uint8], y: npt.NDArray[np.float32], weights: npt.NDArray[np.float32], size: int, seed: int
) -> tf.data.Dataset:
    augment = augmentation(seed)

    def change(images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        changed = augment(tf.cast(images, tf.float32), training=True)
        return tf.cast(tf.clip_by_value(tf.round(changed), 0, 255), tf.uint8), labels, weights

    data = tf.data.Dataset.from_tensor_slices((x, y, weights))
    return data.shuffle(len(x), seed=seed).batch(size).map(change).prefetch(2)
