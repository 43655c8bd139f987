"""The outline of a model.onnx: everything but the weights, which are only measured.

Field numbers are those of onnx.proto (IR version 13): https://github.com/onnx/onnx/blob/v1.20.0/onnx/onnx.proto
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

from export.lint.wire import SPAN, VARINT, Wire, signed

DEEPEST = 16
"""Graphs within nodes within graphs; exporters make three."""
FREE = -1


@dataclass(frozen=True)
class Value:
    """A graph's input or output. `kind` is a `TensorProto.DataType`, 0 for no tensor; `shape` may be unknown."""

    name: str
    kind: int
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class Weight:
    """An initializer or constant: `stored` bytes in the file, of which `raw` as they are in memory, or elsewhere."""

    name: str
    kind: int
    dims: tuple[int, ...]
    stored: int
    raw: int | None
    external: dict[str, str] | None


@dataclass
class Graph:
    """`initializers`: names of the main graph's; `weights`: of every graph in the file; `domains`: of its operators."""

    ir_version: int = 0
    opsets: dict[str, int] = field(default_factory=dict)
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    initializers: list[str] = field(default_factory=list)
    weights: list[Weight] = field(default_factory=list)
    domains: set[str] = field(default_factory=set)
    local: set[str] = field(default_factory=set)


def read(file: Path) -> Graph:
    """The outline of an ONNX file.

    Raises:
        ValueError: it is not one, or not whole; the message says where.
        OSError: it cannot be read.
    """
    descriptor = os.open(file, os.O_RDONLY)
    try:
        wire, graph, graphs = Wire(descriptor), Graph(), 0
        for number, kind, start, end in wire.fields(0, wire.size):
            if (number, kind) == (1, VARINT):
                graph.ir_version = start
            elif (number, kind) == (7, SPAN):
                graphs += 1
                _graph(wire, start, end, graph, 0)
            elif (number, kind) == (8, SPAN):
                domain, version = _opset(wire, start, end)
                graph.opsets[domain] = max(version, graph.opsets.get(domain, 0))
            elif (number, kind) == (25, SPAN):
                _function(wire, start, end, graph)
        if not graphs or not graph.ir_version or not graph.opsets:
            raise ValueError("it has no graph, no IR version or no opset")
        return graph
    finally:
        os.close(descriptor)


def _graph(wire: Wire, start: int, end: int, graph: Graph, depth: int) -> None:
    if depth > DEEPEST:
        raise ValueError(f"its graphs are nested deeper than {DEEPEST}")
    for number, kind, first, last in wire.fields(start, end):
        if kind != SPAN:
            continue
        if number == 1:
            _node(wire, first, last, graph, depth)
        elif number == 5:
            weight = _weight(wire, first, last)
            graph.weights.append(weight)
            if not depth:
                graph.initializers.append(weight.name)
        elif number == 11 and not depth:
            graph.inputs.append(_value(wire, first, last))
        elif number == 12 and not depth:
            graph.outputs.append(_value(wire, first, last))
        elif number == 15:
            weights = _sparse(wire, first, last)
            graph.weights += weights
            graph.initializers += [weight.name for weight in weights[:1] if not depth]


def _node(wire: Wire, start: int, end: int, graph: Graph, depth: int) -> None:
    domain = ""
    for number, kind, first, last in wire.fields(start, end):
        if (number, kind) == (7, SPAN):
            domain = wire.text(first, last)
        elif (number, kind) == (5, SPAN):
            for inner, form, a, b in wire.fields(first, last):
                if form == SPAN and inner in (5, 10):
                    graph.weights.append(_weight(wire, a, b))
                elif form == SPAN and inner in (6, 11):
                    _graph(wire, a, b, graph, depth + 1)
                elif form == SPAN and inner in (22, 23):
                    graph.weights += _sparse(wire, a, b)
    graph.domains.add(domain)


def _function(wire: Wire, start: int, end: int, graph: Graph) -> None:
    for number, kind, first, last in wire.fields(start, end):
        if (number, kind) == (10, SPAN):
            graph.local.add(wire.text(first, last))
        elif (number, kind) == (7, SPAN):
            _node(wire, first, last, graph, 1)


def _sparse(wire: Wire, start: int, end: int) -> list[Weight]:
    """Values, then indices."""
    spans = {n: (a, b) for n, kind, a, b in wire.fields(start, end) if kind == SPAN and n in (1, 2)}
    return [_weight(wire, *spans[number]) for number in sorted(spans)]


def _weight(wire: Wire, start: int, end: int) -> Weight:
    name, kind, raw, dims = "", 0, None, []
    external: dict[str, str] = {}
    elsewhere = False
    for number, form, first, last in wire.fields(start, end):
        if number == 1:
            dims += [signed(first)] if form == VARINT else _packed(wire, first, last)
        elif (number, form) == (2, VARINT):
            kind = first
        elif (number, form) == (8, SPAN):
            name = wire.text(first, last)
        elif (number, form) == (9, SPAN):
            raw = last - first
        elif (number, form) == (13, SPAN):
            pair = {n: wire.text(a, b) for n, f, a, b in wire.fields(first, last) if f == SPAN}
            external[pair.get(1, "")] = pair.get(2, "")
        elif (number, form) == (14, VARINT):
            elsewhere = first == 1
    return Weight(name, kind, tuple(dims), end - start, raw, external if elsewhere else None)


def _packed(wire: Wire, at: int, end: int) -> list[int]:
    numbers: list[int] = []
    while at < end and len(numbers) < 100:
        value, at = wire.varint(at, end)
        numbers.append(signed(value))
    return numbers


def _value(wire: Wire, start: int, end: int) -> Value:
    name, tensor = "", None
    for number, kind, first, last in wire.fields(start, end):
        if (number, kind) == (1, SPAN):
            name = wire.text(first, last)
        elif (number, kind) == (2, SPAN):
            tensor = next(((a, b) for n, f, a, b in wire.fields(first, last) if (n, f) == (1, SPAN)), None)
    if tensor is None:
        return Value(name, 0, None)
    element, shape = 0, None
    for number, kind, first, last in wire.fields(*tensor):
        if (number, kind) == (1, VARINT):
            element = first
        elif (number, kind) == (2, SPAN):
            shape = tuple(_axis(wire, a, b) for n, f, a, b in wire.fields(first, last) if (n, f) == (1, SPAN))
    return Value(name, element, shape)


def _axis(wire: Wire, start: int, end: int) -> int:
    return next((signed(a) for n, f, a, _ in wire.fields(start, end) if (n, f) == (1, VARINT)), FREE)


def _opset(wire: Wire, start: int, end: int) -> tuple[str, int]:
    domain, version = "", 0
    for number, kind, first, last in wire.fields(start, end):
        if (number, kind) == (1, SPAN):
            domain = wire.text(first, last)
        elif (number, kind) == (2, VARINT):
            version = signed(first)
    return ("" if domain == "ai.onnx" else domain), version
