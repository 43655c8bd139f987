"""`--precision` over a whole task: networks in order, each judged on what the networks chosen before it show it."""

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import onnx
from rich.table import Table

from export import precision
from export.evidence import Evidence, Stack
from export.precision import KEEPS, Ladder, Row
from fovea import engines
from fovea.repository import Choice, Hardware
from fovea.spec import Network, Task

Wanted = Literal["fp32", "fp16", "int8", "auto"]
FP32 = Choice()


def climb(
    task: Task,
    models: Mapping[str, onnx.ModelProto],
    wanted: Wanted,
    evidence: Evidence,
    tell: Callable[[str], None],
    barred: frozenset[tuple[str, Hardware]] = frozenset(),
) -> dict[str, Ladder]:
    """The ladder of every network of the task; (network, hardware) pairs in `barred` stay fp32.

    A mask may keep its Dice in a lower precision and the next network, shown that mask, yet lose its own metric: then
    all is measured again with that mask made in fp32.

    Raises:
        ExportError: the precision that was asked for does not hold.
    """
    ladders: dict[str, Ladder] = {}
    for network in task.networks:
        before = next((n for n in task.networks if network.reads in {mask.name for mask in n.masks}), None)
        pictures = evidence.marked if network.masks else evidence.labelled
        seen = dict.fromkeys(engines.available(), pictures)
        plain, calibration = pictures, evidence.calibration
        if before is not None:
            tell(f"{network.name}: making the masks that it reads")
            graph = models[before.name]
            plain = _masks(before, network.reads, graph, "cpu", FP32, pictures)
            calibration = _masks(before, network.reads, graph, "cpu", FP32, calibration)
            for hardware, choice in ladders[before.name].choices.items():
                graph = ladders[before.name].graphs.get(choice.graph, models[before.name])
                seen[hardware] = _masks(before, network.reads, graph, hardware, choice, pictures)
        ladders[network.name] = precision.climb(
            network,
            models[network.name],
            wanted,
            precision.Bench(network, evidence, seen, plain),
            calibration,
            [hardware for name, hardware in barred if name == network.name],
            lambda what, name=network.name: tell(f"{name}: {what}"),  # type: ignore[misc]
        )
        spoiled = before and [
            (before.name, row.hardware)
            for row in ladders[network.name].rows
            if row.precision == "fp32" and row.share < least(ladders[before.name], row.hardware)
        ]
        if spoiled:
            return climb(task, models, wanted, evidence, tell, barred | frozenset(spoiled))
    return ladders


def least(ladder: Ladder, hardware: Hardware) -> float:
    """The share that a network must keep when shown what `ladder`'s network answers; 0 where that is fp32 itself."""
    kept = next(row for row in ladder.rows if row.hardware == hardware and row.verdict == "kept")
    return KEEPS.get(kept.precision, 0.0)


def _masks(
    network: Network, mask: str, model: onnx.ModelProto, hardware: Hardware, choice: Choice, pictures: Stack
) -> Stack:
    run = engines.engine(hardware, model.SerializeToString(), choice.hint, network.reads)
    return np.concatenate([run(picture[None])[mask] for picture in pictures]).astype(np.uint8)


def table(rows: list[Row]) -> Table:
    """For the console, one line per candidate and hardware."""
    drawn = Table(title="precision, one picture on one thread", box=None, title_justify="left", pad_edge=False)
    for name in ("network", "hardware", "precision", "metric"):
        drawn.add_column(name)
    for name in ("value", "of fp32", "agrees", "ms", "speed"):
        drawn.add_column(name, justify="right")
    drawn.add_column("")
    for row in rows:
        measured = np.isfinite(row.latency_ms)
        drawn.add_row(
            row.network,
            row.hardware,
            row.title,
            f"{row.metric} of {row.pictures}",
            f"{row.value:.4f}",
            f"{row.share:.4f}",
            f"{row.agrees:.4f}",
            f"{row.latency_ms:.1f}" if measured else "",
            f"{row.speed:.2f} ×" if measured else "",
            f"[bold]{row.verdict}[/bold]" if row.verdict == "kept" else row.verdict,
        )
    return drawn
