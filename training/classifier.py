"""Trains a classifier: convolutional trunk, global average pooling, Dense layers; leaves `weights/<network>.keras`.

That head is chosen for what it makes free: the gradient of a class's logit with respect to the last feature map is
a product of the Dense kernels, so `export.gradcam` adds an exact Grad-CAM without a backward pass. Everything that
has to be known to go on (network, optimiser, history) is in one checkpoint, written whole after every epoch.
"""

import hashlib
import json
import shutil
import time
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from rich.progress import Progress, TaskID

from fovea.errors import TrainingError, UsageError
from fovea.spec import Network, Task
from training import augmentation, batches, calibration, dcgan, superresolution, trunks
from training.batches import Labelled
from training.preparation import Preparation, prepared
from training.recipes import Recipe, Stage, recipe_for
from training.run import Run

History = list[dict[str, float]]
"""One row per finished epoch; `stage` counts from 0, `epoch` from 1 through all stages."""
INSIDE = "history.json"
"""The history's name inside a checkpoint, which is a zip archive as all `.keras` files are."""


def build(
    task: Task, network: Network, start: str | Path, recipe: Recipe, seed: int = 0, first: keras.Model | None = None
) -> keras.Model:
    """The untrained network: uint8 `[batch, height, width, channels]` in, probabilities float32 `[batch, K or 1]` out.

    One sigmoid answers the probability of the second of two labels. `first` (uint8 in, 0…255 out) sees the pictures
    before all else.
    """
    image = keras.Input(task.input_shape(network), dtype="uint8", name=network.reads)
    pixels = first(image) if first else image
    if recipe.augments_inside:
        pixels = augmentation.layers(recipe.augmentation, seed)(keras.layers.Rescaling(1.0)(pixels))
    features = trunks.features(recipe.trunk, pixels, start)
    side = task.heatmap.side if task.heatmap else features.shape[1]
    if features.shape[1] != side:
        raise TrainingError(f"{network.name} ends in {features.shape[1]}² features, its heat map is declared {side}².")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(features)
    decay = keras.regularizers.L2(recipe.l2) if recipe.l2 else None
    for units in recipe.hidden:
        x = keras.layers.Dense(units, use_bias=False, kernel_regularizer=decay)(keras.layers.Dropout(recipe.dropout)(x))
        x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=trunks.MOMENTUM)(x))
    x = keras.layers.Dropout(recipe.dropout)(x)
    units, activation = (1, "sigmoid") if recipe.loss == "binary" else (len(task.labels), "softmax")
    answer = keras.layers.Dense(units, activation=activation, kernel_regularizer=decay, name="probabilities")(x)
    return keras.Model(image, answer, name=network.name)


def probabilities(answer: npt.NDArray[Any]) -> calibration.Values:
    """What a network answered as float64 `[n, K]`: one sigmoid becomes the probabilities of both labels."""
    wide = np.asarray(answer, np.float64)
    return np.concatenate([1 - wide, wide], axis=1) if wide.shape[1] == 1 else wide


def _compile(model: keras.Model, recipe: Recipe, stage: Stage) -> None:
    trunk = next((layer for layer in model.layers if layer.name == "trunk"), None)
    layers = trunk.layers if trunk else []
    for place, layer in enumerate(layers):
        # Batch norms were decided on when the trunk was built; every other layer anew for this stage.
        if not isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = stage.trains is None or place >= len(layers) - stage.trains
    losses = {
        "categorical": keras.losses.CategoricalCrossentropy(label_smoothing=recipe.label_smoothing),
        "sparse": keras.losses.SparseCategoricalCrossentropy(),
        "binary": keras.losses.BinaryCrossentropy(label_smoothing=recipe.label_smoothing),
    }
    model.compile(
        keras.optimizers.Adam(stage.rate), loss=losses[recipe.loss], metrics=["accuracy"], weighted_metrics=[]
    )


class _Keeper(keras.callbacks.Callback):  # type: ignore[misc]
    """After every epoch: the best network so far, then the checkpoint with the history, each whole; the rate, the bar.

    Rate and stop follow from the history alone, so that a resumed training takes the same decisions.
    """

    def __init__(self, run: Run, name: str, recipe: Recipe, stages: Sequence[Stage], history: History) -> None:
        super().__init__()
        self.run, self.name, self.recipe, self.stages, self.history = run, name, recipe, stages, history
        self.number = 0  # of the stage
        self.began = 0.0
        self.bar: tuple[Progress, TaskID] | None = None

    def show(self, **what: Any) -> None:
        if self.bar:
            self.bar[0].update(self.bar[1], **what)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.began = time.perf_counter()
        rows = [row for row in self.history if row["stage"] == self.number]
        self.model.optimizer.learning_rate = rate(self.recipe, self.stages[self.number], rows)

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if logs:
            self.show(note=f"loss {logs['loss']:.4f}")

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
                "stage": self.number,
                "epoch": epoch + 1,
                "rate": float(np.asarray(self.model.optimizer.learning_rate)),
                "loss": now["loss"],
                "validation_loss": now["val_loss"],
                "validation_accuracy": now["val_accuracy"],
                "seconds": round(time.perf_counter() - self.began, 2),
            }
        )
        self.run.replace(_checkpoint(self.run, self.name), self._save)
        self.run.write_json(self.run.folder / f"{self.name}.history.json", self.history)
        self.show(completed=epoch + 1, note=f"validation accuracy {now['val_accuracy']:.3f}")
        self.model.stop_training = finished(self.stages, self.number, self.history)

    def _save(self, part: Path) -> None:
        self.model.save(part)
        with zipfile.ZipFile(part, "a") as archive:
            archive.writestr(INSIDE, json.dumps(self.history))


