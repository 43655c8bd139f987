"""What follows from a history alone (rate, stop), the trunks, and networks that start from another."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.progress import Progress
from small_runs import FUNDUS, new_run, write_phantoms

from fovea import quiet
from fovea.errors import TrainingError, UsageError
from fovea.spec import Image, Network, Task
from fovea.tasks import TASKS
from training import recipes
from training.recipes import RECIPES, Recipe, Stage
from training.run import Run

with quiet.native_stderr():
    import keras
    import tensorflow as tf

    from training import batches, classifier, trunks

pytestmark = pytest.mark.filterwarnings("ignore:Even though the `tf.config")

NAME = "fundus_classifier"
NETWORK = FUNDUS.networks[0]


def rows(*losses: float, stage: int = 0) -> classifier.History:
    return [{"stage": stage, "validation_loss": loss} for loss in losses]


def test_a_cosine_begins_at_the_stages_rate_and_ends_near_zero() -> None:
    recipe, stage = Recipe("cnn", Stage(10, 0.1)), Stage(10, 0.1)
    rates = [classifier.rate(recipe, stage, rows(*[1.0] * done)) for done in range(10)]
    assert rates[0] == pytest.approx(0.1)
    assert rates == sorted(rates, reverse=True)
    assert rates[5] == pytest.approx(0.05)
    assert 0 < rates[-1] < 0.005


def test_a_plateau_divides_the_rate_by_five_each_time_it_has_waited() -> None:
    recipe, stage = Recipe("cnn", Stage(99, 1.0), decay="plateau", plateau=2), Stage(99, 1.0)
    assert classifier.rate(recipe, stage, rows(3, 2, 1)) == 1
    assert classifier.rate(recipe, stage, rows(3, 2, 2)) == 1
    assert classifier.rate(recipe, stage, rows(3, 2, 2, 2)) == pytest.approx(0.2)
    assert classifier.rate(recipe, stage, rows(3, 2, 2, 2, 2, 2)) == pytest.approx(0.04)
    assert classifier.rate(recipe, stage, rows(3, 2, 2, 2, 1, 1)) == pytest.approx(0.2)


def test_a_stage_ends_after_its_epochs_or_its_patience_and_counts_only_its_own() -> None:
    stages = Stage(3, 1, patience=2), Stage(5, 1, patience=2), Stage(9, 1)
    assert not classifier.finished(stages, 0, rows(3, 2))
    assert classifier.finished(stages, 0, rows(3, 2, 1))
    assert classifier.finished(stages, 0, rows(1, 2, 3))
    history = rows(0.1, 0.2, 0.3) + rows(3, 2, stage=1)
    assert not classifier.finished(stages, 1, history)
    assert classifier.finished(stages, 1, history + rows(2, 2, stage=1))
    assert not classifier.finished(stages, 2, rows(1, 2, 3, 4, stage=2))


def test_the_stages_follow_from_where_a_network_starts() -> None:
    recipe = RECIPES["oct_classifier"]
    assert recipe.stages_from("imagenet") == recipe.stages_from(Path("vgg16.weights.h5")) == recipe.stages
    assert recipe.stages_from("none") == (recipe.from_nothing,)
    (own,) = recipe.stages_from(Path("oct_classifier.keras"))
    assert own.rate < recipe.from_nothing.rate


def test_a_network_without_a_recipe_names_the_file_that_should_have_one() -> None:
    with pytest.raises(Exception, match=r"training/recipes\.py has no recipe for cataract_classifier"):
        recipes.recipe_for(replace(NETWORK, name="cataract_classifier"))


def small(name: str, side: int = 64) -> tuple[Task, Network]:
    """A task's classifier on pictures of that side, without a declared heat map."""
    task = TASKS[name]
    network = replace(task.networks[0], answers=task.networks[0].answers[:1])
    return replace(task, image=Image(side), networks=(network,)), network


