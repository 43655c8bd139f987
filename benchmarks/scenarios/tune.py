"""tune: find the instances, threads, batching, engine and precision that are fastest within a bound on p99."""

import argparse
import os
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from rich.console import Group

from benchmarks import environment, progress, tables, target, variants
from benchmarks.contenders import Ask, InProcess, Served
from benchmarks.load import closed_loop
from benchmarks.results import Record, Result, samples
from benchmarks.statistics import percentile, verdict
from benchmarks.variants import Variant
from fovea.errors import FoveaError, UsageError
from fovea.hardware import choose
from fovea.server import Server
from fovea.spec import Task

WARM_UP = 16
SCREEN, FULL = 48, 160
"""Requests a round and concurrency: to choose whom to look at, and to speak of p99 (459 in all rounds at least)."""
ROUNDS = 3
FINALISTS = 3
DELAYS_US = (0, 2000)
GAIN = 1.05
"""Times the images per second of what is configured already, in the median of rounds: less is not worth a change."""
LINES = ("variant", "instances", "threads", "delay_us")


class NothingMeets(FoveaError):
    """No candidate's p99 is within the bound."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tasks", nargs="+", metavar="TASK", help="what to tune")
    parser.add_argument("--slo-ms", type=float, default=200, metavar="MS", help="bound on p99, in ms (200)")
    parser.add_argument("--repository", type=Path, default=Path("model_repository"), help="whose configs are written")


async def measure(task: Task, options: argparse.Namespace) -> Path:
    """Screen every candidate briefly, look at the best for as long as p99 needs, write the fastest within the bound.

    Only precisions that export's guard let pass are candidates: they are what the committed configs name, beside fp32.

    Raises:
        NothingMeets: no candidate is within the bound; no config is changed.
    """
    if options.slo_ms <= 0:
        raise UsageError(f"--slo-ms is {options.slo_ms:g}: a bound in milliseconds above 0 was expected.")
    cores = len(os.sched_getaffinity(0))
    concurrencies = sorted({1, cores, 2 * cores, 4 * cores})
    settings = {
        "slo_ms": options.slo_ms,
        "requests_per_round": FULL,
        "rounds": ROUNDS,
        "concurrency": concurrencies,
        "pictures": f"{target.PICTURES} distinct phantoms",
        "warm_up_requests": WARM_UP,
        "hardware": "as named in each run",
        "load": "closed loop; client and server share the cores",
        "answers": "every answer compared bit for bit with the in-process one",
    }
    described = environment.describe(options.repository, task, "cpu")
    with (
        tempfile.TemporaryDirectory(prefix="fovea-tune-") as place,
        Record(options.results, "tune", task.name, settings, described) as record,
    ):
        trial = Trial(task, options.repository, Path(place), record, concurrencies)
        engines = candidates(task, options.repository, cores)
        plain = [layout for engine in engines for layout in layouts(engine, cores)]
        await trial.screen(plain)
        batched = [replace(variant, delay_us=delay) for variant in trial.best(plain, 1) for delay in DELAYS_US]
        await trial.screen(batched)
        hardware, _ = choose([options.repository / network.name for network in task.networks])
        present = next(v for v in plain if v.hardware == hardware and _is_present(v, task, options.repository))
        best = [variant for variant in trial.best([*plain, *batched], FINALISTS) if variant != present]
        await trial.look_at([present, *best])
        record.result["present"] = list(key(present))
        winner = chosen(record.result)
        if winner is None:
            raise NothingMeets(
                f"No way to serve {task.name} on this machine keeps p99 within {options.slo_ms:g} ms: the configs are "
                "unchanged; allow more with --slo-ms, take a faster machine, or a lower precision (python -m export)."
            )
        variant = next(v for v in [*plain, *batched] if key(v) == winner.key)
        record.result["changed"] = _write(variants.files(variant, task), options.repository)
    return record.path


def candidates(task: Task, repository: Path, cores: int) -> list[Variant]:
    """Each engine in fp32, and as export's guard chose for it."""
    fp32 = [variant for variant in variants.engines(task, repository, cores) if variant.name.endswith("fp32")]
    guarded = [variants.committed(task, repository, variant.hardware, cores) for variant in fp32]
    return fp32 + [own for own, plain in zip(guarded, fp32, strict=True) if own.choices != plain.choices]


