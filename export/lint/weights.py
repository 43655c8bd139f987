"""An ONNX file by itself: whether it is one, what reads it, and whether its weights are where it says, and whole."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from export.lint import graph_file
from export.lint.finding import Finding, listed, shaped
from export.lint.folders import pointer
from export.lint.graph_file import Graph, Value, Weight
from export.lint.models import LFS, inside
from export.lint.triton import Triton

BITS = (0, 32, 8, 8, 16, 16, 32, 64, 0, 8, 16, 64, 32, 64, 64, 128, 16, 8, 8, 8, 8, 4, 4, 4, 8, 2, 2)
"""`TensorProto.DataType` → bits of an element; a string has no fixed size."""
MOST = 2**40
"""Elements of a tensor: no one has as many."""
DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training", "org.pytorch.aten"}
"""Operators that every ONNX Runtime has, beside those of com.microsoft and its sub-domains."""
RE_EXPORT = "Copy the file again, or export it again."


def read(file: Path, path: str) -> tuple[Graph | None, list[Finding]]:
    """The outline of `file`, or None and the reason."""

    def broken(said: str, cure: str = RE_EXPORT) -> tuple[None, list[Finding]]:
        return None, [Finding("graph-broken", path, "", said, cure)]

    if not file.is_file():
        return broken("It is no regular file.", "Put the ONNX file there.")
    try:
        if file.stat().st_size == 0:
            return broken("The file is empty.")
        with file.open("rb") as opened:
            if opened.read(len(LFS)) == LFS:
                return None, [pointer(path)]
        return graph_file.read(file), []
    except ValueError as error:
        return broken(f"It is no whole ONNX file: {error}.")
    except OSError as error:
        return None, [Finding("file-unreadable", path, "", f"It cannot be read ({error.strerror}).", RE_EXPORT)]


def check(graph: Graph, file: Path, path: str, triton: Triton, *, native: bool, library: bool) -> Iterator[Finding]:
    """`native`: ONNX Runtime is what reads it; `library`: the config names one with custom operators."""
    if native:
        yield from _formats(graph, path, triton)
    strange = {name for name in graph.domains - graph.local - DOMAINS if not name.startswith("com.microsoft")}
    if native and strange and not library:
        said = f"Operators of {listed(sorted(strange))} are not ONNX Runtime's own."
        cure = "Name their library in model_operations.op_library_filename, or export without them."
        yield Finding("custom-operator", path, "", said, cure)
    for side, names in (
        ("inputs", [value.name for value in graph.inputs]),
        ("outputs", [value.name for value in graph.outputs]),
        ("initializers", graph.initializers),
    ):
        twice = [name for name, times in Counter(names).items() if times > 1]
        if twice:
            said = f"Two {side} have the name {listed(twice)}."
            yield Finding("graph-duplicate", path, twice[0], said, "Export again with names of their own.")
    for value in (*graph.inputs, *graph.outputs):
        yield from _value(value, path)
    yield from _weights(graph, file, path)


def _formats(graph: Graph, path: str, triton: Triton) -> Iterator[Finding]:
    reader = f"ONNX Runtime {triton.onnx_runtime} of {triton}"
    if graph.ir_version > triton.ir_version:
        said = f"The file has IR version {graph.ir_version}, and {reader} reads {triton.ir_version} at most."
        cure = f"Set model.ir_version = {triton.ir_version} and save, or serve with a newer Triton."
        yield Finding("ir-too-new", path, "ir_version", said, cure)
    opset = graph.opsets.get("", 0)
    if opset > triton.opset:
        said = f"The file has opset {opset}, and {reader} knows {triton.opset} at most."
        yield Finding("opset-too-new", path, "opset_import", said, f"Export with opset {triton.opset} or older.")


def _value(value: Value, path: str) -> Iterator[Finding]:
    wrong = [size for size in value.shape or () if size < graph_file.FREE]
    if wrong:
        said = f"{value.name} has a dim of {wrong[0]:,}."
        yield Finding("graph-dims", path, value.name, said, "Export again; a size that varies has no number.")
    elif _elements(tuple(size for size in value.shape or () if size > 0)) > MOST:
        said = f"{value.name} of shape {shaped(value.shape or ())} has more than {MOST:,} elements."
        yield Finding("graph-dims", path, value.name, said, "Export again with the sizes that are meant.")


def _elements(dims: tuple[int, ...]) -> int:
    """How many elements; beyond a number that no tensor has, which one does not matter (and takes long to compute)."""
    elements = 0 if 0 in dims else 1
    for size in dims:
        elements *= size
        if elements > MOST:
            break
    return elements


def _bits(kind: int) -> int:
    return BITS[kind] if kind < len(BITS) else 0


def _weights(graph: Graph, file: Path, path: str) -> Iterator[Finding]:
    """At most one finding a rule: a file whose weights are wrong is mostly wrong in all of them."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    for weight in graph.weights:
        for rule, said, cure in _weight(weight, file):
            found.setdefault(rule, []).append((weight.name, said, cure))
    for rule, all_of_it in found.items():
        name, said, cure = all_of_it[0]
        others = f" The same holds for {len(all_of_it) - 1} more." if all_of_it[1:] else ""
        yield Finding(rule, path, name, said + others, cure)