@pytest.mark.parametrize("name", ["oct", "glomeruli"])
def test_a_published_trunk_sees_pictures_as_it_was_trained_to_see_them(name: str, tmp_path: Path) -> None:
    """Keras' own `preprocess_input` turns the channels round and takes the means off; here both are in the network."""
    _, network = small(name)
    make, module = {
        "oct": (keras.applications.VGG16, keras.applications.vgg16),
        "glomeruli": (keras.applications.ResNet50, keras.applications.resnet50),
    }[name]
    keras.utils.set_random_seed(3)
    published = make(weights=None, include_top=False, input_shape=(64, 64, 3))
    published.save_weights(tmp_path / "base.weights.h5")
    last = "block5_conv3" if name == "oct" else "conv5_block3_out"
    reference = keras.Model(published.input, published.get_layer(last).output)
    pictures = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), np.uint8)
    expected = np.asarray(reference(module.preprocess_input(pictures.astype(np.float32))))
    image = keras.Input((64, 64, 3), dtype="uint8")
    recipe = RECIPES[network.name]
    found = keras.Model(image, trunks.features(recipe.trunk, image, tmp_path / "base.weights.h5"))(pictures)
    assert np.abs(np.asarray(found) - expected).max() <= 1e-4 * np.abs(expected).max()


