"""coldstart: from the start of the process to the first correct answer, one task alone and all together."""

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

import psutil
from rich.table import Table

from benchmarks import environment, progress, tables
from benchmarks.contenders import InProcess, Served
from benchmarks.load import WrongAnswer
from benchmarks.results import Record, Result
from benchmarks.target import arguments as target_arguments
from fovea import phantoms
from fovea.errors import ServerError, UsageError
from fovea.hardware import choose
from fovea.launch import ADDRESS, free_port
from fovea.repository import Hardware
from fovea.spec import Task
from fovea.tasks import TASKS

GOALS_S = {"alone": 3.0, "all tasks": 6.0}
TIMEOUT_S = 120.0


def arguments(parser: argparse.ArgumentParser) -> None:
    target_arguments(parser)
    parser.add_argument("--rounds", type=int, default=5, help="starts of each kind (5)")


async def measure(task: Task, options: argparse.Namespace) -> Path:
    """Fresh processes, one task and all tasks in turn, after one start of each that only warms the file cache."""
    if options.url:
        raise UsageError("coldstart starts its own servers: leave --url out.")
    if options.rounds < 1:
        raise UsageError("--rounds must be at least 1.")
    kinds = {"alone": [task], "all tasks": list(TASKS.values())}
    hardware = {kind: _hardware(tasks, options) for kind, tasks in kinds.items()}
    expected = {
        (kind, each.name): await _expected(each, options.repository, hardware[kind])
        for kind, tasks in kinds.items()
        for each in tasks
    }
    settings = {
        "hardware": hardware["alone"],
        "rounds": options.rounds,
        "file_cache": "warm: one start of each kind before the first that counts",
        "answers": "the first answer of every task compared bit for bit with the in-process one",
    }
    described = environment.describe(options.repository, task, hardware["alone"])
    with (
        Record(options.results, "coldstart", task.name, settings, described) as record,
        progress.bar((options.rounds + 1) * len(kinds)) as bar,
    ):
        for turn in range(-1, options.rounds):
            for kind, tasks in kinds.items():
                bar.now(f"{task.name}: {kind}")
                wanted = {each.name: expected[kind, each.name] for each in tasks}
                phases = await _start(tasks, options.repository, hardware[kind], wanted)
                if turn >= 0:
                    record.add({"contender": kind, "round": turn, **phases})
                bar.advance()
        record.result["failed"] = failed(record.result)
    return record.path


def _hardware(tasks: Sequence[Task], options: argparse.Namespace) -> Hardware:
    if options.hardware != "auto":
        asked: Hardware = options.hardware
        return asked
    return choose([options.repository / network.name for task in tasks for network in task.networks])[0]


async def _expected(task: Task, repository: Path, hardware: Hardware) -> str:
    async with InProcess(task, repository, hardware) as limit:
        return await limit.ask(phantoms.encoded(task.modalities[0], 0))


async def _start(
    tasks: Sequence[Task], repository: Path, hardware: Hardware, expected: dict[str, str]
) -> dict[str, float]:
    """Seconds from the start of the process until each phase has ended.

    `python_s`: imports, choice of hardware. `models_s`: Triton listens, which it does when every model is loaded.
    `answered_s`: each task has given a correct answer to this client.
    """
    pictures = {task.name: phantoms.encoded(task.modalities[0], 0) for task in tasks}
    grpc_port = free_port()
    options = ["--repository", str(repository), "--hardware", hardware, "--grpc-port", str(grpc_port)]
    options += ["--http-port", str(free_port()), "--metrics-port", str(free_port())]
    started = time.perf_counter()
    async with _process([sys.executable, "-m", "fovea.server", *(task.name for task in tasks), *options]) as process:
        assert process.stderr is not None
        first = await asyncio.wait_for(process.stderr.readline(), TIMEOUT_S)  # "Starting with …", or why it cannot
        python_s = time.perf_counter() - started
        await _listening(process, grpc_port, started + TIMEOUT_S, first)
        models_s = time.perf_counter() - started
        for task in tasks:
            async with Served(task, f"grpc://{ADDRESS}:{grpc_port}") as served:
                if await served.ask(pictures[task.name]) != expected[task.name]:
                    raise WrongAnswer(f"The first answer of {task.name} was another than in this process.")
        answered_s = time.perf_counter() - started
    return {"python_s": round(python_s, 4), "models_s": round(models_s, 4), "answered_s": round(answered_s, 4)}


@asynccontextmanager
async def _process(command: Sequence[str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """A server in a process of its own; at the end it, tritonserver and the Python processes behind that are gone."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            family = psutil.Process(process.pid).children(recursive=True)
            # Not SIGINT: whoever is started in the background of a shell script ignores it.
            process.terminate()
            await asyncio.to_thread(psutil.wait_procs, family, timeout=30)
        await process.communicate()


async def _listening(process: asyncio.subprocess.Process, port: int, deadline: float, first: bytes) -> None:
    while time.perf_counter() < deadline:
        if process.returncode is not None:
            assert process.stderr is not None
            said = (first + await process.stderr.read()).decode(errors="replace").strip()
            raise ServerError(said.splitlines()[-1] if said else "The server ended at its start without a word.")
        try:
            _, writer = await asyncio.open_connection(ADDRESS, port)
        except ConnectionRefusedError:
            await asyncio.sleep(0.005)
            continue
        writer.close()
        return
    raise ServerError(f"The server did not listen after {TIMEOUT_S:.0f} s: see what python -m fovea.server says.")


def failed(result: Result) -> list[str]:
    """A sentence for each kind of start that took too long."""
    sentences = []
    for kind, goal in GOALS_S.items():
        taken = median([run["answered_s"] for run in result["runs"] if run["contender"] == kind])
        if taken > goal:
            sentences.append(
                f"{result['task']}, {kind}: the first correct answer came after {taken:.1f} s (median), "
                f"not within {goal:g} s."
            )
    return sentences


HEAD = ("task", "served", "python s", "models s", "first answer s", "total s", "slowest s", "goal s", "starts")


def table(results: Sequence[Result]) -> Table:
    """Medians of the phases, each counted from the end of the one before, and of the total."""
    rows = []
    for result in results:
        for kind, goal in GOALS_S.items():
            runs = [run for run in result["runs"] if run["contender"] == kind]
            python = median([run["python_s"] for run in runs])
            models = median([run["models_s"] - run["python_s"] for run in runs])
            answer = median([run["answered_s"] - run["models_s"] for run in runs])
            totals = [run["answered_s"] for run in runs]
            times = [f"{value:.2f}" for value in (python, models, answer, median(totals), max(totals), goal)]
            rows.append((result["task"], kind, *times, str(len(runs))))
    return tables.table(HEAD, rows, words=("served",))
