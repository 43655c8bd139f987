"""`python -m benchmarks SCENARIO [TASK…]`: load a server, check every answer, keep every sample."""

import argparse
import asyncio
import json
import selectors
import sys
from pathlib import Path

from rich.console import Console

from benchmarks import compare, progress, report, results
from benchmarks.scenarios import SCENARIOS
from fovea import program
from fovea.tasks import TASKS, task_named


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
    beside = commands.add_parser("compare", help="two results side by side", description=compare.__doc__)
    compare.arguments(beside)
    beside.set_defaults(run=compare.run)
    made = commands.add_parser("report", help="remake README, docs/capacity.md, plots and out/report.html")
    made.set_defaults(run=lambda options: report.write())
    options = parser.parse_args()
    return program.run(lambda: options.run(options), "Stopped; what was measured so far is kept as *.unfinished.json.")


def measure(options: argparse.Namespace) -> int:
    """Measure the tasks one by one; each result is on disk before the next begins. A goal that is not met is code 1."""
    module = SCENARIOS[options.scenario]
    found = []
    for name in options.tasks or TASKS:
        # select() wakes to the microsecond; epoll, asyncio's own choice, up to a millisecond late.
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
            path = runner.run(module.measure(task_named(name), options))
        progress.MESSAGES.print(f"Wrote {path}.")
        found.append(results.read(path))
    if options.json:
        print(json.dumps(found))
    else:
        # A pipe has no width: lines are as long as they must be.
        Console(width=None if sys.stdout.isatty() else 160).print(module.table(found))
    failed = [sentence for result in found for sentence in result.get("failed", [])]
    for sentence in failed:
        progress.MESSAGES.print(sentence, markup=False)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
