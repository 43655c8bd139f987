"""From trained networks to the repository: parity that is measured, heat maps that are exact, all files or none."""

import json
import logging
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from conftest import ROOT
from onnx import numpy_helper
from small_runs import FUNDUS, RETINA, SIDE, names

from fovea import quiet, repository
from fovea.errors import ExportError
from fovea.spec import Network, Task
from fovea.tasks import TASKS

with quiet.native_stderr():
    import keras

    from export import __main__ as program
    from export import convert, from_torch, gradcam, graph, parity, pictures
    from training import classifier, segmenter

from training.recipes import recipe_for
from training.run import Run
from training.unet import UNet

Stack = npt.NDArray[np.uint8]
Reference = Callable[[Stack], Mapping[str, npt.NDArray[np.float32]]]
UNET, MASK_CLASSIFIER = RETINA.networks
(PICTURE_CLASSIFIER,) = FUNDUS.networks
PAIRS = [(RETINA, UNET), (RETINA, MASK_CLASSIFIER), (FUNDUS, PICTURE_CLASSIFIER)]
every_network = pytest.mark.parametrize(("task", "network"), [pytest.param(*pair, id=pair[1].name) for pair in PAIRS])
CLASSIFIERS = pytest.mark.parametrize(
    ("task", "network"), [pytest.param(*pair, id=pair[1].name) for pair in PAIRS if not pair[1].masks]
)
EXPORTED = [pytest.param(*pair, id=pair[1].name, marks=[] if pair[1] is UNET else [pytest.mark.slow]) for pair in PAIRS]
"""Each needs a whole export: one by default."""
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
        built = classifier.build(task, network, "none", recipe_for(network))
        if recipe_for(network).trunk != "resnet50":  # fifty such layers in a row make numbers beyond float32's care
            unsettle(built, np.random.default_rng(seed))
        built.save(weights / f"{network.name}.keras")


def unsettle(model: keras.Model, generator: np.random.Generator) -> None:
    """Batch norms as after some training, so that features differ from picture to picture."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            unsettle(layer, generator)
        elif isinstance(layer, keras.layers.BatchNormalization):
            size = layer.gamma.shape[0]
            scale, shift, mean = (
                generator.uniform(1, 2, size),
                generator.normal(0, 0.3, size),
                generator.normal(0, 0.1, size),
            )
            layer.set_weights([scale, shift, mean, generator.uniform(0.1, 0.5, size)])


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
def graphs(
    weights: Path,
) -> dict[str, tuple[onnx.ModelProto, Callable[[Stack], Mapping[str, npt.NDArray[np.float32]]]]]:
    """Network → finished graph, and the framework's own answer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {network.name: convert._graph(task, network, weights) for task, network in PAIRS}