def rate(recipe: Recipe, stage: Stage, rows: History) -> float:
    """Adam's rate in the epoch that follows `rows`, the stage's epochs so far."""
    if recipe.decay == "cosine":
        return float(stage.rate * (1 + np.cos(np.pi * len(rows) / stage.epochs)) / 2)
    value, best, waited = stage.rate, float("inf"), 0
    for row in rows:
        better = row["validation_loss"] < best
        best, waited = min(best, row["validation_loss"]), 0 if better else waited + 1
        if waited == recipe.plateau:
            value, waited = value / 5, 0
    return value


def finished(stages: Sequence[Stage], number: int, history: History) -> bool:
    """Whether stage `number` has had all its epochs, or waited long enough for a better one."""
    losses = [row["validation_loss"] for row in history if row["stage"] == number]
    waited = len(losses) - 1 - int(np.argmin(losses)) if losses else 0
    stage = stages[number]
    return len(losses) >= stage.epochs or (stage.patience is not None and waited >= stage.patience)


def _best(run: Run, name: str) -> Path:
    return run.folder / f"{name}.best.keras"


def _checkpoint(run: Run, name: str) -> Path:
    return run.folder / f"{name}.checkpoint.keras"


def train(
    task: Task,
    network: Network,
    run: Run,
    start: str | Path,
    epochs: int | None,
    bar: Progress,
    preparation: Preparation = "none",
) -> None:
    """Train `network` and leave `<weights>/<network>.keras`, its `.json`, history, plot and TensorBoard log.

    `start` is "imagenet", "none", the weights of a published trunk (`.h5`) or a network of this recipe (`.keras`).
    `preparation` is explained in `training.preparation`.
    """
    task = prepared(task, preparation)
    keras.utils.set_random_seed(run.seed)
    recipe = recipe_for(network)
    if isinstance(start, Path) and start.suffix != ".keras" and not trunks.pretrained(recipe.trunk):
        raise UsageError(
            f"--weights {start}: {network.name} has no published trunk; give a network of its own (.keras), or none."
        )
    if not isinstance(start, Path) and not trunks.pretrained(recipe.trunk):
        start = "none"
    stages = recipe.stages_from(start)
    if epochs is not None:
        stages = tuple(replace(stage, epochs=epochs) for stage in stages)
    settings = {
        "network": network.name,
        "seed": run.seed,
        "manifest": run.manifest_sha256,
        "start": str(start),
        "stages": [asdict(stage) for stage in stages],
        "recipe": json.loads(json.dumps(asdict(recipe))),
    }
    if preparation != "none":  # not said where there is none: checkpoints that are older than this choice stay good
        how = {"superresolution": superresolution.SETTINGS, "dcgan": dcgan.SETTINGS}.get(preparation)
        settings["preparation"] = [preparation, repr(how)]
    resumed = _resume(run, network.name, settings)
    facts: dict[str, Any] = {"preparation": preparation}
    first = None
    if preparation == "superresolution":
        trained = batches.labelled(task, network, run, "train", recipe, bar).inputs
        first, facts[preparation] = superresolution.restorer(trained, run, bar, superresolution.SETTINGS)
    model, history = resumed or (_begin(task, network, start, recipe, run.seed, first), [])
    keeper = _Keeper(run, network.name, recipe, stages, history)
    number = int(history[-1]["stage"]) if history else 0
    total = sum(stage.epochs for stage in stages)
    keeper.bar = bar, bar.add_task(network.name, total=total, completed=len(history), note="")
    data = {split: batches.labelled(task, network, run, split, recipe, bar) for split in ("train", "validation")}
    if preparation == "dcgan":
        data["train"], facts["synthetic"] = dcgan.oversampled(
            task.labels, data["train"], recipe, run, bar, dcgan.SETTINGS
        )
    for keeper.number in range(number, len(stages)):
        stage = stages[keeper.number]
        done = sum(row["stage"] == keeper.number for row in history)
        if done and finished(stages, keeper.number, history):
            continue
        if not done:
            if history:
                model = keras.models.load_model(_best(run, network.name))
            _compile(model, recipe, stage)
        _fit(model, data, recipe, len(history), len(history) - done + stage.epochs, keeper, run)
    _finish(task, network, run, start, recipe, stages, history, data["validation"], facts)


