"""What `--prepare` does to pictures, that nothing it learns has seen a judged one."""

import argparse
import json
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from rich.progress import Progress
from small_runs import FUNDUS, RETINA, names, new_run, write_phantoms

from fovea import pixels, quiet
from fovea.errors import ExportError, TrainingError, UsageError
from fovea.tasks import FUNDUS_LABELS, TASKS
from training import preparation
from training.inputs import pictures
from training.preparation import PREPARATIONS, Preparation
from training.recipes import RECIPES, Recipe, Stage, recipe_for
from training.run import Run
from training.splits import Split

with quiet.native_stderr():
    import keras
    import tensorflow as tf

    from export import convert, gradcam
    from training import __main__ as program
    from training import ablation, batches, classifier, dcgan, metrics, superresolution, trunks
    from training.batches import Labelled

NETWORK = FUNDUS.networks[0]
NAME = NETWORK.name
RARE = "Glaucoma"
BAR = Progress(disable=True)
SHARPEN = superresolution.Settings(steps=2, crop=32, batch=8)
GENERATE = dcgan.Settings(steps=3, batch=4, latent=8, width=4)
Stack = npt.NDArray[np.uint8]
pytestmark = pytest.mark.filterwarnings("ignore:Even though the `tf.config")

# Small pictures gain nothing from threads, which wait for each other where cores are shared.
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight phantoms of every class, of the rare one three."""
    root = tmp_path_factory.mktemp("data") / "phantoms"
    write_phantoms(root, 24, [label for label in FUNDUS_LABELS if label != RARE])
    return write_phantoms(root, 3, [RARE], first=24)


def _tiny(image: keras.KerasTensor) -> keras.KerasTensor:
    """A feature map at a sixteenth of the side."""
    x = keras.layers.Conv2D(8, 4, strides=4, activation="relu")(keras.layers.Rescaling(1 / 255)(image))
    return keras.layers.Conv2D(8, 4, strides=4, activation="relu")(x)


@pytest.fixture(scope="module", autouse=True)
def quickly() -> Iterator[None]:
    """Small networks, few steps, no plots; epochs of one step are not worth tracing a graph for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, NAME, Recipe("cnn", Stage(1, 1e-3)))
        patch.setattr(trunks, "_cnn", _tiny)
        patch.setattr(superresolution, "SETTINGS", SHARPEN)
        patch.setattr(dcgan, "SETTINGS", GENERATE)
        patch.setattr(Run, "plot_history", lambda *_: None)
        patch.setattr(keras.callbacks, "TensorBoard", lambda _: keras.callbacks.Callback())
        tf.config.run_functions_eagerly(True)
        yield
        tf.config.run_functions_eagerly(False)


@pytest.fixture
def run(data: Path, tmp_path: Path) -> Run:
    return new_run(data, tmp_path / "out")