def layouts(variant: Variant, cores: int) -> list[Variant]:
    """All ways to split the cores evenly into instances and threads."""
    divisors = [count for count in range(1, cores + 1) if cores % count == 0]
    return [replace(variant, instances=count, threads=cores // count) for count in divisors]


def _is_present(variant: Variant, task: Task, repository: Path) -> bool:
    """Whether the configs say so already: chosen by export for this hardware, an instance a core."""
    own = variants.committed(task, repository, variant.hardware, variant.instances)
    return variant.threads == 1 and variant.choices == own.choices


def key(variant: Variant) -> tuple[object, ...]:
    return variant.name, variant.instances, variant.threads, variant.delay_us


class Trial:
    """Serves candidates and records what they do."""

    def __init__(self, task: Task, repository: Path, place: Path, record: Record, concurrencies: Sequence[int]) -> None:
        self.task, self.repository, self.place, self.record = task, repository, place, record
        self.concurrencies = concurrencies
        self.pictures = target.pictures(task)
        self.expected: dict[tuple[object, ...], list[str]] = {}

    async def screen(self, among: Sequence[Variant]) -> None:
        """Each by itself, briefly, alone and under load."""
        with progress.bar(len(among)) as bar:
            for variant in among:
                bar.now(f"{self.task.name}: {variant.name}, {variant.instances} × {variant.threads}")
                async with self._served(variant) as ask:
                    for concurrency in (self.concurrencies[0], self.concurrencies[-1]):
                        await self._run("screened", 0, variant, ask, concurrency, SCREEN)
                bar.advance()

    async def look_at(self, finalists: Sequence[Variant]) -> None:
        """All served at once and asked in turn, so that what else the machine does meets all of them."""
        async with AsyncExitStack() as stack:
            asks = [await stack.enter_async_context(self._served(variant)) for variant in finalists]
            with progress.bar(ROUNDS * len(finalists) * len(self.concurrencies)) as bar:
                for turn in range(ROUNDS):
                    for concurrency in self.concurrencies:
                        for variant, ask in zip(finalists, asks, strict=True):
                            bar.now(f"{self.task.name}: {variant.name}, at length")
                            await self._run("measured", turn, variant, ask, concurrency, FULL)
                            bar.advance()

    async def _run(self, stage: str, turn: int, variant: Variant, ask: Ask, concurrency: int, requests: int) -> None:
        expected = self.expected[variant.hardware, *variant.choices.values()]
        await closed_loop(ask, self.pictures, expected, concurrency, WARM_UP)
        seconds, latencies = await closed_loop(ask, self.pictures, expected, concurrency, requests)
        self.record.add(
            {
                "stage": stage,
                **dict(zip(LINES, key(variant), strict=True)),
                "hardware": variant.hardware,
                "concurrency": concurrency,
                "round": turn,
                "seconds": round(seconds, 6),
                "latencies_ms": [round(x, 3) for x in latencies],
            }
        )

    @asynccontextmanager
    async def _served(self, variant: Variant) -> AsyncIterator[Ask]:
        folder = Path(tempfile.mkdtemp(dir=self.place))
        own = variants.write(variant, self.task, self.repository, folder)
        which = variant.hardware, *variant.choices.values()  # answers depend on engine and precision only
        if which not in self.expected:
            async with InProcess(self.task, own, variant.hardware) as limit:
                self.expected[which] = [await limit.ask(picture) for picture in self.pictures]
        with Server(own, [self.task.name], hardware=variant.hardware) as server:
            async with Served(self.task, server.grpc_url) as served:
                yield served.ask

    def best(self, among: Sequence[Variant], count: int) -> list[Variant]:
        """By images per second when screened, at the concurrency that suits each."""
        rates = {key(variant): 0.0 for variant in among}
        for run in self.record.result["runs"]:
            which = tuple(run[line] for line in LINES)
            if which in rates:
                rates[which] = max(rates[which], _rate(run))
        return sorted(among, key=lambda variant: -rates[key(variant)])[:count]


def _rate(run: Result) -> float:
    return float(len(run["latencies_ms"]) / run["seconds"])


@dataclass(frozen=True)
class Point:
    """One candidate at one concurrency, all rounds; `bound` says whether p99 is within it, with 99 % confidence."""

    key: tuple[object, ...]
    hardware: str
    concurrency: int
    images_per_s: float
    latencies_ms: tuple[float, ...]
    bound: str

    @property
    def p99_ms(self) -> float:
        return percentile(self.latencies_ms, 99) or float("inf")


def points(result: Result) -> list[Point]:
    """What was measured at length, fastest first."""
    grouped: dict[tuple[tuple[object, ...], int], list[Result]] = {}
    for run in result["runs"]:
        if run["stage"] == "measured":
            grouped.setdefault((tuple(run[line] for line in LINES), run["concurrency"]), []).append(run)
    found, slo_ms = [], result["settings"]["slo_ms"]
    for (which, concurrency), runs in grouped.items():
        latencies = samples(runs)
        bound = verdict(sum(latency > slo_ms for latency in latencies), len(latencies))
        rate = median(_rate(run) for run in runs)
        found.append(Point(which, runs[0]["hardware"], concurrency, rate, tuple(latencies), bound))
    return sorted(found, key=lambda point: -point.images_per_s)


def chosen(result: Result) -> Point | None:
    """The most images per second within the bound; what is configured already, unless that is `GAIN` times slower."""
    met = [point for point in points(result) if point.bound == "met"]
    present = next((point for point in met if point.key == tuple(result["present"])), None)
    if present is not None and met[0].images_per_s < GAIN * present.images_per_s:
        return present
    return met[0] if met else None


def front(result: Result) -> list[Point]:
    """The points that no other one beats in both throughput and p99, slowest first."""
    every = points(result)
    return [
        point
        for point in reversed(every)
        if not any(each.images_per_s > point.images_per_s and each.p99_ms < point.p99_ms for each in every)
    ]


def _write(files: dict[str, str], repository: Path) -> list[str]:
    """Write the configs that differ, each at once; their names."""
    changed = [name for name, text in files.items() if (repository / name).read_text(encoding="utf-8") != text]
    for name in changed:
        fresh = (repository / name).with_suffix(".tuned")
        fresh.write_text(files[name], encoding="utf-8")
        fresh.replace(repository / name)
    return changed


HEAD = (
    "task",
    "served",
    "layout",
    "batch within",
    "in flight",
    "images/s",
    "p50 ms",
    "p99 ms",
    "requests",
    "bound",
    "",
)


def table(results: Sequence[Result]) -> Group:
    """What was measured at length, fastest first, and in the end what was chosen."""
    return Group(*(part for result in results for part in (tables.table(HEAD, rows(result), WORDS), sentence(result))))


WORDS = ("served", "layout", "batch within", "bound", "")


def rows(result: Result) -> list[tuple[str, ...]]:
    best, edge = chosen(result), front(result)
    found: list[tuple[str, ...]] = []
    for point in points(result):
        name, instances, threads, delay_us = point.key
        marks = ", ".join(["chosen"] * (point == best) + ["front"] * (point in edge))
        delay = "–" if delay_us is None else f"{delay_us} µs"
        p50, p99 = (tables.number(percentile(point.latencies_ms, p)) for p in (50, 99))
        words = (result["task"], str(name), f"{instances} × {threads}", delay, str(point.concurrency))
        found.append((*words, f"{point.images_per_s:.1f}", p50, p99, str(len(point.latencies_ms)), point.bound, marks))
    return found


def sentence(result: Result) -> str:
    best = chosen(result)
    if best is None:
        return f"Nothing keeps p99 within {result['settings']['slo_ms']:g} ms."
    name, instances, threads, _ = best.key
    did = f"wrote {', '.join(result['changed'])}" if result.get("changed") else "the configs say so already"
    return (
        f"{result['task']}, p99 within {result['settings']['slo_ms']:g} ms: {name}, {instances} instances × {threads} "
        f"threads, {best.images_per_s:.1f} images/s with {best.concurrency} in flight; {did}. "
        f"Serve it with HARDWARE={best.hardware}."
    )
