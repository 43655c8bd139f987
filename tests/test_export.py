"""From trained networks to the repository: parity that is measured, heat maps that are exact, all files or none."""

import argparse
import json
import logging
import resource
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from conftest import REPOSITORY, ROOT
from fovea import quiet, repository
from fovea.errors import ExportError, ParityError, TrainingError, UsageError
from fovea.spec import Network, Task, Tolerance
from fovea.tasks import TASKS
from small_runs import FUNDUS, RETINA, SIDE, names, new_run, write_phantoms

with quiet.native_stderr():
    import keras

    from export import __main__ as program
    from export import from_keras, from_torch, gradcam, graph, parity, pictures
    from export.place import place
    from training import classifier, segmenter

from training.run import Run
from training.unet import UNet

Stack = npt.NDArray[np.uint8]
UNET, MASK_CLASSIFIER = RETINA.networks
(PICTURE_CLASSIFIER,) = FUNDUS.networks
PAIRS = [(RETINA, UNET), (RETINA, MASK_CLASSIFIER), (FUNDUS, PICTURE_CLASSIFIER)]
every_network = pytest.mark.parametrize(("task", "network"), [pytest.param(*pair, id=pair[1].name) for pair in PAIRS])
CLASSIFIERS = pytest.mark.parametrize(
    ("task", "network"), [pytest.param(*pair, id=pair[1].name) for pair in PAIRS if not pair[1].masks]
)
PATHS = (b"/work", b"/home", b"/root", b"/tmp", b"site-packages")

# Small pictures gain nothing from threads, which wait for each other where cores are shared.
torch.set_num_threads(1)