def _weight(weight: Weight, file: Path) -> Iterator[tuple[str, str, str]]:
    label = f"Initializer {weight.name}"
    if any(size < 0 for size in weight.dims) or _elements(weight.dims) > MOST:
        yield "graph-dims", f"{label} has dims {shaped(weight.dims)}.", RE_EXPORT
        return
    promised = (_elements(weight.dims) * _bits(weight.kind) + 7) // 8
    if weight.external is not None:
        yield from _external(weight.external, promised, label, file)
    elif weight.raw is not None and weight.kind != 8 and promised and weight.raw != promised:
        yield "initializer-size", f"{label} should have {promised:,} bytes, and has {weight.raw:,}.", RE_EXPORT
    elif weight.raw is None and _least(weight) > weight.stored:
        said = f"{label} has dims {shaped(weight.dims)}, and the file holds {weight.stored:,} bytes of it."
        yield "initializer-size", said, RE_EXPORT


def _least(weight: Weight) -> int:
    """The fewest bytes that the elements take as protobuf's numbers: a float four, a double eight, others one."""
    each = {1: 32, 11: 64}.get(weight.kind, min(_bits(weight.kind) or 8, 8))
    return _elements(weight.dims) * each // 8


def _external(where: dict[str, str], promised: int, label: str, file: Path) -> Iterator[tuple[str, str, str]]:
    location = where.get("location", "")
    cure = "Save the model with its external data beside it (onnx.save with location=<a bare file name>)."
    if not location or not inside(location) or ".." in Path(location).parts or "\\" in location:
        yield "external-data-outside", f"{label} lies in {location!r}, which is no file beside the graph.", cure
        return
    data = file.parent / location
    homes = (file.parent.resolve(), file.resolve().parent)
    if not any(data.resolve().is_relative_to(home) for home in homes):
        yield "external-data-outside", f"{label} lies in {location!r}, a link that leads away from the graph.", cure
        return
    if not data.is_file():
        yield "external-data-missing", f"{label} lies in {location!r}, which is not there.", "Copy that file too."
        return
    offset, length = _number(where.get("offset", "0")), _number(where.get("length", str(promised)))
    size = data.stat().st_size
    if offset is None or length is None or offset + max(length, promised) > size:
        said = f"{label} takes {where.get('length', promised)} bytes from {where.get('offset', 0)} of {location!r}"
        yield "external-data-short", f"{said}, which has {size:,}.", "Copy that file again, or save the model again."
    elif length < promised:
        said = f"{label} should have {promised:,} bytes, and {length:,} are given to it in {location!r}."
        yield "initializer-size", said, RE_EXPORT


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
