"""Python models: model.py is parsed, never run."""

import ast
import warnings
from collections.abc import Iterator
from pathlib import Path

from export.lint.finding import Finding
from export.lint.folders import pointer
from export.lint.models import LFS, contents

SCRIPT_BYTES = 2**22
CLASS = "TritonPythonModel"


def check(file: Path, path: str) -> Iterator[Finding]:
    content = contents(file, SCRIPT_BYTES)
    if isinstance(content, str):
        yield Finding("file-unreadable", path, "", content, "Put the model's source there.")
        return
    if content.startswith(LFS):
        yield pointer(path)
        return
    try:
        tree = _parsed(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason, line = (error.msg, error.lineno) if isinstance(error, SyntaxError) else ("it is nested too deep", None)
        said = f"The file is no Python: {reason}."
        yield Finding("python-syntax", path, "", said, "Correct it; python -m py_compile shows the place.", line)
        return
    if not _defines(tree):
        said = f"The file defines no {CLASS}, which Triton looks for."
        yield Finding("python-class", path, CLASS, said, f"Name the model's class {CLASS}.")


def completes(file: Path) -> bool:
    """Whether the model may declare inputs and outputs itself, when it is loaded."""
    content = contents(file, SCRIPT_BYTES)
    return isinstance(content, str) or b"auto_complete_config" in content


def _parsed(content: bytes) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a model's own style is none of ours
        return ast.parse(content)


def _defines(tree: ast.Module) -> bool:
    """Anywhere in the file, for a class may be defined under a condition; `import *` may bring it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == CLASS:
            return True
        if isinstance(node, ast.alias) and CLASS in (
            node.asname or node.name,
            "TritonPythonModel" * (node.name == "*"),
        ):
            return True
        if isinstance(node, ast.Name) and node.id == CLASS and isinstance(node.ctx, ast.Store):
            return True
    return False
