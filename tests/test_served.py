"""What the real server answers, against the same networks in this process: bit for bit."""

import asyncio
import functools
from itertools import combinations

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from conftest import REPOSITORY
from tritonclient.utils import InferenceServerException

from fovea import phantoms, pixels
from fovea.answers import Answer, to_source
from fovea.client import AsyncClient, Client
from fovea.engines import Arrays, Pipeline
from fovea.errors import ServerTimeout
from fovea.repository import Hardware, preprocess_name
from fovea.server import Server
from fovea.spec import THRESHOLD, Task
from fovea.tasks import TASKS

every_task = pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
both_wires = pytest.mark.parametrize("wire", ["grpc", "http"])


@functools.cache
def pipeline(task: str, hardware: Hardware) -> Pipeline:
    return Pipeline(TASKS[task], REPOSITORY, hardware)


def in_process(server: Server, task: Task, encoded: list[bytes]) -> Arrays:
    """The same networks on the same engine, without a server."""
    return pipeline(task.name, server.hardware).answer(encoded)


def raw(server: Server, wire: str, task: Task, encoded: list[bytes], names: list[str]) -> Arrays:
    """One request with a batch, through NVIDIA's own client."""
    module = grpc_client if wire == "grpc" else http_client
    url = (server.grpc_url if wire == "grpc" else server.http_url).split("//")[1]
    client = module.InferenceServerClient(url)
    try:
        image = module.InferInput("image", [len(encoded), 1], "BYTES")
        image.set_data_from_numpy(np.array(encoded, dtype=object)[:, None])
        wanted = [module.InferRequestedOutput(name) for name in names]
        result = client.infer(task.name, [image], outputs=wanted)
        return {name: result.as_numpy(name) for name in names}
    finally:
        client.close()


@every_task
@both_wires
def test_served_is_in_process_bit_for_bit(task: Task, wire: str, server: Server, photographs: list[bytes]) -> None:
    names = [tensor.name for tensor in task.outputs]
    for photograph in photographs:
        served, expected = raw(server, wire, task, [photograph], names), in_process(server, task, [photograph])
        for name in names:
            assert served[name].dtype == expected[name].dtype
            assert np.array_equal(served[name], expected[name]), name


@every_task
@both_wires
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_every_batch_size_answers_each_picture_as_alone(
    task: Task, wire: str, size: int, server: Server, photographs: list[bytes]
) -> None:
    encoded = (photographs * 2)[:size]
    names = [tensor.name for tensor in task.outputs]
    served = raw(server, wire, task, encoded, names)
    for row, photograph in enumerate(encoded):
        alone = raw(server, wire, task, [photograph], names)
        for name in names:
            assert np.allclose(served[name][row], alone[name][0], atol=1e-6 if "FP" in dtype(task, name) else 1)


def dtype(task: Task, name: str) -> str:
    return next(tensor.dtype for tensor in task.outputs if tensor.name == name)


@every_task
@both_wires
def test_any_subset_of_the_outputs_is_answered(task: Task, wire: str, server: Server, photograph: bytes) -> None:
    names = [tensor.name for tensor in task.outputs]
    everything = raw(server, wire, task, [photograph], names)
    for count in range(1, len(names) + 1):
        for subset in combinations(names, count):
            found = raw(server, wire, task, [photograph], list(subset))
            assert all(np.array_equal(found[name], everything[name]) for name in subset)


@every_task
def test_served_preprocessing_is_the_training_preprocessing(task: Task, server: Server, photograph: bytes) -> None:
    client = grpc_client.InferenceServerClient(server.grpc_url.split("//")[1])
    image = grpc_client.InferInput("image", [1, 1], "BYTES")
    image.set_data_from_numpy(np.array([[photograph]], dtype=object))
    result = client.infer(preprocess_name(task), [image])
    client.close()
    picture, frame = pixels.preprocess(photograph, task.image)
    assert np.array_equal(result.as_numpy("pixels")[0], picture)
    assert tuple(result.as_numpy("frame")[0]) == frame


