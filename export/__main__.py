"""`python -m export <task>`: trained networks → ONNX, with proven parity, into the model repository.

`python -m export lint [DIR]` checks a Triton repository; `release`, `rollback` and `list` publish what was exported.
"""

import argparse
import logging
import sys
import warnings
from pathlib import Path

from export.place import place
from fovea import program, repository
from fovea.errors import UsageError
from fovea.tasks import TASKS, task_named


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m export", description=__doc__)
    parser.add_argument("task", help=f"one of {', '.join(TASKS)}")
    parser.add_argument("--weights", type=Path, default=Path("weights"), help="where training left them (weights/)")
    parser.add_argument("--reports", type=Path, default=Path("reports"), help="where --evaluate left them (reports/)")
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument(
        "--pictures", type=Path, nargs="*", default=[], metavar="DIR", help="real pictures to measure parity on"
    )
    parser.add_argument(
        "--cores", type=int, default=repository.CORES, help=f"cores to fit the CPU configs to ({repository.CORES})"
    )
    parser.add_argument("--configs", action="store_true", help="write the configs only, for other --cores")
    return parser


def main() -> int:
    if sys.argv[1:2] and sys.argv[1] in ("release", "rollback", "list"):
        from export import releasing  # what serving needs, which a machine that only exports does not have

        return releasing.main()
    options = arguments().parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)  # the exporters' talk to their own developers
    logging.disable(logging.WARNING)
    return program.run(lambda: export(options), "Stopped; nothing was changed.")


def export(options: argparse.Namespace) -> int:
    """Convert, measure, and place all of a task or nothing."""
    task = task_named(options.task)
    if options.cores < 1:
        raise UsageError("--cores must be at least 1.")
    networks: dict[str, bytes] = {}
    points = repository.operating_points(task, options.repository)
    if not options.configs:
        from export.convert import convert  # the frameworks, which a machine that only serves does not have

        networks, points = convert(task, options)
    configs = {name: text.encode() for name, text in repository.files(task, options.cores, points).items()}
    place(options.repository, configs | networks)
    names = ", ".join(repository.models(task))
    print(f"Placed {names} in {options.repository}.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
