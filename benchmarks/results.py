"""Results on disk: one JSON file a scenario and task, with every raw sample, kept from the first run on."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks import progress
from fovea.errors import FoveaError, UsageError

SCHEMA = 2
FOLDER = Path("benchmarks/results")

Result = dict[str, Any]
"""schema, scenario, task, date, settings, environment, runs (the raw samples), stopped (why it is not complete)."""


class Record:
    """A result that grows run by run, and is on disk after each: what ends a measurement costs only its last run.

    A result is there under its own name only when complete; until then, and if it never is, it is
    `<task>.unfinished.json`, with the reason. `with Record(…) as record:` → `record.add(run)`.
    """

    def __init__(
        self, folder: Path, scenario: str, task: str, settings: Mapping[str, Any], environment: Mapping[str, Any]
    ) -> None:
        self.path = folder / scenario / f"{task}.json"
        self.unfinished = self.path.with_suffix(".unfinished.json")
        self.result: Result = {
            "schema": SCHEMA,
            "scenario": scenario,
            "task": task,
            "date": time.strftime("%Y-%m-%d"),
            "settings": dict(settings),
            "environment": dict(environment),
            "runs": [],
        }

    def add(self, run: Mapping[str, Any]) -> None:
        self.result["runs"].append(dict(run))
        self._write()

    def __enter__(self) -> Self:
        self._write()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._write()
            self.unfinished.replace(self.path)
            return
        self.result["stopped"] = str(error) if isinstance(error, FoveaError) else type(error).__name__
        if self.result["runs"]:
            self._write()
            progress.MESSAGES.print(f"What was measured until then is kept in {self.unfinished}.", markup=False)
        else:
            self.unfinished.unlink(missing_ok=True)

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.unfinished.with_suffix(f".{os.getpid()}")
        fresh.write_text(_json(self.result), encoding="utf-8")
        fresh.replace(self.unfinished)


def _json(result: Result) -> str:
    """Indented where people read, one line a run: a list of a thousand latencies is not a thousand lines."""
    runs = ",\n".join("  " + json.dumps(run) for run in result["runs"])
    rest = json.dumps({**result, "runs": []}, indent=1)
    return rest.replace('"runs": []', f'"runs": [\n{runs}\n ]' if runs else '"runs": []') + "\n"


def load(folder: Path, scenario: str) -> list[Result]:
    """Every complete result of a scenario, in order of task name.

    Raises:
        UsageError: there is none, or one that cannot be read or is of another schema.
    """
    paths = sorted(path for path in (folder / scenario).glob("*.json") if ".unfinished" not in path.name)
    if not paths:
        raise UsageError(f"{folder / scenario} holds no results: run python -m benchmarks {scenario}.")
    return [read(path) for path in paths]


def read(path: Path) -> Result:
    """One result.

    Raises:
        UsageError: it is missing, cut short, something else, or of another schema.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): name a result of python -m benchmarks.") from None
    except ValueError:
        raise UsageError(
            f"{path} is no result of python -m benchmarks, or only a part of one: measure again."
        ) from None
    schema = result.get("schema") if isinstance(result, dict) else None
    if schema != SCHEMA:
        raise UsageError(f"{path} is of schema {schema}, not {SCHEMA}: measure again.")
    return dict(result)


def samples(runs: Sequence[Mapping[str, Any]]) -> list[float]:
    """All latencies of several runs, in ms."""
    return [latency for run in runs for latency in run["latencies_ms"]]
