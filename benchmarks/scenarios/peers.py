"""peers: the same networks behind FastAPI, LitServe, BentoML, MLServer, Ray Serve and Flask, in the same rounds."""

import argparse
import asyncio
import os
import signal
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from rich.console import Group

from benchmarks import progress, target
from benchmarks.load import closed_loop
from benchmarks.peers import catalogue, fleet, verdict
from benchmarks.peers.clients import MASK_AGREES
from benchmarks.peers.fleet import Contender, Variant, Way
from benchmarks.results import Record, Result
from benchmarks.target import Target
from fovea.errors import FoveaError, RequestError, UsageError
from fovea.spec import Task

CONCURRENCIES = [1, 2, 4, 8]
WARM_UP = 8
WAKING_S = 10
CPUS = ("cpu", "openvino")
NAMES = sorted({peer.environment for peer in catalogue.PEERS})


def arguments(parser: argparse.ArgumentParser) -> None:
    target.arguments(parser)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (5)")
    parser.add_argument("--requests", type=int, default=64, help="requests a contender, concurrency and round (64)")
    parser.add_argument(
        "--concurrency", type=int, nargs="+", default=CONCURRENCIES, metavar="N", help="requests in flight (1 2 4 8)"
    )
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="these peers (all)")


async def measure(task: Task, options: argparse.Namespace) -> Path:
    """Every contender at every concurrency, `rounds` times in rotating order; a peer that fails is reported so."""
    if min(options.rounds, options.requests, *options.concurrency) < 1:
        raise UsageError("--rounds, --requests and --concurrency must be at least 1.")
    # Ended otherwise, this process would leave everything to the peers' keepers.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, os.kill, os.getpid(), signal.SIGINT)
    peers = [peer for peer in catalogue.PEERS if peer.environment in options.only]
    async with target.opened(task, options) as found, AsyncExitStack() as stack:
        if found.hardware not in CPUS:
            raise UsageError(
                f"The peers have engines for CPUs, and {found.hardware} would be served: say --hardware cpu."
            )
        variants = await fleet.variants(found, stack)
        contenders = [contender for variant in variants for contender in fleet.ours(found, variant, stack)]
        settings = found.settings() | {
            "warm_up_requests": WARM_UP,
            "requests_per_round": options.requests,
            "rounds": options.rounds,
            "load": "closed loop; client and server share the cores; peers that are not measured stand still",
            "fp32": "model.onnx of every network, on ONNX Runtime",
            "flask": f"label as of the fp32 graphs, and masks of every picture in {MASK_AGREES:.0%} of their pixels",
        }
        with Record(options.results, "peers", task.name, settings, found.environment()) as record:
            record.result["peers"] = []
            contenders += await _join(peers, variants, found, stack, record)
            await _rounds(found, contenders, options, record)
        return record.path


async def _join(
    peers: Sequence[catalogue.Peer], variants: Sequence[Variant], found: Target, stack: AsyncExitStack, record: Record
) -> list[Contender]:
    """Those that could be installed and started, and answer rightly; why the others do not is in the record."""
    entries = [
        (peer, variant)
        for peer in peers
        for variant in variants
        if variant.precision == "fp32" or not peer.own_networks
    ]
    joined = []
    with progress.bar(len(entries)) as bar:
        for peer, variant in entries:
            bar.now(f"{found.task.name}: {peer.name}, {variant.precision} (installed on first use)")
            note: Result = {
                "contender": peer.name,
                "precision": variant.precision,
                "versions": peer.versions(),
                "reason": None,
            }
            record.result["peers"].append(note)
            try:
                joined.append(await fleet.join(peer, variant, found, stack))
            except FoveaError as error:
                _report(note, error)
            bar.advance()
    return joined


async def _rounds(found: Target, contenders: Sequence[Contender], options: argparse.Namespace, record: Record) -> None:
    notes = {(note["contender"], note["precision"]): note for note in record.result["peers"]}
    with progress.bar(options.rounds * len(options.concurrency) * len(contenders)) as bar:
        for turn in range(options.rounds):
            first = turn % len(contenders)
            for concurrency in options.concurrency:
                # Rotated, so that none is always first after a pause or last when the machine is warm.
                for contender in (*contenders[first:], *contenders[:first]):
                    bar.now(f"{found.task.name}: {contender.name}, {contender.precision} × {concurrency}")
                    note = notes.get(contender.key)
                    if note is None:
                        record.add(await _run(found, contender, concurrency, turn, options.requests))
                    elif note["reason"] is None:
                        try:
                            record.add(await _run(found, contender, concurrency, turn, options.requests))
                        except FoveaError as error:
                            _report(note, error)
                    bar.advance()


def _report(note: Result, error: FoveaError) -> None:
    note["reason"] = str(error)
    progress.MESSAGES.print(f"{note['contender']}, {note['precision']}, is not measured. {error}", markup=False)


async def _run(found: Target, contender: Contender, concurrency: int, turn: int, requests: int) -> Result:
    pictures, expected = found.pictures, contender.expected
    with contender.awake():
        async with contender.connect() as way:
            await _woken(way, pictures[0])
            await closed_loop(way.ask, pictures, expected, concurrency, WARM_UP)
            seconds, latencies = await closed_loop(way.ask, pictures, expected, concurrency, requests)
        memory = None if contender.memory is None else round(contender.memory())
    return {
        "contender": contender.name,
        "precision": contender.precision,
        "concurrency": concurrency,
        "round": turn,
        "seconds": round(seconds, 6),
        "latencies_ms": [round(x, 3) for x in latencies],
        "memory_mib": memory,
    }


async def _woken(way: Way, picture: bytes) -> None:
    """Wait until it answers: a load balancer that stood still takes its first connection for one that is overdue."""
    deadline = time.monotonic() + WAKING_S
    while True:
        try:
            await way.ask(picture)
            return
        except RequestError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)


def table(results: Sequence[Result]) -> Group:
    """Every contender, how ours compares with the goals, and who is missing."""
    return Group(*(part for result in results for part in verdict.shown(result)))
