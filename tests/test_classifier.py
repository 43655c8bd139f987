"""The Keras recipe on a few phantoms: what it builds and leaves, how it is resumed, and what it refuses."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from rich.progress import Progress
from small_runs import FUNDUS, RETINA, names, new_run, write_phantoms

from fovea import quiet
from fovea.errors import TrainingError
from fovea.spec import Heatmap, Network, Task
from fovea.tasks import FUNDUS_LABELS, TASKS
from training import segmenter, vessels
from training.inputs import network_inputs, stored_inputs
from training.recipes import Augmentation, recipe_for
from training.run import Run
from training.splits import Entry, Split
from training.unet import UNet

with quiet.native_stderr():
    import keras
    import tensorflow as tf

    from training import augmentation, batches, classifier

NAME = "retina_classifier"
pytestmark = pytest.mark.filterwarnings("ignore:Even though the `tf.config")  # data sets are traced all the same

# Small pictures gain nothing from threads, which wait for each other where cores are shared.
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantoms(tmp_path_factory.mktemp("data") / "phantoms")


@pytest.fixture(scope="module")
def program(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained U-Net, whose masks the mask classifier reads."""
    run = new_run(folder, tmp_path_factory.mktemp("program"))
    torch.manual_seed(7)
    segmenter.save_program(UNet(), RETINA, run.weights / "retina_unet.pt2", run)
    return run.weights / "retina_unet.pt2"


@pytest.fixture
def eagerly() -> Iterator[None]:
    """Epochs of one step are not worth tracing a graph for."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def trained(folder: Path, program: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of two epochs."""
    made = replace(new_run(folder, tmp_path_factory.mktemp("trained")), weights=program.parent)
    train(made, epochs=2)
    return made