def _begin(
    task: Task, network: Network, start: str | Path, recipe: Recipe, seed: int, first: keras.Model | None = None
) -> keras.Model:
    keras.utils.set_random_seed(seed)  # whatever was trained before it, a network begins with the same weights
    if not (isinstance(start, Path) and start.suffix == ".keras"):
        return build(task, network, start, recipe, seed, first)
    if first:
        raise TrainingError(
            f"{start} is a whole network, which an autoencoder cannot be put in front of: leave --prepare "
            "superresolution out, or start from a trunk with --weights."
        )
    model = load(start)
    wanted = build(task, network, "none", recipe)
    ours = model.name, model.input_shape, model.output_shape
    if ours != (network.name, wanted.input_shape, wanted.output_shape):
        raise TrainingError(
            f"{start} is {model.name}, sees {model.input_shape} and answers {model.output_shape}; {network.name} needs "
            f"{wanted.input_shape} and {wanted.output_shape}: it is a network of another task."
        )
    return model


def load(path: Path) -> keras.Model:
    """A trained `.keras` network, not compiled, or `TrainingError` with the cure."""
    if not path.exists():
        raise TrainingError(f"{path} does not exist: train that network first.")
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # a damaged archive raises whatever its reader meets first
        raise TrainingError(f"{path} is no Keras network ({type(error).__name__}): train it again.") from None


def _fit(
    model: keras.Model, data: dict[str, Labelled], recipe: Recipe, first: int, last: int, keeper: _Keeper, run: Run
) -> None:
    """Train from epoch `first` (finished epochs of all stages) to `last`, or until the keeper stops it."""
    count = len(data["train"].inputs)
    model.fit(
        batches.augmented(data["train"], recipe, run.seed, range(first, last)),
        steps_per_epoch=-(-count // recipe.batch),
        validation_data=batches.in_order(data["validation"], recipe.batch),
        initial_epoch=first,
        epochs=last,
        callbacks=[keeper, keras.callbacks.TensorBoard(run.folder / "tensorboard" / keeper.name)],
        verbose=0,
        shuffle=False,  # the batches are shuffled already
    )


def _finish(
    task: Task,
    network: Network,
    run: Run,
    start: str | Path,
    recipe: Recipe,
    stages: Sequence[Stage],
    history: History,
    validation: Labelled,
    facts: dict[str, Any],
) -> None:
    """Fold the temperature into the best network, choose operating points, and leave what export reads."""
    model = load(_best(run, network.name))
    raw = probabilities(model.predict(validation.inputs, batch_size=recipe.batch, verbose=0))
    heat = calibration.temperature(raw, validation.labels)
    dense = model.get_layer("probabilities")
    dense.set_weights([values / heat for values in dense.get_weights()])
    assert task.classes is not None
    healthy = task.labels.index(task.classes.healthy)
    scores = 1 - calibration.reheated(raw, heat)[:, healthy]
    points = calibration.operating_points(scores, np.array(validation.labels) != healthy)
    run.replace(run.weights / f"{network.name}.keras", model.save)
    trained = run.weights / f"{network.name}.keras"
    summary: dict[str, Any] = {
        "network": network.name,
        "labels": list(task.labels),
        "weights_sha256": hashlib.sha256(trained.read_bytes()).hexdigest(),
        "framework": f"keras {keras.__version__}, tensorflow {tf.__version__}",
        "seed": run.seed,
        "image": asdict(task.image),
        **facts,
        "start": str(start) if isinstance(start, str) else start.name,
        "recipe": asdict(recipe),
        "stages": [asdict(stage) for stage in stages],
        "epochs": len(history),
        "seconds": round(sum(row["seconds"] for row in history)),
        "temperature": heat,
        "operating_points": calibration.as_json(points),
        "parameters": model.count_params(),
        "data": run.describe(entry for entry in run.entries if entry.sample.label in task.labels),
    }
    run.write_json(run.weights / f"{network.name}.json", summary)
    run.plot_history(network.name, history, "epoch", "validation_accuracy")
    _checkpoint(run, network.name).unlink()
    shutil.rmtree(run.folder / "inputs", ignore_errors=True)


def _resume(run: Run, name: str, settings: dict[str, Any]) -> tuple[keras.Model, History] | None:
    """The network and history as the last whole epoch left them, or None for a fresh start."""
    checkpoint, record = _checkpoint(run, name), run.folder / f"{name}.settings.json"
    if not checkpoint.exists():
        run.write_json(record, settings)
        return None
    try:
        known = json.loads(record.read_text())
        with zipfile.ZipFile(checkpoint) as archive:
            history = json.loads(archive.read(INSIDE))
        model = keras.models.load_model(checkpoint)
    except Exception as error:  # a damaged archive raises whatever its reader meets first
        raise TrainingError(
            f"{checkpoint} is no checkpoint of this program ({type(error).__name__}): delete it to start again."
        ) from None
    if known != settings:
        raise TrainingError(
            f"{checkpoint} belongs to another run (other data, seed, schedule or preparation): "
            "delete it, or train into another folder with --out."
        )
    return model, history