@both_wires
def test_a_bad_row_in_a_raw_batch_is_named_and_the_server_goes_on(
    wire: str, server: Server, photographs: list[bytes]
) -> None:
    task = TASKS["fundus"]
    with pytest.raises(InferenceServerException, match="Image 2 of 3"):
        raw(server, wire, task, [photographs[0], b"broken", photographs[1]], ["probabilities"])
    assert raw(server, wire, task, photographs[:1], ["probabilities"])["probabilities"].shape == (1, 4)


@both_wires
def test_garbage_to_the_ports_does_not_harm_the_server(wire: str, server: Server, photograph: bytes) -> None:
    import socket

    port = server.ports.grpc if wire == "grpc" else server.ports.http
    generator = np.random.default_rng(2)
    for size in (1, 100, 70_000):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(generator.bytes(size))
    with Client(server.grpc_url) as client:
        assert client.ask("fundus", photograph).label
    server.check()


@both_wires
def test_a_busy_server_costs_a_timeout_and_is_itself_again_afterwards(
    wire: str, server: Server, photographs: list[bytes]
) -> None:
    async def flood() -> list[object]:
        async with AsyncClient(server.grpc_url if wire == "grpc" else server.http_url) as client:
            await client.check("retina")
            many = client.ask_many("retina", photographs * 5, timeout_s=0.25, concurrency=30)
            return [outcome async for _, outcome in many]

    outcomes = asyncio.run(flood())
    assert len(outcomes) == 30
    assert any(isinstance(outcome, ServerTimeout) for outcome in outcomes)
    assert all(isinstance(outcome, Answer | ServerTimeout) for outcome in outcomes)
    with Client(server.http_url) as client:
        assert client.ask("retina", photographs[0], timeout_s=30).label


@every_task
def test_blocking_and_awaited_clients_give_the_same_answer_over_both_wires(
    task: Task, server: Server, photograph: bytes
) -> None:
    async def awaited(url: str) -> Arrays:
        async with AsyncClient(url) as client:
            answer = await client.ask(task, photograph)
            return {"probabilities": answer.probabilities, "heatmap": answer.heatmap, **answer.masks}  # type: ignore[dict-item]

    found = []
    for url in (server.grpc_url, server.http_url):
        found.append(asyncio.run(awaited(url)))
        with Client(url) as client:
            answer = client.ask(task, photograph)
            found.append({"probabilities": answer.probabilities, "heatmap": answer.heatmap, **answer.masks})  # type: ignore[dict-item]
    for other in found[1:]:
        assert all(np.array_equal(found[0][name], other[name]) for name in found[0])


def test_the_served_network_finds_the_vessels_of_phantoms_it_was_never_trained_on(server: Server) -> None:
    """Mean Dice against the known truth, in the source's pixels and its field of view."""
    scores = []
    with Client(server.grpc_url) as client:
        for seed in range(100, 106):
            phantom = phantoms.fundus(seed)
            answer = client.ask("retina", phantom.encoded(), outputs=["vessels", "frame"])
            assert answer.frame is not None
            height, width = phantom.vessels.shape
            inside = phantom.field_of_view == 1
            found = to_source(answer.masks["vessels"], answer.frame, width, height)[inside] >= THRESHOLD
            true = phantom.vessels[inside] > 0
            scores.append(2 * (found & true).sum() / (found.sum() + true.sum()))
    assert np.mean(scores) >= 0.80, scores


@pytest.mark.data
@every_task
def test_real_photographs_are_answered_as_in_process(task: Task, server: Server, data: "object") -> None:
    from pathlib import Path

    assert isinstance(data, Path)
    files = [*sorted(data.glob("HRF*/images/*"))[::9], *sorted(data.glob("CHASE_DB1/*.jpg"))[::9]]
    names = [tensor.name for tensor in task.outputs]
    for file in files:
        served, expected = (
            raw(server, "grpc", task, [file.read_bytes()], names),
            in_process(server, task, [file.read_bytes()]),
        )
        assert all(np.array_equal(served[name], expected[name]) for name in names), file