@pytest.fixture
def run(folder: Path, tmp_path: Path, eagerly: None, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run of the mask classifier that has not begun, on the vessels as they were drawn."""

    def drawn(_task: Task, _network: Network, entries: Sequence[Entry], _weights: Path) -> npt.NDArray[np.uint8]:
        return np.stack([case.vessels[..., None] for case in vessels.load(entries, RETINA.image)])

    monkeypatch.setattr(batches, "stored_inputs", lambda t, n, entries, *_: drawn(t, n, entries, Path()))
    return new_run(folder, tmp_path)


def train(run: Run, epochs: int) -> None:
    classifier.train(RETINA, RETINA.networks[1], run, "none", epochs, Progress(disable=True))


def history(run: Run) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = json.loads((run.folder / f"{NAME}.history.json").read_text())
    return rows


def train_until(epoch: int, run: Run, epochs: int) -> None:
    """Train with a Ctrl-C after the first batch of that epoch, counted from 1."""
    honest = classifier._Keeper.on_train_batch_end

    def interrupted(self: Any, batch: int, logs: dict[str, float] | None = None) -> None:
        honest(self, batch, logs)
        if len(self.history) == epoch - 1:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier._Keeper, "on_train_batch_end", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(run, epochs)


every_classifier = pytest.mark.parametrize(
    ("task", "network"),
    [
        pytest.param(task, network, id=network.name)
        for task in TASKS.values()
        for network in task.networks
        if network.framework == "keras"
    ],
)


@every_classifier
def test_a_network_is_built_with_the_declared_heat_map_and_classes(task: Task, network: Network) -> None:
    recipe = recipe_for(network)
    model = classifier.build(task, network, "none", recipe)
    assert model.input_shape == (None, *task.input_shape(network))
    assert model.output_shape == (None, 1 if recipe.loss == "binary" else len(task.labels))
    assert model.input.dtype == "uint8"
    (pool,) = [layer for layer in model.layers if isinstance(layer, keras.layers.GlobalAveragePooling2D)]
    assert task.heatmap is not None
    assert pool.input.shape[1:3] == (task.heatmap.side, task.heatmap.side)


def test_a_network_whose_map_has_another_side_than_declared_is_refused() -> None:
    (network,) = FUNDUS.networks
    answers = tuple(Heatmap(7) if isinstance(answer, Heatmap) else answer for answer in network.answers)
    wrong = replace(FUNDUS, networks=(replace(network, answers=answers),))
    with pytest.raises(TrainingError, match="its heat map is declared 7"):
        classifier.build(wrong, wrong.networks[0], "none", recipe_for(network))


def test_augmentation_keeps_shape_and_range_and_is_drawn_from_the_seed() -> None:
    pictures = np.random.default_rng(4).integers(0, 256, (4, 64, 64, 3)).astype(np.float32)
    one, again, other = (
        np.asarray(augmentation.layers(Augmentation(shift=0.1), seed)(pictures, training=True)) for seed in (1, 1, 2)
    )
    assert one.shape == pictures.shape
    assert one.min() >= 0
    assert one.max() <= 255
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_it_leaves_weights_summary_history_and_plot_and_no_checkpoint(trained: Run) -> None:
    left = {name for name in names(trained.folder) if not name.startswith("tensorboard/")}
    assert left == {f"{NAME}.{end}" for end in ("best.keras", "history.json", "history.png", "settings.json")}
    assert any("tfevents" in name for name in names(trained.folder))
    assert names(trained.weights) == {f"{NAME}.keras", f"{NAME}.json", "retina_unet.pt2"}
    summary = json.loads((trained.weights / f"{NAME}.json").read_text())
    assert (summary["network"], summary["seed"], summary["epochs"]) == (NAME, 7, 2)
    assert summary["data"]["sets"]["phantoms"]["train"] > 0
    assert [row["epoch"] for row in history(trained)] == [1, 2]
    assert all(np.isfinite(row["loss"]) and 0 <= row["validation_accuracy"] <= 1 for row in history(trained))


def test_the_finished_network_answers_probabilities_of_the_declared_classes(trained: Run) -> None:
    model = keras.models.load_model(trained.weights / f"{NAME}.keras")
    masks = np.random.default_rng(3).integers(0, 256, (3, *RETINA.input_shape(RETINA.networks[1])), np.uint8)
    answers = np.asarray(model(masks, training=False))
    assert answers.shape == (3, len(FUNDUS_LABELS))
    assert np.allclose(answers.sum(axis=1), 1, atol=1e-5)


def test_the_epoch_with_the_lowest_validation_loss_is_kept_over_an_interruption(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epoch 1 was the best; what comes after the interruption is worse and must not replace it."""
    losses = iter((1.0, 2.0, 1.5))
    honest = classifier._Keeper.on_epoch_end

    def told(self: Any, epoch: int, logs: dict[str, float]) -> None:
        honest(self, epoch, logs | {"val_loss": next(losses)})

    monkeypatch.setattr(classifier._Keeper, "on_epoch_end", told)
    train_until(3, run, epochs=3)
    best = (run.folder / f"{NAME}.best.keras").read_bytes()
    train(run, epochs=3)
    assert [row["validation_loss"] for row in history(run)] == [1.0, 2.0, 1.5]
    assert (run.folder / f"{NAME}.best.keras").read_bytes() == best


def test_after_ctrl_c_it_goes_on_with_the_epoch_that_was_cut(run: Run) -> None:
    train_until(3, run, epochs=3)
    assert [row["epoch"] for row in history(run)] == [1, 2]
    before = history(run)
    assert not (run.weights / f"{NAME}.keras").exists()
    checkpoint = keras.models.load_model(run.folder / f"{NAME}.checkpoint.keras")
    iterations = int(checkpoint.optimizer.iterations)
    train(run, epochs=3)
    assert [row["epoch"] for row in history(run)] == [1, 2, 3]
    assert history(run)[:2] == before
    assert iterations == 2 * -(-sum(e.split == "train" for e in run.entries) // 16)
    assert (run.weights / f"{NAME}.keras").exists()


def test_a_run_cut_in_its_first_epoch_begins_again(run: Run) -> None:
    train_until(1, run, epochs=1)
    train(run, epochs=1)
    assert [row["epoch"] for row in history(run)] == [1]


def test_a_checkpoint_of_other_settings_is_refused_and_left_as_it_is(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    train_until(2, run, epochs=2)
    checkpoint = run.folder / f"{NAME}.checkpoint.keras"
    before = checkpoint.read_bytes()
    for other, epochs in ((run, 3), (replace(run, seed=8), 2), (replace(run, manifest_sha256="1" * 64), 2)):
        with pytest.raises(TrainingError, match=r"checkpoint\.keras belongs to another run"):
            train(other, epochs)
    assert checkpoint.read_bytes() == before


@pytest.mark.parametrize("harm", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"text"])
def test_a_damaged_checkpoint_is_refused_in_one_sentence_and_left(
    harm: Callable[[bytes], bytes], trained: Run, run: Run
) -> None:
    (run.folder / f"{NAME}.settings.json").write_bytes((trained.folder / f"{NAME}.settings.json").read_bytes())
    checkpoint = run.folder / f"{NAME}.checkpoint.keras"
    checkpoint.write_bytes(harm((trained.folder / f"{NAME}.best.keras").read_bytes()))
    before = checkpoint.read_bytes()
    with pytest.raises(TrainingError, match=r"checkpoint\.keras is no checkpoint") as caught:
        train(run, epochs=2)
    assert "\n" not in str(caught.value)
    assert checkpoint.read_bytes() == before


def test_a_class_without_a_photograph_is_named(run: Run) -> None:
    bare = tuple(entry for entry in run.entries if entry.sample.label != "Glaucoma")
    with pytest.raises(TrainingError, match="No picture to train on for Glaucoma"):
        train(replace(run, entries=bare), epochs=1)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_split_without_a_labelled_photograph_is_refused(split: Split, run: Run) -> None:
    with pytest.raises(TrainingError, match="picture"):
        train(replace(run, entries=tuple(entry for entry in run.entries if entry.split != split)), epochs=1)


def test_photographs_of_another_tasks_classes_are_left_out(run: Run) -> None:
    strange = tuple(
        replace(entry, sample=replace(entry.sample, label="Cataract")) if number == 0 else entry
        for number, entry in enumerate(sorted(run.entries, key=lambda entry: entry.split != "train"))
    )
    assert strange[0].split == "train"
    train(replace(run, entries=strange), epochs=1)
    assert (run.weights / f"{NAME}.keras").exists()


def test_the_mask_classifier_asks_for_its_u_net_first(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"retina_unet\.pt2 does not exist: train that network first"):
        train(new_run(folder, tmp_path), epochs=1)


def test_a_damaged_u_net_is_named(folder: Path, program: Path, tmp_path: Path) -> None:
    run = new_run(folder, tmp_path)
    run.weights.mkdir()
    (run.weights / "retina_unet.pt2").write_bytes(program.read_bytes()[:5000])
    with pytest.raises(TrainingError, match=r"retina_unet\.pt2 is no torch\.export program") as caught:
        train(run, epochs=1)
    assert "\n" not in str(caught.value)


def test_a_base_that_is_no_weights_file_is_one_sentence_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "text.weights.h5").write_text("no weights")
    for base in (tmp_path / "text.weights.h5", tmp_path / "absent.weights.h5", tmp_path / "no_suffix", tmp_path):
        with pytest.raises(TrainingError, match=r"--weights FILE, or .*--weights none") as caught:
            classifier.build(FUNDUS, FUNDUS.networks[0], base, recipe_for(FUNDUS.networks[0]))
        assert base.name in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_picture_classifier_trains_from_nothing(folder: Path, tmp_path: Path) -> None:
    run = new_run(folder, tmp_path)
    classifier.train(FUNDUS, FUNDUS.networks[0], run, "none", 1, Progress(disable=True))
    assert names(run.weights) == {"fundus_classifier.keras", "fundus_classifier.json"}
    assert json.loads((run.weights / "fundus_classifier.json").read_text())["start"] == "none"


@pytest.mark.slow
def test_a_pretrained_base_keeps_its_statistics_while_the_rest_learns(folder: Path, tmp_path: Path) -> None:
    """Its batch norms' statistics are folded into its weights: training must not move them."""
    shape = FUNDUS.input_shape(FUNDUS.networks[0])
    whole = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=shape)
    base = tmp_path / "base.weights.h5"
    whole.save_weights(base)
    run = new_run(folder, tmp_path / "out")
    classifier.train(FUNDUS, FUNDUS.networks[0], run, base, 1, Progress(disable=True))
    after = keras.models.load_model(run.weights / "fundus_classifier.keras").get_layer("trunk")
    for layer in after.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            before = whole.get_layer(layer.name)
            assert np.array_equal(layer.moving_mean, before.moving_mean), layer.name
            assert np.array_equal(layer.moving_variance, before.moving_variance), layer.name
    first = after.get_layer("Conv1").get_weights()[0]
    assert not np.array_equal(first, whole.get_layer("Conv1").get_weights()[0])


