"""What is measured: a server and the same pipeline in process, pictures, and the answers that must come."""

import argparse
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import environment, progress
from benchmarks.contenders import Ask, InProcess, Served
from benchmarks.load import WrongAnswer, closed_loop
from fovea import phantoms
from fovea.errors import UsageError
from fovea.hardware import choose
from fovea.repository import HARDWARE, Hardware, fused_name, graph_path, hint, models
from fovea.server import Server
from fovea.spec import Task
from fovea.tasks import TASKS

PICTURES = 32
"""Distinct ones: fewer would let caches, and a lucky picture, into the figures."""


@dataclass(frozen=True)
class Target:
    """One task on one server.

    Attributes:
        server: the server that was started for this, or None where `--url` named one.
        limit: the same pipeline in this process; what a server can reach at most.
        expected: digest of every picture's answer, from `limit`.
    """

    task: Task
    repository: Path
    hardware: Hardware
    server: Server | None
    grpc_url: str
    http_url: str
    fused: bool
    limit: InProcess
    pictures: list[bytes]
    expected: list[str]

    def settings(self) -> dict[str, Any]:
        """What every scenario records of what it measured."""
        kind = {"png": "PNG", "jpg": "JPEG"}[phantoms.suffix(self.task.modalities[0])]
        return {
            "pictures": f"{len(self.pictures)} distinct phantoms, seeds 0 to {len(self.pictures) - 1}, {kind}",
            "hardware": self.hardware,
            "graphs": {
                network.name: [
                    graph_path(self.repository, network, self.hardware).name,
                    hint(self.repository, network, self.hardware),
                ]
                for network in self.task.networks
            },
            "answers": "every answer compared bit for bit with the in-process one",
        }

    async def ways(self, stack: AsyncExitStack, timeout_s: float = 60) -> dict[str, Ask]:
        """Every way to get an answer, the limit first; the connections last as long as `stack`."""
        return {name: each.ask for name, each in (await self.contenders(stack, timeout_s)).items()}

    async def contenders(self, stack: AsyncExitStack, timeout_s: float = 60) -> dict[str, InProcess | Served]:
        """Who answers, by the name of the way."""
        served = {"gRPC": Served(self.task, self.grpc_url, timeout_s)}
        if self.http_url:
            served["HTTP"] = Served(self.task, self.http_url, timeout_s)
        if self.fused:
            served["gRPC, fused"] = Served(replace(self.task, name=fused_name(self.task)), self.grpc_url, timeout_s)
        for each in served.values():
            await stack.enter_async_context(each)
        return {"in process": self.limit, **served}

    def models(self, way: str) -> tuple[str, ...]:
        """The server's models that a way goes through; none in process."""
        return {"in process": (), "gRPC, fused": (fused_name(self.task),)}.get(way, models(self.task))

    async def warm_up(self, ask: Ask) -> None:
        """One answer to every picture, two at a time, so that nothing is measured that answers something else.

        Raises:
            WrongAnswer: it does.
        """
        try:
            await closed_loop(ask, self.pictures, self.expected, 2, len(self.pictures))
        except WrongAnswer:
            raise WrongAnswer(
                f"The server at {self.grpc_url} answers {self.task.name} otherwise than {self.repository} does in this "
                f"process (configs/{self.hardware}.pbtxt): it serves another release or precision; name what it serves "
                "with --repository and --hardware."
            ) from None

    def environment(self) -> dict[str, Any]:
        return environment.describe(self.repository, self.task, self.hardware)


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every scenario that loads a server."""
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"which of {', '.join(TASKS)} (all)")
    parser.add_argument(
        "--repository", type=Path, default=Path("model_repository"), help="what is served, and compared"
    )
    parser.add_argument("--hardware", choices=("auto", *HARDWARE), default="auto", help="configs to serve with (auto)")
    parser.add_argument("--url", help="measure a server that is running: grpc://host:port (default: one is started)")


def pictures(task: Task) -> list[bytes]:
    """Encoded phantoms of the task's kind, `PICTURES` different ones, the same every time."""
    return [phantoms.encoded(task.modalities[0], seed) for seed in range(PICTURES)]


@asynccontextmanager
async def opened(task: Task, options: argparse.Namespace) -> AsyncIterator[Target]:
    """A server of the task (or the one of `--url`), and the answers it must give.

    Raises:
        ServerError: the server cannot start.
    """
    repository, url = options.repository, options.url
    if url and not url.startswith("grpc://"):
        raise UsageError(f"--url is {url}: name the server's gRPC port, as grpc://host:8001.")
    if len(os.sched_getaffinity(0)) == 1:
        progress.MESSAGES.print(
            "This machine has one core for client and server: what the client computes is in every latency, and no "
            "concurrency can raise the throughput. Two cores or more tell the server's own figures."
        )
    fused = not url and (repository / fused_name(task)).is_dir()
    server = None if url else Server(repository, [task.name], hardware=options.hardware, fused=fused)
    with server or nullcontext():
        if server is not None:
            hardware = server.hardware
        elif options.hardware == "auto":
            hardware, _ = choose([repository / network.name for network in task.networks])
        else:
            hardware = options.hardware
        given = pictures(task)
        async with InProcess(task, repository, hardware) as limit:
            expected = [await limit.ask(picture) for picture in given]
            yield Target(
                task=task,
                repository=repository,
                hardware=hardware,
                server=server,
                grpc_url=url or server.grpc_url,  # type: ignore[union-attr]
                http_url="" if server is None else server.http_url,
                fused=fused,
                limit=limit,
                pictures=given,
                expected=expected,
            )
