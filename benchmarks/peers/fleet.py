"""Everything that is measured side by side: ours, the peers, and the pipeline in process, at each precision."""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import psutil

from benchmarks.contenders import InProcess, Served
from benchmarks.load import closed_loop
from benchmarks.peers import plain
from benchmarks.peers.catalogue import Peer
from benchmarks.peers.clients import MASK_AGREES, V2, Http, Json, agreement
from benchmarks.peers.environments import FOLDER, PeerFailed, installed
from benchmarks.peers.process import Running, memory_mib
from benchmarks.target import Target
from fovea.engines import Pipeline
from fovea.repository import Hardware, fused_name
from fovea.server import Server
from fovea.spec import Task

LIMIT, OURS = "in process", "gRPC"
MEMORY_NEEDED_GIB = 3
"""What must be free before another peer is started: twice what the largest takes."""


class Way(Protocol):
    async def ask(self, encoded: bytes) -> str: ...


@dataclass(frozen=True)
class Variant:
    """The same networks at one precision.

    Attributes:
        precision: "served", the graphs, engine and arithmetic that export chose, or "fp32" on ONNX Runtime.
        expected: digest of every picture's answer, from `limit`.
    """

    precision: str
    repository: Path
    hardware: Hardware
    limit: InProcess
    expected: Sequence[str]


@dataclass(frozen=True)
class Contender:
    """One way to serve at one precision.

    Attributes:
        connect: a new connection, for each run: what stood still meanwhile may have closed the old one.
        expected: what it must answer to every picture.
        awake: a peer runs inside it only; ours always run, and cost nothing idle.
        memory: its resident memory in MiB; None in process, which is this process.
    """

    name: str
    precision: str
    connect: Callable[[], AbstractAsyncContextManager[Way]]
    expected: Sequence[str]
    awake: Callable[[], AbstractContextManager[None]] = nullcontext
    memory: Callable[[], float] | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.name, self.precision


async def variants(found: Target, stack: AsyncExitStack) -> list[Variant]:
    """What is served, and the fp32 graphs on ONNX Runtime if that is something else."""
    own = (found.repository, found.hardware)
    if plain.is_plain(found.task, *own):
        return [Variant("fp32", *own, found.limit, found.expected)]
    repository = plain.rendered(found.task, found.repository, FOLDER / "fp32" / found.task.name)
    limit = await stack.enter_async_context(InProcess(found.task, repository, "cpu"))
    expected = [await limit.ask(picture) for picture in found.pictures]
    return [
        Variant("served", *own, found.limit, found.expected),
        Variant("fp32", repository, "cpu", limit, expected),
    ]


def ours(found: Target, variant: Variant, stack: AsyncExitStack) -> list[Contender]:
    """In process, and our server: the one of `found`, or another one for another repository."""
    in_process = Contender(LIMIT, variant.precision, lambda: nullcontext(variant.limit), variant.expected)
    if variant.repository != found.repository:
        server = stack.enter_context(Server(variant.repository, [found.task.name], hardware=variant.hardware))
        return [in_process, _served(OURS, found.task, server.grpc_url, variant, server)]
    urls = {OURS: (found.task, found.grpc_url), "HTTP": (found.task, found.http_url)}
    if found.fused:
        urls["gRPC, fused"] = (replace(found.task, name=fused_name(found.task)), found.grpc_url)
    named = [_served(name, task, url, variant, found.server) for name, (task, url) in urls.items() if url]
    return [in_process, *named]


def _served(name: str, task: Task, url: str, variant: Variant, server: Server | None) -> Contender:
    memory = None if server is None else lambda: memory_mib(triton(server, task))
    return Contender(name, variant.precision, lambda: Served(task, url), variant.expected, memory=memory)


def triton(server: Server, task: Task) -> list[psutil.Process]:
    """The server and those of its Python processes that `task` needs: the ensemble's, or those of the fused variant."""
    process = psutil.Process(server.pid)
    return [process, *(stub for stub in process.children() if _is_fused(stub.cmdline()) == _is_fused([task.name]))]


def _is_fused(words: Sequence[str]) -> bool:
    return any("_fused" in word for word in words)


async def join(peer: Peer, variant: Variant, found: Target, stack: AsyncExitStack) -> Contender:
    """Install and start a peer, see that it answers rightly, and let it stand still.

    Raises:
        FoveaError: it cannot be, with the reason; nothing of it is left running.
    """
    if peer.own_networks:
        missing = [path for network in found.task.networks if not (path := Path("weights") / network.file).exists()]
        if missing:
            cure = f"python -m training {found.task.name} makes it"
            raise PeerFailed(f"{missing[0]}, the network in its framework, is missing: {cure}.")
    python = await installed(peer)
    free = psutil.virtual_memory().available / 2**30
    if free < MEMORY_NEEDED_GIB:
        raise PeerFailed(f"Only {free:.1f} GiB of memory are free, and it may need {MEMORY_NEEDED_GIB} GiB.")
    running = Running(peer, python, found.task, variant.repository, variant.hardware)
    stack.callback(running.stop)
    running.start()
    try:
        connect, expected = await _checked(running, variant, found)
    except BaseException:
        running.stop()
        raise
    running.pause()
    return Contender(peer.name, variant.precision, connect, expected, running.awake, running.memory_mib)


async def _checked(
    running: Running, variant: Variant, found: Target
) -> tuple[Callable[[], AbstractAsyncContextManager[Way]], Sequence[str]]:
    task, port, at_once = found.task, running.port, len(os.sched_getaffinity(0))
    if running.peer.own_networks:
        async with Json(task, port) as flask:
            await running.ready(lambda: flask.ask(found.pictures[0]))
            labels = await _nearly(flask, Pipeline(task, variant.repository, variant.hardware), found.pictures)
        return lambda: Json(task, port), labels
    kind: type[Http] | type[V2] = V2 if running.peer.speaks == "v2" else Http
    async with kind(task, port) as way:
        await running.ready(lambda: way.ask(found.pictures[0]))
        await closed_loop(way.ask, found.pictures, variant.expected, at_once, len(found.pictures))
    return lambda: kind(task, port), variant.expected


async def _nearly(flask: Json, pipeline: Pipeline, pictures: Sequence[bytes]) -> list[str]:
    """The label of every picture, when label and masks agree with the fp32 graphs'.

    Raises:
        PeerFailed: they do not.
    """
    labels = []
    for place, picture in enumerate(pictures):
        tensors: dict[str, Any] = pipeline.answer([picture])
        label = pipeline.task.labels[int(tensors["probabilities"][0].argmax())]
        answered = await flask.ask(picture)
        if answered != label:
            raise PeerFailed(f"It answers picture {place} with {answered}, the fp32 graphs with {label}.")
        for name, mask in (await flask.masks(picture)).items():
            share = agreement(mask, tensors[name][0, ..., 0])
            if share < MASK_AGREES:
                raise PeerFailed(f"Its {name} of picture {place} agree in {share:.1%} of the pixels only.")
        labels.append(label)
    return labels