def test_a_damaged_picture_is_named_nothing_is_half_written_and_training_goes_on_when_it_is_repaired(
    tmp_path: Path,
) -> None:
    home = write_phantoms(tmp_path / "phantoms")
    run = new_run(home, tmp_path / "out")
    victim = next(entry for entry in run.entries if entry.split == "train").sample.path
    whole = victim.read_bytes()
    victim.write_bytes(whole[:200])
    with pytest.raises(TrainingError, match=f"{victim.name}: The PNG picture is damaged") as caught:
        classifier.train(FUNDUS, FUNDUS.networks[0], run, "none", 1, Progress(disable=True))
    assert "\n" not in str(caught.value)
    assert names(run.folder) == {"fundus_classifier.settings.json"}
    victim.write_bytes(whole)
    inputs = stored_inputs(FUNDUS, FUNDUS.networks[0], run.entries, run, Progress(disable=True))
    assert inputs.shape == (24, *FUNDUS.input_shape(FUNDUS.networks[0]))


def test_stored_inputs_are_made_once_and_again_when_pictures_or_preparation_change(
    folder: Path, tmp_path: Path
) -> None:
    run, network = new_run(folder, tmp_path), FUNDUS.networks[0]

    def made(task: Task, entries: Sequence[Entry]) -> npt.NDArray[np.uint8]:
        return stored_inputs(task, network, entries, run, Progress(disable=True))

    first = made(FUNDUS, run.entries)
    assert isinstance(first, np.memmap)
    assert np.array_equal(first, network_inputs(FUNDUS, network, run.entries, tmp_path))
    (path,) = (run.folder / "inputs").iterdir()
    written = path.stat().st_mtime_ns
    made(FUNDUS, run.entries)
    assert path.stat().st_mtime_ns == written
    made(FUNDUS, run.entries[:5])
    made(replace(FUNDUS, image=replace(FUNDUS.image, equalisation="clahe")), run.entries)
    assert len(list((run.folder / "inputs").iterdir())) == 3