def test_a_stage_lets_only_the_last_layers_of_a_published_trunk_learn(tmp_path: Path) -> None:
    task, network = small("glomeruli")
    base = tmp_path / "base.weights.h5"
    keras.applications.ResNet50(weights=None, include_top=False, input_shape=(64, 64, 3)).save_weights(base)
    recipe = RECIPES[network.name]
    model = classifier.build(task, network, base, recipe)
    classifier._compile(model, recipe, Stage(1, 1e-4, trains=30))
    trunk = model.get_layer("trunk")
    learning = [layer for layer in trunk.layers if layer.trainable]
    assert set(learning) <= set(trunk.layers[-30:])
    assert len(learning) < 30  # its batch norms keep their statistics
    assert not any(isinstance(layer, keras.layers.BatchNormalization) for layer in learning)
    classifier._compile(model, recipe, Stage(1, 1e-4, trains=0))
    assert not any(layer.trainable for layer in trunk.layers)
    classifier._compile(model, recipe, Stage(1, 1e-4, trains=30))  # the stage after a frozen one thaws what it needs
    assert [layer for layer in trunk.layers if layer.trainable] == learning
    classifier._compile(model, recipe, Stage(1, 1e-4))
    norms = [layer for layer in trunk.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert sum(layer.trainable for layer in trunk.layers) == len(trunk.layers) - len(norms)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantoms(tmp_path_factory.mktemp("data") / "phantoms")


@pytest.fixture
def run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """A run whose network is the small CNN, in two stages, each with its augmentation inside."""
    stages = (Stage(2, 1e-3, trains=0), Stage(2, 1e-3))
    recipe = Recipe("mobilenet_v2", Stage(2, 1e-3), stages, loss="sparse", hidden=(8,), l2=1e-3, augments_inside=True)
    monkeypatch.setitem(RECIPES, NAME, recipe)
    tf.config.run_functions_eagerly(True)
    yield new_run(folder, tmp_path)
    tf.config.run_functions_eagerly(False)


def train(run: Run, start: str | Path, epochs: int | None = None) -> None:
    classifier.train(FUNDUS, NETWORK, run, start, epochs, Progress(disable=True))


def history(run: Run) -> classifier.History:
    known: classifier.History = json.loads((run.folder / f"{NAME}.history.json").read_text())
    return known


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "base.weights.h5"
    shape = FUNDUS.input_shape(NETWORK)
    keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=shape).save_weights(path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("cut", [2, 3, 4])
def test_two_stages_are_resumed_in_the_stage_and_epoch_where_they_were_cut(
    cut: int, run: Run, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = classifier._Keeper.on_train_batch_end

    def interrupted(self: classifier._Keeper, batch: int, logs: dict[str, float] | None = None) -> None:
        honest(self, batch, logs)
        if len(self.history) == cut - 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(classifier._Keeper, "on_train_batch_end", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(run, base)
    before = history(run)
    assert [(row["stage"], row["epoch"]) for row in before] == [(0, 1), (0, 2), (1, 3), (1, 4)][: cut - 1]
    monkeypatch.setattr(classifier._Keeper, "on_train_batch_end", honest)
    train(run, base)
    assert [(row["stage"], row["epoch"]) for row in history(run)] == [(0, 1), (0, 2), (1, 3), (1, 4)]
    assert history(run)[: cut - 1] == before


@pytest.mark.slow
def test_the_temperature_is_in_the_saved_network_and_augmentation_sleeps_in_it(run: Run) -> None:
    train(run, "none", epochs=1)
    made = json.loads((run.weights / f"{NAME}.json").read_text())
    best = classifier.load(run.folder / f"{NAME}.best.keras")
    final = classifier.load(run.weights / f"{NAME}.keras")
    for before, after in zip(
        best.get_layer("probabilities").get_weights(), final.get_layer("probabilities").get_weights(), strict=True
    ):
        assert np.allclose(before / made["temperature"], after, rtol=1e-6)
    pictures = np.random.default_rng(1).integers(0, 256, (2, *FUNDUS.input_shape(NETWORK)), np.uint8)
    awake = final.get_layer("augmentation")(pictures.astype(np.float32), training=True)
    assert not np.array_equal(np.asarray(awake), pictures)
    assert np.array_equal(np.asarray(final.get_layer("augmentation")(pictures, training=False)), pictures)
    assert made["labels"] == list(FUNDUS.labels)
    assert made["seconds"] >= 0
    assert [point["name"] for point in made["operating_points"]] == ["screening", "balanced", "confirmation"]


@pytest.mark.slow
def test_a_network_goes_on_from_another_of_its_task_and_not_from_another_tasks(run: Run, tmp_path: Path) -> None:
    train(run, "none", epochs=1)
    first = run.weights / f"{NAME}.keras"
    again = replace(run, folder=tmp_path / "again", weights=tmp_path / "again" / "weights")
    train(again, first, epochs=1)
    assert json.loads((again.weights / f"{NAME}.json").read_text())["start"] == f"{NAME}.keras"
    (glaucoma, network) = small("glaucoma")
    with pytest.raises(TrainingError, match="it is a network of another task"):
        classifier.train(glaucoma, network, replace(again, folder=tmp_path / "x"), first, 1, Progress(disable=True))
    with pytest.raises(TrainingError, match=r"absent\.keras does not exist"):
        train(replace(again, folder=tmp_path / "y"), tmp_path / "absent.keras", epochs=1)


def test_a_published_trunks_weights_for_a_network_without_one_are_refused_not_ignored(tmp_path: Path) -> None:
    glaucoma, network = small("glaucoma")
    run = Run(tmp_path, tmp_path / "weights", 7, (), "0" * 64)
    for start in (tmp_path / "base.weights.h5", Path("imagnet")):
        with pytest.raises(UsageError, match="glaucoma_classifier has no published trunk"):
            classifier.train(glaucoma, network, run, start, 1, Progress(disable=True))


@pytest.mark.parametrize("epoch", [0, 1, 3])
def test_an_epoch_sees_the_same_pictures_whether_training_was_cut_before_it_or_not(epoch: int) -> None:
    """Order and augmentation follow from seed and epoch alone."""
    generator = np.random.default_rng(1)
    inputs = generator.integers(0, 256, (10, 16, 16, 3), np.uint8)
    data = batches.Labelled(
        inputs, tuple(range(10)), np.zeros((10, 1), np.float32), np.ones(10, np.float32), ("",) * 10
    )
    recipe = replace(RECIPES[NAME], batch=4)
    whole = [np.asarray(x) for x, _, _ in batches.augmented(data, recipe, 7, range(4))]
    resumed = [np.asarray(x) for x, _, _ in batches.augmented(data, recipe, 7, range(epoch, 4))]
    assert len(whole) == 12
    assert all(np.array_equal(x, y) for x, y in zip(whole[3 * epoch :], resumed, strict=True))
    assert not np.array_equal(whole[0], whole[3])


def test_one_sigmoid_becomes_the_probabilities_of_both_labels() -> None:
    both = classifier.probabilities(np.array([[0.25], [1.0]], np.float32))
    assert np.array_equal(both, [[0.75, 0.25], [0.0, 1.0]])
    assert np.array_equal(classifier.probabilities(np.array([[0.2, 0.8]])), [[0.2, 0.8]])