@pytest.fixture(scope="module")
def sharpened(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run with the autoencoder."""
    made = new_run(data, tmp_path_factory.mktemp("sharpened"))
    train(made, "superresolution")
    return made


def train(run: Run, how: Preparation, start: str | Path = "none", epochs: int = 1) -> dict[str, Any]:
    """Train, and give back the record."""
    classifier.train(FUNDUS, NETWORK, run, start, epochs, BAR, how)
    record: dict[str, Any] = json.loads((run.weights / f"{NAME}.json").read_text())
    return record


def until_the_first_epoch(run: Run, how: Preparation, patch: pytest.MonkeyPatch) -> keras.Model:
    """The classifier that would now learn: all that a preparation does is done."""
    ready: list[keras.Model] = []

    def stop(model: keras.Model, *_: object) -> None:
        ready.append(model)
        raise KeyboardInterrupt

    with patch.context() as stopped:
        stopped.setattr(classifier, "_fit", stop)
        with pytest.raises(KeyboardInterrupt):
            train(run, how)
    return ready[0]


def seen(run: Run, split: Split) -> Stack:
    return pictures(FUNDUS, [entry for entry in run.entries if entry.split == split])


def options(*arguments: object) -> argparse.Namespace:
    return program.arguments().parse_args(["fundus", *map(str, arguments)])


def exported(run: Run) -> argparse.Namespace:
    return argparse.Namespace(weights=run.weights, pictures=[], reports=run.folder, precision="fp32")


def test_an_unknown_preparation_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match="no preparation 'sharpen': choose one of none, clahe, histogram, super"):
        preparation.prepared(FUNDUS, "sharpen")


def test_a_task_whose_classifier_reads_a_mask_is_refused_with_the_cure() -> None:
    for how in PREPARATIONS[1:]:
        with pytest.raises(UsageError, match="retina_classifier reads a mask: choose another task, or leave"):
            preparation.prepared(RETINA, how)
    assert preparation.prepared(RETINA, "none") is RETINA


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--prepare", "clahe", "--seeds", "7", "8"), "--ablate compares all preparations over --seeds"),
        (("--prepare", "dcgan", "--evaluate", "."), "--evaluate knows what a network was trained on"),
        (("--ablate", "--split-by", "image"), "splits by patient: leave out"),
    ],
)
def test_options_that_make_no_sense_together_are_refused(arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        program.train_or_judge(options(*arguments))


@pytest.mark.parametrize("how", ["clahe", "histogram"])
def test_equalised_pictures_are_what_the_network_sees(how: Preparation, run: Run) -> None:
    task = preparation.prepared(FUNDUS, how)
    plain, changed = pictures(FUNDUS, run.entries[:2]), pictures(task, run.entries[:2])
    assert not np.array_equal(plain, changed)
    assert all(np.array_equal(pixels.equalise(p, task.image), c) for p, c in zip(plain, changed, strict=True))


def test_equalisation_is_recorded_obeyed_by_evaluation_and_refused_by_export_unless_declared(run: Run) -> None:
    declared = preparation.prepared(FUNDUS, "clahe")
    assert preparation.as_trained(FUNDUS, run.weights) == FUNDUS  # nothing was trained yet
    record = train(run, "clahe")
    assert (record["preparation"], record["image"]["equalisation"]) == ("clahe", "clahe")
    assert preparation.as_trained(FUNDUS, run.weights) == declared
    with pytest.raises(ExportError, match=r"declare it in tasks\.py as it was trained") as caught:
        convert.convert(FUNDUS, exported(run))
    assert "'equalisation': 'clahe'" in str(caught.value)
    assert "\n" not in str(caught.value)
    convert._check_record(declared, FUNDUS.networks[0], run.weights / f"{NAME}.keras")


def test_the_untaught_autoencoder_changes_nothing_and_fits_before_every_picture_classifier() -> None:
    model = superresolution.build(superresolution.Settings())
    assert model.count_params() <= 60_000
    noise = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), np.uint8)
    assert np.array_equal(model(noise), noise)
    for task in TASKS.values():
        for network in task.networks:
            if network.reads == "image" and network.framework == "keras":
                shape = task.input_shape(network)
                assert model(keras.Input(shape, dtype="uint8")).shape == (None, *shape)


@pytest.mark.slow
def test_the_autoencoder_learns_to_restore_and_stays_in_range(run: Run) -> None:
    model, facts = superresolution.restorer(seen(run, "train")[:8], run, BAR, replace(SHARPEN, steps=100, crop=64))
    lost = facts["grey_levels_lost"]
    assert lost["restored"] < 0.9 * lost["enlarged"]
    extreme = np.random.default_rng(1).choice(np.array([0, 255], np.uint8), (1, 16, 16, 3))
    answer = np.asarray(model(extreme))
    assert answer.min() >= 0
    assert answer.max() <= 255


def test_pictures_of_an_odd_side_cannot_be_halved(run: Run) -> None:
    with pytest.raises(TrainingError, match="declare an even side"):
        superresolution.restorer(np.zeros((2, 63, 63, 3), np.uint8), run, BAR, SHARPEN)


def test_what_is_saved_is_the_taught_autoencoder_frozen_before_the_classifier(sharpened: Run) -> None:
    (stored,) = sharpened.folder.glob("superresolution-*.keras")
    alone, whole = keras.models.load_model(stored), keras.models.load_model(sharpened.weights / f"{NAME}.keras")
    first = whole.get_layer("superresolution")
    assert whole.layers[1] is first
    assert not first.trainable_variables
    for taught, kept in zip(alone.get_weights(), first.get_weights(), strict=True):
        assert np.array_equal(taught, kept)
    record = json.loads((sharpened.weights / f"{NAME}.json").read_text())
    assert record["preparation"] == "superresolution"
    assert record["superresolution"]["pictures"] == len(seen(sharpened, "train"))
    assert record["parameters"] == whole.count_params() > alone.count_params()
    assert isinstance(gradcam.head_of(whole)[0], keras.layers.GlobalAveragePooling2D)


def test_a_classifier_begins_with_the_weights_of_the_baseline(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    choices: tuple[Preparation, ...] = ("none", "superresolution")
    began = []
    for how in choices:
        one = replace(run, folder=run.folder / how)
        model = until_the_first_epoch(one, how, monkeypatch)
        own = [layer for layer in model.layers if layer.name != "superresolution"]
        began.append([values for layer in own for values in layer.get_weights()])
        # Checkpoints from before there was a choice stay good: a plain run's settings do not name it.
        settings = json.loads((one.folder / f"{NAME}.settings.json").read_text())
        assert ("preparation" in settings) == (how != "none")
    plain, sharpened = began
    assert all(np.array_equal(one, other) for one, other in zip(plain, sharpened, strict=True))


def test_a_sharpening_classifier_is_exported_within_1e_5_of_itself(sharpened: Run) -> None:
    tf.config.run_functions_eagerly(False)  # the exporter traces
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            files = convert.convert(FUNDUS, exported(sharpened)).files  # raises where parity is broken
    finally:
        tf.config.run_functions_eagerly(True)
    card = json.loads(files[f"{NAME}/card.json"])
    assert card["training"]["preparation"] == "superresolution"
    assert {line["output"] for line in card["parity"]} == {"probabilities", "heatmap"}
    assert all(line["largest"] <= 1e-5 for line in card["parity"] if line["output"] == "probabilities")


def test_no_network_is_put_before_one_that_is_whole(sharpened: Run, run: Run) -> None:
    with pytest.raises(TrainingError, match="leave --prepare superresolution out, or start from a trunk"):
        train(run, "superresolution", sharpened.weights / f"{NAME}.keras")


def test_a_rare_class_comes_up_to_half_of_the_largest_and_no_further() -> None:
    assert dcgan.wanted([0] * 10 + [1] * 4 + [2] * 5 + [3]) == {1: 1, 3: 4}
    assert dcgan.wanted([0] * 7 + [1] * 3) == {1: 1}
    assert dcgan.wanted([0, 1, 2]) == {}


def oversampled(run: Run) -> tuple[Labelled, dict[str, int]]:
    recipe = recipe_for(NETWORK)
    own = batches.labelled(FUNDUS, NETWORK, run, "train", recipe, BAR)
    return dcgan.oversampled(FUNDUS_LABELS, own, recipe, run, BAR, GENERATE)


def test_generated_pictures_join_the_training_split_as_a_data_set_of_their_own(run: Run) -> None:
    both, added = oversampled(run)
    own = seen(run, "train")
    before = Counter(str(entry.sample.label) for entry in run.entries if entry.split == "train")
    half = -(-max(before.values()) // 2)
    assert before[RARE] < half
    assert added == {RARE: half - before[RARE]}
    assert Counter(FUNDUS_LABELS[place] for place in both.labels) == before | Counter({RARE: half})
    assert np.array_equal(both.inputs[: len(own)], own)
    assert len(both.targets) == len(both.weights) == len(both.groups) == len(both.inputs) == len(own) + added[RARE]
    sums: dict[str, float] = {}
    for group, weight in zip(both.groups, both.weights, strict=True):
        sums[group] = sums.get(group, 0) + float(weight)
    assert sums.keys() == {f"phantoms/{label}" for label in FUNDUS_LABELS} | {f"dcgan/{RARE}"}
    assert np.allclose(list(sums.values()), sums[f"dcgan/{RARE}"], atol=1e-4, rtol=0)
    assert (run.folder / f"dcgan-{RARE}.png").stat().st_size > 1000


def test_what_was_generated_is_kept_and_where_no_class_is_rare_nothing_is(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = oversampled(run)
    (run.folder / f"dcgan-{RARE}.png").unlink()

    def unwanted(*_: object) -> None:
        raise AssertionError("generated a second time")

    monkeypatch.setattr(dcgan, "generate", unwanted)
    again, _ = oversampled(run)
    assert np.array_equal(first.inputs, again.inputs)
    even = replace(first, labels=tuple(place % 4 for place in range(len(first.labels))))
    assert dcgan.oversampled(FUNDUS_LABELS, even, recipe_for(NETWORK), run, BAR, GENERATE) == (even, {})


def test_generated_pictures_follow_from_the_seed() -> None:
    real = np.random.default_rng(1).integers(0, 256, (5, 64, 64, 3), np.uint8)
    before = torch.random.get_rng_state()
    one, again, other = (dcgan.generate(real, 3, [seed, 1], GENERATE, BAR, RARE) for seed in (1, 1, 2))
    assert one.shape == (3, 64, 64, 3)
    assert one.dtype == np.uint8
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_autoencoder_follows_from_the_seed(run: Run, tmp_path: Path) -> None:
    stack = seen(run, "train")
    taught = []
    for number, seed in enumerate((1, 1, 2)):
        where = replace(run, folder=tmp_path / str(number), seed=seed)
        taught.append(superresolution.restorer(stack, where, BAR, SHARPEN)[0].get_weights())
    one, again, other = taught
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("how", ["superresolution", "dcgan"])
def test_what_is_judged_reaches_neither_autoencoder_nor_gan(
    how: Preparation, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every picture of the test split becomes a canary: none is read, and nothing that is learnt changes."""
    canary = tmp_path / "canary.png"
    canary.write_bytes(cv2.imencode(".png", np.full((96, 96, 3), (255, 0, 255), np.uint8))[1].tobytes())
    sick = tuple(
        replace(entry, sample=replace(entry.sample, path=canary)) if entry.split == "test" else entry
        for entry in run.entries
    )
    assert any(entry.sample.path == canary and entry.sample.label == RARE for entry in sick)
    opened: list[Path] = []
    honest = Path.read_bytes

    def noted(path: Path) -> bytes:
        opened.append(path)
        return honest(path)

    monkeypatch.setattr(Path, "read_bytes", noted)
    left = []
    for folder, entries in (("plain", run.entries), ("canary", sick)):
        one = replace(run, folder=tmp_path / folder, weights=tmp_path / folder / "weights", entries=entries)
        until_the_first_epoch(one, how, monkeypatch)
        if how == "dcgan":
            (file,) = one.folder.glob("dcgan-*.npy")
            left.append([np.load(file)])
        else:
            (file,) = one.folder.glob("superresolution-*.keras")
            left.append(keras.models.load_model(file).get_weights())
    assert canary not in opened
    assert all(np.array_equal(one, other) for one, other in zip(*left, strict=True))


@pytest.mark.parametrize("how", ["superresolution", pytest.param("dcgan", marks=pytest.mark.slow)])
def test_a_run_that_was_cut_goes_on_with_what_it_had_made(
    how: Preparation, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = classifier._Keeper.on_train_batch_end

    def interrupted(self: classifier._Keeper, batch: int, logs: dict[str, float] | None = None) -> None:
        honest(self, batch, logs)
        if len(self.history) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(classifier._Keeper, "on_train_batch_end", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(run, how, epochs=2)
    monkeypatch.setattr(classifier._Keeper, "on_train_batch_end", honest)
    others: tuple[Preparation, ...] = ("none", "histogram")
    for other in others:
        with pytest.raises(TrainingError, match=r"belongs to another run .* or preparation"):
            train(run, other, epochs=2)

    def unwanted(*_: object) -> None:
        raise AssertionError("made a second time")

    monkeypatch.setattr(dcgan, "generate", unwanted)
    monkeypatch.setattr(superresolution, "_taught", unwanted)
    record = train(run, how, epochs=2)
    assert record["epochs"] == 2
    assert record.get("synthetic", {RARE: 1})[RARE] > 0
    assert record["data"]["sets"]["phantoms"]["train"] == len(seen(run, "train"))  # generated pictures are no data


@pytest.mark.slow
def test_an_ablation_of_real_trainings_leaves_every_network_and_its_figures(data: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "RESAMPLES", 60)
        places = [word for name in ("out", "reports", "results") for word in (f"--{name}", tmp_path / name)]
        asked = options("--ablate", "--epochs", 1, "--weights", "none", *places)
        asked.data = data
        ablation.ablate(FUNDUS, asked)
    weights = {f"{how}/seed-7/weights/{NAME}.keras" for how in PREPARATIONS}
    assert weights <= names(tmp_path / "out" / "ablation")
    results = json.loads((tmp_path / "results" / "fundus_ablation.json").read_text())
    rows = {each["preparation"]: each["seeds"][0] for each in results["preparations"]}
    assert rows["dcgan"]["synthetic"][RARE] > 0
    assert rows["superresolution"]["parameters"] > rows["none"]["parameters"]
    assert all(row["auc"]["value"] > 0 for row in rows.values())
    page = (tmp_path / "reports" / "fundus" / "ablation.md").read_text()
    assert "the autoencoder brings the mean error to" in page
