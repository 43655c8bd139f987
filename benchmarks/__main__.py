"""`python -m benchmarks SCENARIO [TASK…]`: load a server, check every answer, keep every sample."""

import argparse
import asyncio
import json
import sys
from pathlib import Path
from types import ModuleType

from rich.console import Console

from benchmarks import progress, report, results
from benchmarks.scenarios import multi, peers
from fovea import program
from fovea.tasks import TASKS, task_named

SCENARIOS: dict[str, ModuleType] = {"multi": multi, "peers": peers}
"""Name → module with `arguments(parser)`, `async measure(task, options) -> Path` and `table(results)`."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="scenario", metavar="SCENARIO", required=True)
    for name, module in SCENARIOS.items():
        about = (module.__doc__ or "").splitlines()[0].removeprefix(f"{name}: ")
        command = commands.add_parser(name, help=about, description=about)
        module.arguments(command)
        command.add_argument(
            "--results", type=Path, default=results.FOLDER, metavar="DIR", help="where results are kept"
        )
        command.add_argument("--json", action="store_true", help="print the results, not their table")
        command.set_defaults(run=measure)
    made = commands.add_parser("report", help="remake the README's table and plot from the results")
    made.set_defaults(run=lambda options: report.write(results.FOLDER, Path("README.md")))
    options = parser.parse_args()
    return program.run(lambda: options.run(options), "Stopped; what was measured so far is kept as *.unfinished.json.")


def measure(options: argparse.Namespace) -> int:
    """Measure the tasks one by one; each result is on disk before the next begins."""
    module = SCENARIOS[options.scenario]
    found = []
    for name in options.tasks or TASKS:
        path = asyncio.run(module.measure(task_named(name), options))
        progress.MESSAGES.print(f"Wrote {path}.")
        found.append(results.read(path))
    if options.json:
        print(json.dumps(found))
    else:
        Console().print(module.table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
