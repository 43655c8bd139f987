"""`python -m export lint [DIR]`: what is wrong with a Triton model repository, before any server starts."""

import argparse
import dataclasses
import json
import os
from collections import Counter
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.text import Text

from export.lint import triton
from export.lint.checks import lint
from export.lint.finding import Finding
from fovea import program
from fovea.errors import UsageError

COLOURS = {"error": "bold red", "warning": "yellow"}


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m export lint", description=__doc__)
    parser.add_argument("repository", nargs="?", type=Path, default=Path("model_repository"), metavar="DIR")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, for programs")
    parser.add_argument(
        "--triton", default=triton.DEFAULT, metavar="VERSION", help=f"the release that is to serve ({triton.DEFAULT})"
    )
    parser.add_argument("--cores", type=int, metavar="N", help="cores of the machine that is to serve (those here)")
    return parser


def main(words: list[str]) -> int:
    options = arguments().parse_args(words)
    return program.run(lambda: check(options))


def check(options: argparse.Namespace) -> int:
    """Print the findings; 1 if there is an error among them."""
    cores = len(os.sched_getaffinity(0)) if options.cores is None else options.cores
    if cores < 1:
        raise UsageError("--cores must be at least 1.")
    release = triton.release(options.triton)
    models, findings = lint(options.repository, release, cores)
    counts = Counter(finding.severity for finding in findings)
    if options.json:
        said = [{"severity": finding.severity} | dataclasses.asdict(finding) for finding in findings]
        head = {"repository": str(options.repository), "triton": f"2.{release.minor}", "cores": cores, "models": models}
        totals = {"errors": counts["error"], "warnings": counts["warning"]}
        print(json.dumps(head | totals | {"findings": said}, indent=1))
    else:
        show(options.repository, models, findings)
    return 1 if counts["error"] else 0


def show(repository: Path, models: int, findings: list[Finding]) -> None:
    console = Console(highlight=False, soft_wrap=True, emoji=False)
    for path, group in groupby(findings, key=lambda finding: finding.path):
        console.print(Text(plain(str(repository / path)), style="bold"))
        for finding in group:
            line = Text(f"{finding.line or '–':>5}  ")
            line.append(f"{finding.severity:<8}", style=COLOURS[finding.severity])
            line.append(f" {finding.rule}  ", style="bold")
            line.append(plain(f"{finding.field}: {finding.said}" if finding.field else finding.said))
            console.print(line)
            console.print(Text(f"{'':16}{plain(finding.cure)}", style="dim"))
    console.print(Text(plain(summary(models, findings))))


def summary(models: int, findings: list[Finding]) -> str:
    if not findings:
        return f"No fault found in {_counted(models, 'model')}."
    counts = Counter(finding.severity for finding in findings)
    kinds = [_counted(counts[kind], kind) for kind in ("error", "warning") if counts[kind]]
    files = _counted(len({finding.path for finding in findings}), "file")
    return f"{', '.join(kinds)} in {files} of {_counted(models, 'model')}."


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def plain(text: str) -> str:
    """Text for a terminal: what comes from a foreign file moves no cursor and writes no second line."""
    known = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in known)
