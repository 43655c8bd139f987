"""One graph, one hop: the same answers as the ensemble, bit for bit."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import tritonclient.grpc as grpc_client
from conftest import REPOSITORY
from tritonclient.utils import InferenceServerException

from export import fuse, graph
from export.place import place
from fovea import repository
from fovea.engines import Arrays
from fovea.errors import ExportError, ParityError, ServerError
from fovea.repository import Hardware
from fovea.server import Server
from fovea.spec import Task
from fovea.tasks import TASKS

RETINA = TASKS["retina"]


def copied(task: Task, folder: Path) -> Path:
    """A repository of one task's own."""
    for name in repository.models(task):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_the_fused_graph_has_the_ensembles_outputs_and_no_other(task: Task) -> None:
    models = {network.name: onnx.load(repository.graph_path(REPOSITORY, network)) for network in task.networks}
    fused = fuse.fuse(task, models)
    found = {value.name: graph.describe(value) for value in (*fused.graph.input, *fused.graph.output)}
    declared: dict[str, tuple[str, tuple[object, ...]]] = {
        "image": ("UINT8", ("N", task.image.side, task.image.side, 3))
    }
    for answer in task.answers:
        kind = {"FP32": "FLOAT"}.get(answer.tensor.dtype, answer.tensor.dtype)
        declared[answer.tensor.name] = kind, ("N", *answer.tensor.shape)
    assert found == declared
    assert fused.ir_version <= graph.IR_VERSION
    assert sum(len(model.graph.node) for model in models.values()) == len(fused.graph.node)
    assert {entry.key: entry.value for entry in fused.metadata_props}["fovea.network"] == f"{task.name}_fused"


def test_fusing_leaves_the_repositorys_own_files_as_they_are(tmp_path: Path) -> None:
    folder = copied(RETINA, tmp_path / "r")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    place(folder, fuse.files(RETINA, folder, 2))
    assert {path: path.read_bytes() for path in before} == before
    assert {path.name for path in folder.iterdir()} == {*repository.models(RETINA), "retina_fused"}


def test_a_fused_graph_that_answers_otherwise_is_not_placed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = fuse.fuse

    def other(task: Task, models: dict[str, onnx.ModelProto]) -> onnx.ModelProto:
        joined = honest(task, models)
        for tensor in joined.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2:
                tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * 1.01, tensor.name))
        return joined

    monkeypatch.setattr(fuse, "fuse", other)
    with pytest.raises(ParityError, match=r"glaucoma, fused, answers .* otherwise than its networks one by one"):
        fuse.files(TASKS["glaucoma"], copied(TASKS["glaucoma"], tmp_path / "r"), 2)


def test_fusing_what_was_never_exported_says_so(tmp_path: Path) -> None:
    folder = copied(RETINA, tmp_path / "r")
    repository.graph_path(folder, RETINA.networks[1], "cpu").unlink()
    with pytest.raises(
        ExportError, match=r"retina_classifier/1/model.*onnx is missing: python -m export retina writes"
    ):
        fuse.files(RETINA, folder, 2)


@pytest.fixture(scope="module", params=["cpu", "openvino"])
def fused_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the ensemble and its fused variant beside it, on either engine."""
    folder = copied(RETINA, tmp_path_factory.mktemp("fused") / "r")
    place(folder, fuse.files(RETINA, folder, 2))
    hardware: Hardware = request.param
    with Server(folder, ["retina"], fused=True, hardware=hardware) as server:
        yield server


def test_asking_for_a_fused_variant_that_was_never_made_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"retina_fused is missing: python -m export retina --fuse writes it"):
        Server(copied(RETINA, tmp_path / "r"), ["retina"], fused=True).start()


def test_the_committed_fused_variant_is_made_of_the_committed_networks() -> None:
    for name, content in fuse.files(RETINA, REPOSITORY, repository.CORES).items():
        assert (REPOSITORY / name).read_bytes() == content, name


def ask(server: Server, model: str, encoded: list[bytes], names: list[str]) -> Arrays:
    client = grpc_client.InferenceServerClient(server.grpc_url.split("//")[1])
    try:
        image = grpc_client.InferInput("image", [len(encoded), 1], "BYTES")
        image.set_data_from_numpy(np.array(encoded, dtype=object)[:, None])
        wanted = [grpc_client.InferRequestedOutput(name) for name in names]
        result = client.infer(model, [image], outputs=wanted)
        return {name: result.as_numpy(name) for name in names}
    finally:
        client.close()


def test_fused_and_ensemble_answer_alike_bit_for_bit(fused_server: Server, photographs: list[bytes]) -> None:
    names = [tensor.name for tensor in RETINA.outputs]
    for photograph in photographs:
        one, other = (ask(fused_server, model, [photograph], names) for model in ("retina_fused", "retina"))
        for name in names:
            assert one[name].dtype == other[name].dtype
            assert np.array_equal(one[name], other[name]), name


def test_a_batch_and_some_of_the_outputs_can_be_asked_of_the_fused_variant(
    fused_server: Server, photographs: list[bytes]
) -> None:
    together = ask(fused_server, "retina_fused", photographs[:3], ["probabilities", "frame"])
    assert together["probabilities"].shape == (3, 4)
    for row, photograph in enumerate(photographs[:3]):
        alone = ask(fused_server, "retina_fused", [photograph], ["probabilities"])
        assert np.array_equal(alone["probabilities"][0], together["probabilities"][row])


def test_the_fused_variant_refuses_a_broken_picture_by_its_place_and_goes_on(
    fused_server: Server, photographs: list[bytes]
) -> None:
    with pytest.raises(InferenceServerException, match="UnreadableImage: Image 2 of 2"):
        ask(fused_server, "retina_fused", [photographs[0], photographs[1][:500]], ["frame"])
    assert ask(fused_server, "retina_fused", photographs[:1], ["frame"])["frame"].shape == (1, 4)
