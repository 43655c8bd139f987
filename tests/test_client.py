"""The client against servers that are missing, silent, strange or of another release."""

import asyncio
import http.server
import math
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import tritonclient.grpc
import tritonclient.http

from fovea.answers import Answer
from fovea.client import AsyncClient, Client
from fovea.errors import (
    FoveaError,
    ServerBusy,
    ServerRefused,
    ServerTimeout,
    ServerUnreachable,
    UnreadableImage,
    UsageError,
    WrongModel,
)
from fovea.server import Server
from fovea.spec import Classes, Network, Task
from fovea.tasks import TASKS
from fovea.transport import translate


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(8)
        yield listening.getsockname()[1]


@contextmanager
def web_server(status: int, body: bytes) -> Iterator[int]:
    """A web server that is no Triton: it answers everything alike."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        threading.Thread(target=web.serve_forever).start()
        yield web.server_address[1]
        web.shutdown()


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_refused_connection_is_unreachable_and_not_a_timeout(
    scheme: str, refused_port: int, photograph: bytes
) -> None:
    with Client(f"{scheme}://127.0.0.1:{refused_port}") as client, pytest.raises(ServerUnreachable, match="make serve"):
        client.ask("fundus", photograph)


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_silent_server_ends_in_a_timeout_at_the_deadline(scheme: str, silent_port: int, photograph: bytes) -> None:
    with Client(f"{scheme}://127.0.0.1:{silent_port}") as client:
        started = time.monotonic()
        with pytest.raises(ServerTimeout, match=r"0\.3 s"):
            client.ask("fundus", photograph, timeout_s=0.3)
        assert 0.25 < time.monotonic() - started < 3


@pytest.mark.parametrize(("status", "body"), [(404, b"<html>"), (200, b"<html>"), (200, b"{}"), (500, b"oops")])
def test_a_web_server_is_recognised_as_no_triton(status: int, body: bytes, photograph: bytes) -> None:
    with web_server(status, body) as port, Client(f"http://127.0.0.1:{port}") as client:
        with pytest.raises((WrongModel, ServerRefused)) as caught:
            client.ask("fundus", photograph)
        assert str(port) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "localhost:8001", "ftp://a:1", "grpc://host", "grpc://:8001", "http://a:99999"])
def test_a_strange_address_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError, match="grpc://host:8001"), Client(url):
        pass


def test_asking_outside_with_is_a_usage_error(photograph: bytes) -> None:
    with pytest.raises(UsageError, match="with"):
        Client("grpc://127.0.0.1:8001").ask("fundus", photograph)


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        ("StatusCode.UNAVAILABLE", "failed to connect to all addresses", ServerUnreachable),
        ("StatusCode.UNAVAILABLE", "Socket closed", ServerUnreachable),
        ("StatusCode.UNAVAILABLE", "Trying to connect an http1.x server", WrongModel),
        ("StatusCode.UNAVAILABLE", "Request for unknown model: 'x' is not found", WrongModel),
        ("StatusCode.NOT_FOUND", "no model", WrongModel),
        ("StatusCode.UNIMPLEMENTED", "unknown service", WrongModel),
        ("StatusCode.RESOURCE_EXHAUSTED", "out of room", ServerBusy),
        ("StatusCode.UNAVAILABLE", "Exceeds maximum queue size", ServerBusy),
        ("StatusCode.INVALID_ARGUMENT", "in ensemble 'x', UnreadableImage: It is empty.", UnreadableImage),
        ("StatusCode.INVALID_ARGUMENT", "unexpected shape", ServerRefused),
        ("StatusCode.INTERNAL", "in ensemble 'x', Stub process 'x_0_0' is not healthy.", ServerRefused),
        ("StatusCode.INTERNAL", "anything else", ServerRefused),
        ("StatusCode.CANCELLED", "", ServerUnreachable),
        ("400", "Request for unknown model: 'x' is not found", WrongModel),
        ("400", "in ensemble 'x', UnreadableImage: It is empty.", UnreadableImage),
        ("400", "unexpected shape", ServerRefused),
        ("404", "", WrongModel),
        ("429", "slow down", ServerBusy),
        ("503", "Exceeds maximum queue size", ServerBusy),
        ("500", "in ensemble 'x', Stub process 'x_0_0' is not healthy.", ServerRefused),
        ("", "", ServerUnreachable),
    ],
)
def test_every_status_of_both_wires_becomes_one_of_our_errors(
    status: str, message: str, expected: type[FoveaError]
) -> None:
    error = translate("grpc://h:1", "x", status, message)
    assert type(error) is expected
    assert str(error).endswith(".")
    assert "\n" not in str(error)


def test_a_refused_picture_says_the_servers_reason_alone() -> None:
    error = translate("grpc://h:1", "x", "400", "in ensemble 'x', UnreadableImage: The picture is black.")
    assert str(error) == "The picture is black."


@pytest.fixture(params=["grpc", "http"])
def url(request: pytest.FixtureRequest, server: Server) -> str:
    return server.grpc_url if request.param == "grpc" else server.http_url


def test_a_task_the_server_lacks_is_a_wrong_model(url: str, photograph: bytes) -> None:
    with Client(url) as client, pytest.raises(WrongModel, match="does not serve task absent"):
        client.ask(replace(TASKS["fundus"], name="absent"), photograph)


def test_other_labels_than_declared_are_a_wrong_model(url: str, photograph: bytes) -> None:
    with Client(url) as client, pytest.raises(WrongModel, match="classes"):
        client.ask(relabelled(TASKS["fundus"], ("A", "B", "C", "D")), photograph)


def test_another_shape_than_declared_is_a_wrong_model(url: str, photograph: bytes) -> None:
    with Client(url) as client, pytest.raises(WrongModel, match="probabilities"):
        client.ask(relabelled(TASKS["fundus"], ("A", "B")), photograph)


def relabelled(task: Task, labels: tuple[str, ...]) -> Task:
    def change(network: Network) -> Network:
        answers = tuple(Classes(labels, labels[0]) if isinstance(a, Classes) else a for a in network.answers)
        return replace(network, answers=answers)

    return replace(task, networks=tuple(change(network) for network in task.networks))


def test_an_unknown_task_or_output_is_a_usage_error(url: str, photograph: bytes) -> None:
    with Client(url) as client:
        with pytest.raises(UsageError, match=f"choose one of {', '.join(TASKS)}"):
            client.ask("cataract", photograph)
        with pytest.raises(UsageError, match="choose from"):
            client.ask("fundus", photograph, outputs=["vessels"])


def test_several_threads_may_share_one_client(server: Server, photograph: bytes) -> None:
    labels: list[str | None] = []
    with Client(server.grpc_url) as client:
        threads = [
            threading.Thread(target=lambda: labels.append(client.ask("fundus", photograph).label)) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(labels) == 4
    assert len(set(labels)) == 1


def test_one_bad_picture_among_many_fails_alone(url: str, photographs: list[bytes]) -> None:
    async def ask() -> dict[int, object]:
        sent = [*photographs[:2], b"bad", *photographs[2:4]]
        async with AsyncClient(url) as client:
            return {position: outcome async for position, outcome in client.ask_many("fundus", sent, concurrency=3)}

    outcomes = asyncio.run(ask())
    assert sorted(outcomes) == [0, 1, 2, 3, 4]
    assert isinstance(outcomes.pop(2), UnreadableImage)
    assert not any(isinstance(outcome, FoveaError) for outcome in outcomes.values())


def test_many_are_sent_several_in_a_request_and_answered_as_alone(url: str, photographs: list[bytes]) -> None:
    async def ask() -> tuple[list[Answer], dict[int, object], int]:
        async with AsyncClient(url) as client:
            alone = [await client.ask("fundus", picture) for picture in photographs]
            size = await client.together("fundus", 16)
            many = client.ask_many("fundus", photographs, concurrency=16)
            return alone, {position: outcome async for position, outcome in many}, size

    before = counted(url)
    alone, many, size = asyncio.run(ask())
    requests, pictures = (now - then for now, then in zip(counted(url), before, strict=True))
    assert size > 1
    assert (requests, pictures) == (len(photographs) + math.ceil(len(photographs) / size), 2 * len(photographs))
    for position, expected in enumerate(alone):
        found = many[position]
        assert isinstance(found, Answer)
        assert found.probabilities is not None
        assert expected.probabilities is not None
        assert found.probabilities.tobytes() == expected.probabilities.tobytes()
        assert found.heatmap is not None
        assert expected.heatmap is not None
        assert found.heatmap.tobytes() == expected.heatmap.tobytes()
        assert found.frame == expected.frame


def counted(url: str) -> tuple[int, int]:
    """Requests for `fundus` that the server answered so far, and pictures in them."""
    address = url.split("//")[1]
    if url.startswith("http"):
        with tritonclient.http.InferenceServerClient(address) as client:
            said = client.get_inference_statistics("fundus")["model_stats"][0]
    else:
        with tritonclient.grpc.InferenceServerClient(address) as client:
            said = client.get_inference_statistics("fundus", as_json=True)["model_stats"][0]
    return int(said["inference_stats"]["success"]["count"]), int(said["inference_count"])


def test_bad_pictures_in_one_request_fail_alone(url: str, photographs: list[bytes], tmp_path: Path) -> None:
    async def ask() -> list[Answer | FoveaError]:
        async with AsyncClient(url) as client:
            missing, empty = tmp_path / "gone.jpg", b""
            return await client.ask_together("fundus", [photographs[0], b"bad", missing, photographs[1], empty])

    assert [type(each) for each in asyncio.run(ask())] == [
        Answer,
        UnreadableImage,
        UnreadableImage,
        Answer,
        UnreadableImage,
    ]


def test_more_in_one_request_than_the_server_takes_are_answered_all_the_same(
    url: str, photographs: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask() -> list[Answer | FoveaError]:
        async with AsyncClient(url) as client:
            return await client.ask_together("fundus", photographs[:2] * 5)

    assert all(isinstance(each, Answer) for each in asyncio.run(ask()))
    monkeypatch.setattr("fovea.client.TOGETHER_BYTES", len(photographs[0]))
    assert all(isinstance(each, Answer) for each in asyncio.run(ask()))


def test_few_are_sent_alone_and_no_request_holds_more_than_the_server_takes(url: str) -> None:
    async def sizes() -> list[int]:
        async with AsyncClient(url) as client:
            return [await client.together("fundus", concurrency) for concurrency in (1, 1000)]

    assert asyncio.run(sizes()) == [1, TASKS["fundus"].max_batch]


def test_nothing_asked_together_is_no_request(url: str) -> None:
    async def ask() -> list[Answer | FoveaError]:
        async with AsyncClient(url) as client:
            return await client.ask_together("fundus", [])

    assert asyncio.run(ask()) == []


def test_many_with_no_server_are_all_answered_by_an_error(refused_port: int, photographs: list[bytes]) -> None:
    async def ask() -> list[object]:
        async with AsyncClient(f"grpc://127.0.0.1:{refused_port}") as client:
            return [outcome async for _, outcome in client.ask_many("fundus", photographs)]

    outcomes = asyncio.run(ask())
    assert len(outcomes) == len(photographs)
    assert all(isinstance(outcome, ServerUnreachable) for outcome in outcomes)
