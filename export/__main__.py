"""`python -m export <task>`: trained networks → ONNX, with proven parity, into the model repository.

`python -m export lint [DIR]` checks a Triton repository; `release`, `rollback` and `list` publish what was exported.
"""

import argparse
import logging
import resource
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from export.place import place
from fovea import plan, program, repository
from fovea.errors import UsageError
from fovea.spec import Task
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
        "--precision",
        choices=("fp32", "fp16", "int8", "auto"),
        help="of the graphs that are served; auto keeps the fastest that holds on held-out pictures (fp32)",
        default="fp32",
    )
    parser.add_argument(
        "--to",
        choices=plan.MADE_HERE,
        help="build TensorRT engines on this machine's GPU from the graphs in the repository (tensorrt), or write the "
        "graphs that ONNX Runtime or trtexec build them from (onnxruntime_tensorrt)",
    )
    parser.add_argument(
        "--cores", type=int, default=repository.CORES, help=f"cores to fit the CPU configs to ({repository.CORES})"
    )
    parser.add_argument(
        "--fuse", action="store_true", help="join the networks in the repository into one graph, <task>_fused"
    )
    parser.add_argument("--configs", action="store_true", help="write the configs only, for other --cores")
    return parser


def main() -> int:
    if sys.argv[1:2] == ["lint"]:
        from export.lint import program as linter  # starts in a second, and needs none of what export does

        return linter.main(sys.argv[2:])
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
    began = time.monotonic()
    if options.cores < 1:
        raise UsageError("--cores must be at least 1.")
    if options.fuse and options.to:
        raise UsageError("--fuse and --to are two commands: give one of them.")
    if options.fuse:
        from export import fuse

        place(options.repository, fuse.files(task, options.repository, options.cores))
        _report([repository.fused_name(task)], options.repository, began)
        return 0
    if options.to:
        if options.configs or options.precision == "auto":
            raise UsageError("--to goes with --precision fp32, fp16 or int8, and not with --configs.")
        from export import tensorrt

        made = tensorrt.engines if options.to == "tensorrt" else tensorrt.graphs
        place(options.repository, made(task, options))
        _report([network.name for network in task.networks], options.repository, began)
        return 0
    networks: dict[str, bytes] = {}
    points = repository.operating_points(task, options.repository)
    choices = repository.recorded_choices(task, options.repository)
    if not options.configs:
        from export.convert import convert  # the frameworks, which a machine that only serves does not have

        converted = convert(task, options)
        networks, points, choices = converted.files, converted.points, converted.choices
    texts = repository.files(task, options.cores, points, choices)
    configs = {name: text.encode() for name, text in texts.items()}
    place(options.repository, configs | networks, [] if options.configs else _other_graphs(task, options.repository))
    _report(repository.models(task), options.repository, began)
    return 0


def _report(names: Sequence[str], target: Path, began: float) -> None:
    took, peak = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"Placed {', '.join(names)} in {target}, in {took:.0f} s and {peak:.1f} GiB of memory at most.", file=sys.stderr
    )


def _other_graphs(task: Task, repository: Path) -> list[str]:
    """The graphs, of whatever precision, that were exported before."""
    found = (path for network in task.networks for path in (repository / network.name / "1").glob("model*.onnx"))
    return [path.relative_to(repository).as_posix() for path in found]


if __name__ == "__main__":
    sys.exit(main())