def save_random(task: Task, network: Network, weights: Path, seed: int = 7) -> None:
    """An untrained network as training would leave it, its running statistics not those of a fresh one."""
    run = Run(weights, weights, seed, (), "0" * 64)
    if network.framework == "torch":
        torch.manual_seed(seed)
        model = UNet()
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                assert layer.running_mean is not None
                assert layer.running_var is not None
                layer.running_mean.normal_(0, 0.1)
                layer.running_var.uniform_(0.5, 2)
        segmenter.save_program(model, task, weights / f"{network.name}.pt2", run)
    else:
        keras.utils.set_random_seed(seed)
        kind = "image" if network.reads == "image" else "mask"
        classifier.build(task, network, "none", classifier.SCHEDULES[kind]).save(weights / f"{network.name}.keras")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    for task, network in PAIRS:
        save_random(task, network, folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def exporters_warnings() -> Iterator[None]:
    """What `main` sets for its process is put back."""
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def graphs(weights: Path) -> dict[str, tuple[onnx.ModelProto, Callable[[Stack], Mapping[str, npt.NDArray[np.float32]]]]]:
    """Network → finished graph, and the framework's own answer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {network.name: program._graph(task, network, weights) for task, network in PAIRS}


@pytest.fixture(scope="module")
def stacks() -> dict[str, dict[str, Stack]]:
    """What each network may be asked about: phantoms where it reads pictures, noise and blanks everywhere."""
    generator = np.random.default_rng(11)

    def hostile(channels: int) -> dict[str, Stack]:
        shape = (SIDE, SIDE, channels)
        blanks = np.stack([np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8), np.full(shape, 128, np.uint8)])
        return {"noise": generator.integers(0, 256, (9, *shape), np.uint8), "blanks": blanks}

    return {"image": hostile(3) | pictures.stacks(RETINA, []), "vessels": hostile(1)}


@pytest.fixture
def placed(tmp_path: Path) -> Path:
    """A repository with something in it."""
    folder = tmp_path / "repository"
    for name, text in repository.files(RETINA).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    repository.graph_path(folder, UNET).parent.mkdir(parents=True)
    repository.graph_path(folder, UNET).write_bytes(b"an older network")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names(folder)}


def export(monkeypatch: pytest.MonkeyPatch, task: Task, *options: object) -> int:
    """`python -m export`, in this process, for a task of any size."""
    monkeypatch.setattr(program, "task_named", lambda _name: task)
    monkeypatch.setattr(sys, "argv", ["export", task.name, *map(str, options)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return program.main()


@every_network
def test_parity_holds_at_every_batch_for_every_output_on_every_kind_of_picture(
    task: Task, network: Network, graphs: dict[str, Any], stacks: dict[str, dict[str, Stack]]
) -> None:
    lines = list(parity.measure(network, *graphs[network.name], stacks[network.reads]))
    outputs = {from_torch.PROBABILITY} if network.masks else {"probabilities", "heatmap"}
    assert {(line.output, line.pictures, line.batch) for line in lines} == {
        (output, kind, size) for output in outputs for kind in stacks[network.reads] for size in (1, 2, 3, 8)
    }
    assert all(line.holds for line in lines), [line for line in lines if not line.holds]
    parity.enforce(lines)


@every_network
def test_a_graph_answers_each_picture_of_a_batch_as_if_it_were_alone(
    task: Task, network: Network, graphs: dict[str, Any], stacks: dict[str, dict[str, Stack]]
) -> None:
    probe = parity.session(graphs[network.name][0])
    stack = stacks[network.reads]["noise"][:5]
    together = probe.run(None, {network.reads: stack})
    for row, picture in enumerate(stack):
        for one, many in zip(probe.run(None, {network.reads: picture[None]}), together, strict=True):
            assert np.allclose(one[0].astype(float), many[row].astype(float), rtol=0, atol=1 if network.masks else 1e-5)


@CLASSIFIERS
def test_the_heat_map_is_grad_cam_to_a_hundred_thousandth_of_its_maximum(
    task: Task, network: Network, graphs: dict[str, Any], weights: Path, stacks: dict[str, dict[str, Stack]]
) -> None:
    model = keras.models.load_model(weights / f"{network.name}.keras")
    for stack in stacks[network.reads].values():
        (found,) = parity.session(graphs[network.name][0]).run(["heatmap"], {network.reads: stack})
        expected = gradcam.by_gradient(model, stack)
        assert found.min() >= 0
        assert found.max() > 0
        for one, other in zip(found, expected, strict=True):
            assert np.abs(one - other).max() <= 1e-5 * other.max()


def with_dense(kernel: npt.NDArray[np.float32], bias: npt.NDArray[np.float32]) -> keras.Model:
    """The small mask classifier with this last layer."""
    keras.utils.set_random_seed(7)
    model = classifier.build(RETINA, MASK_CLASSIFIER, "none", classifier.SCHEDULES["mask"])
    model.get_layer("probabilities").set_weights([kernel, bias])
    return model


def heat(model: keras.Model, stack: Stack, tmp_path: Path) -> tuple[Stack, Any, Any]:
    """Probabilities and heat maps of the exported graph, and the heat maps by automatic differentiation."""
    path = tmp_path / f"{MASK_CLASSIFIER.name}.keras"
    model.save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = from_keras.convert(RETINA, MASK_CLASSIFIER, path)
    probabilities, found = parity.session(converted).run(["probabilities", "heatmap"], {"vessels": stack})
    return probabilities, found, gradcam.by_gradient(model, stack)


def test_of_equal_classes_the_heat_map_shows_the_first_as_the_label_does(
    tmp_path: Path, stacks: dict[str, dict[str, Stack]]
) -> None:
    """Classes 1 and 2 always tie, by different kernels: their maps differ although their logits agree."""
    generator = np.random.default_rng(3)
    kernel = generator.normal(0, 1, (128, 4)).astype(np.float32)
    tied = with_dense(kernel, np.array([-50, 0, 0, -50], np.float32))
    stack = stacks["vessels"]["noise"][:4]
    pooled = keras.Model(tied.input, tied.get_layer("pool").output)
    # On one picture: scale the second kernel so that both logits are zero there, to the last bit.
    kernel[:, 1:3] = 0
    kernel[0, 1], kernel[1, 2] = 1, -1
    stack = np.zeros_like(stack[:2])
    features = np.asarray(pooled(stack))
    assert features.shape == (2, 128)
    kernel[:, 0], kernel[:, 3] = 0, 0
    model = with_dense(kernel, np.array([-50, 0, 0, -50], np.float32))
    probabilities, found, expected = heat(model, stack, tmp_path)
    top = probabilities.argmax(axis=1)
    by_class = class_maps(model, stack)
    for row in range(len(stack)):
        assert np.abs(found[row] - by_class[row, ..., top[row]]).max() <= 1e-5 * max(by_class[row].max(), 1e-9)
        assert np.abs(found[row] - expected[row]).max() <= 1e-5 * max(expected[row].max(), 1e-9)


def class_maps(model: keras.Model, stack: Stack) -> npt.NDArray[np.float32]:
    """Grad-CAM of every class by the definition, `[batch, h, w, classes]`."""
    pool, dense = gradcam._head(model)
    features = np.asarray(keras.Model(model.input, pool.input)(stack, training=False))
    height, width = features.shape[1:3]
    return np.maximum(features @ np.asarray(dense.kernel) / (height * width), 0)