@pytest.fixture(scope="module")
def stacks() -> dict[str, dict[str, Stack]]:
    """What each network may be asked about: phantoms where it reads pictures, noise and blanks everywhere."""
    generator = np.random.default_rng(11)

    def hostile(channels: int) -> dict[str, Stack]:
        shape = (SIDE, SIDE, channels)
        blanks = np.stack([np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8), np.full(shape, 128, np.uint8)])
        return {"noise": generator.integers(0, 256, (9, *shape), np.uint8), "blanks": blanks}

    return {"image": hostile(3), "vessels": hostile(1)}


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
    monkeypatch.setattr(pictures, "PHANTOMS", 3)
    monkeypatch.setattr(sys, "argv", ["export", task.name, *map(str, options)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return program.main()


@every_network
def test_parity_holds_at_every_batch_for_every_output_on_every_kind_of_picture(
    task: Task, network: Network, graphs: dict[str, Any], stacks: dict[str, dict[str, Stack]]
) -> None:
    model, reference = graphs[network.name]
    lines = list(parity.measure(network, model, reference, stacks[network.reads]))
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


def perturb(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every other weight of the last convolution or product of the graph a little off."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in reversed(model.graph.node):
        if node.op_type in ("Conv", "MatMul", "Gemm"):
            name = next(name for name in node.input if name in constants)
            values = numpy_helper.to_array(constants[name]).copy()
            values.flat[::2] += 0.01
            constants[name].CopyFrom(numpy_helper.from_array(values, name))
            return model
    raise AssertionError


@pytest.mark.parametrize(("task", "network"), EXPORTED)
def test_a_graph_whose_weights_are_off_is_not_placed_and_the_repository_stays_as_it_was(
    task: Task, network: Network, weights: Path, placed: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    honest = convert._finish

    def off(t: Task, n: Network, model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
        finished = honest(t, n, model, path)
        return perturb(finished) if n.name == network.name else finished

    monkeypatch.setattr(convert, "_finish", off)
    before = content(placed)
    code = export(monkeypatch, task, "--weights", weights, "--repository", placed, "--reports", tmp_path)
    said = capsys.readouterr()
    assert code == 1
    assert f"{network.name}: " in said.err
    assert "differs from its framework" in said.err
    assert "broken" in said.out
    assert content(placed) == before


@pytest.mark.parametrize("task", [RETINA, pytest.param(FUNDUS, marks=pytest.mark.slow)], ids=["retina", "fundus"])
def test_an_export_places_graphs_and_cards_that_say_what_they_are(
    task: Task, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "repository"
    assert export(monkeypatch, task, "--weights", weights, "--repository", target, "--reports", tmp_path) == 0
    said = capsys.readouterr()
    assert f"Placed {', '.join(repository.models(task))} in {target}, in " in said.err
    assert "GiB of memory at most." in said.err
    assert said.out.count("holds") == sum(4 * (1 if n.masks else 2) for n in task.networks)
    of_export = {f"{n.name}/{file}" for n in task.networks for file in ("1/model.onnx", "card.json", "card.md")}
    assert names(target) == set(repository.files(task)) | of_export
    repository.check(task, target)
    for network in task.networks:
        model = onnx.load(repository.graph_path(target, network))
        found = {v.name: graph.describe(v) for v in (*model.graph.input, *model.graph.output)}
        assert found == graph.declared(task, network)
        assert model.ir_version <= 10
        assert max(entry.version for entry in model.opset_import) <= 18
        assert model.doc_string == task.question
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        assert (metadata["fovea.task"], metadata["fovea.network"]) == (task.name, network.name)
        assert "Not a medical device" in metadata["fovea.use"]
        card = json.loads((target / network.name / "card.json").read_text())
        assert {(line["output"], line["batch"]) for line in card["parity"]} == {
            (output, size)
            for output in ([from_torch.PROBABILITY] if network.masks else ["probabilities", "heatmap"])
            for size in (1, 2, 3, 8)
        }
    for name, data in content(target).items():
        assert not [path for path in PATHS if path in data], name


def test_configs_for_other_cores_change_nothing_but_the_configs(
    placed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = content(placed)
    options = ("--configs", "--cores", 8, "--repository", placed, "--weights", tmp_path / "none")
    assert export(monkeypatch, RETINA, *options) == 0
    after = content(placed)
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} == {
        "retina_preprocess/config.pbtxt",
        *(f"{n.name}/{file}.pbtxt" for n in RETINA.networks for file in ("config", "configs/cpu", "configs/openvino")),
    }
    assert after == before | {name: text.encode() for name, text in repository.files(RETINA, 8).items()}


MISUSE = {
    "no cores": (["--cores", "0"], 2, "--cores must be at least 1."),
    "no weights": (["--weights", "absent"], 1, "absent/retina_unet.pt2 does not exist"),
    "no pictures": (["--pictures", "empty"], 2, "no JPEG, PNG or TIFF picture there"),
    "a damaged picture": (["--pictures", "damaged"], 2, "eye.png: The "),
}


@pytest.mark.parametrize(("options", "code", "said"), MISUSE.values(), ids=MISUSE.keys())
def test_misuse_is_one_sentence_and_touches_nothing(
    options: list[str], code: int, said: str, placed: Path, weights: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "eye.png").write_bytes(b"no picture")
    before = content(placed)
    monkeypatch.chdir(tmp_path)
    assert export(monkeypatch, RETINA, "--repository", placed, "--weights", weights, *options) == code
    stderr = capsys.readouterr().err
    assert said in stderr
    assert len(stderr.strip().splitlines()) == 1
    assert content(placed) == before


HARM: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "text": lambda data: b"no network",
    "flipped": lambda data: data[:3000] + bytes(255 - byte for byte in data[3000:4000]) + data[4000:],
}


@every_network
@pytest.mark.parametrize("harm", HARM.values(), ids=HARM.keys())
def test_damaged_weights_are_one_sentence_with_their_name(
    task: Task, network: Network, harm: Callable[[bytes], bytes], weights: Path, tmp_path: Path
) -> None:
    file = network.file
    (tmp_path / file).write_bytes(harm((weights / file).read_bytes()))
    with pytest.raises(ExportError, match=rf"{network.name}\..* cannot be read as a .*: train it again") as caught:
        convert._graph(task, network, tmp_path)
    assert "\n" not in str(caught.value)


TAKEN = {
    "a picture's for a mask's": (RETINA, MASK_CLASSIFIER, "fundus_classifier.keras"),
    "a mask's for a picture's": (FUNDUS, PICTURE_CLASSIFIER, "retina_classifier.keras"),
    "a classifier of another side": (TASKS["fundus"], TASKS["fundus"].networks[0], "fundus_classifier.keras"),
    "a segmenter of another side": (TASKS["retina"], TASKS["retina"].networks[0], "retina_unet.pt2"),
}


@pytest.mark.parametrize(("task", "network", "taken"), TAKEN.values(), ids=TAKEN.keys())
@pytest.mark.filterwarnings("ignore")
def test_weights_of_another_task_are_refused(
    task: Task, network: Network, taken: str, weights: Path, tmp_path: Path
) -> None:
    path = tmp_path / f"{network.name}{Path(taken).suffix}"
    path.write_bytes((weights / taken).read_bytes())
    with pytest.raises(ExportError, match=r"another task|should have inputs and outputs") as caught:
        convert._graph(task, network, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_declared_tasks_are_exported_by_the_command_of_the_readme(tmp_path: Path) -> None:
    """At their full size, from random weights, with real and damaged reports out of the way."""
    for task in TASKS.values():
        for network in task.networks:
            save_random(task, network, tmp_path / "weights")
        command = [sys.executable, "-m", "export", task.name, "--repository", "r", "--weights", "weights"]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
        placed = re.escape(f"Placed {', '.join(repository.models(task))} in r")
        assert re.fullmatch(rf"{placed}, in \d+ s and \d+\.\d GiB of memory at most\.\n", done.stderr)
        assert "broken" not in done.stdout
        repository.check(task, tmp_path / "r")
