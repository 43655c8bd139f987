"""One training run: where its files go, what it was trained on, and how files are written whole or not at all."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from fovea.errors import TrainingError
from training.datasets import LICENCES
from training.splits import Entry


@dataclass(frozen=True)
class Run:
    """`folder` holds checkpoints, history, plots and the manifest; `weights` receives the finished networks."""

    folder: Path
    weights: Path
    seed: int
    entries: tuple[Entry, ...]
    manifest_sha256: str

    def describe(self, entries: Iterable[Entry]) -> dict[str, Any]:
        """Data sets, licences and photographs per split of `entries`: what a network was trained on, for its card."""
        counts = Counter((entry.sample.dataset, entry.split) for entry in entries)
        return {
            "manifest_sha256": self.manifest_sha256,
            "sets": {
                name: {"licence": LICENCES.get(name, "not stated")}
                | {split: counts[name, split] for split in ("train", "validation", "test")}
                for name in sorted({name for name, _ in counts})
            },
        }

    def replace(self, path: Path, write: Callable[[Path], object]) -> None:
        """Let `write` fill a file beside `path`, then move it there: a reader sees the old file or the new one."""
        part = path.with_name(f".{path.stem}.part{path.suffix}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(part)
            os.replace(part, path)
        except OSError as error:
            raise TrainingError(
                f"{path} could not be written ({error.strerror or error}): free some room, then resume."
            ) from None
        finally:
            with suppress(OSError):
                part.unlink()

    def write_json(self, path: Path, value: object) -> None:
        self.replace(path, lambda part: part.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8"))

    def plot_history(self, name: str, history: Sequence[dict[str, float]], x: str, score: str) -> None:
        """Loss and validation score against `x`, as `<folder>/<name>.history.png`."""
        figure = Figure(figsize=(7, 4), layout="constrained")
        left = figure.subplots()
        steps = [row[x] for row in history]
        left.plot(steps, [row["loss"] for row in history], color="tab:blue", label="training loss")
        left.set(xlabel=x, ylabel="training loss", title=name, yscale="log")
        right = left.twinx()
        right.plot(steps, [row[score] for row in history], color="tab:orange", label=score.replace("_", " "))
        right.set(ylabel=score.replace("_", " "))
        figure.legend(loc="outside lower center", ncols=2)
        self.replace(self.folder / f"{name}.history.png", figure.savefig)
