"""Small Triton repositories: one without a fault, and the means to damage it."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from export.lint import triton
from export.lint.checks import lint
from export.lint.finding import Finding

CORES = 2
CONFIG = "segment/config.pbtxt"
GRAPH = "segment/1/model.onnx"
UINT8, FLOAT = TensorProto.UINT8, TensorProto.FLOAT
IN = {"image": (UINT8, ["N", 8, 8, 3])}
MASK = (UINT8, ["N", 8, 8, 1])
OUT = {"mask": MASK, "onward": MASK}
Shape = Sequence[Any]
Damage = Callable[[Path], object]
SCRIPT = "class TritonPythonModel:\n    def execute(self, requests):\n        return []\n"

ENCODE = """\
name: "encode"
backend: "python"
max_batch_size: 4
input { name: "image" data_type: TYPE_STRING dims: 1 }
output { name: "pixels" data_type: TYPE_UINT8 dims: [ 8, 8, 3 ] }
output { name: "frame" data_type: TYPE_INT32 dims: [ 4 ] }
instance_group { count: 2 kind: KIND_CPU }
"""
SEGMENT = """\
name: "segment"
backend: "onnxruntime"
max_batch_size: 4
input { name: "image" data_type: TYPE_UINT8 dims: [ 8, 8, 3 ] }
output { name: "mask" data_type: TYPE_UINT8 dims: [ 8, 8, 1 ] }
output { name: "onward" data_type: TYPE_UINT8 dims: [ 8, 8, 1 ] }
instance_group { count: 2 kind: KIND_CPU }
parameters { key: "intra_op_thread_count" value { string_value: "1" } }
"""
CLASSIFY = """\
name: "classify"
backend: "onnxruntime"
max_batch_size: 4
input { name: "mask" data_type: TYPE_UINT8 dims: [ 8, 8, 1 ] }
output { name: "probabilities" data_type: TYPE_FP32 dims: [ 3 ] label_filename: "labels.txt" }
instance_group { count: 2 kind: KIND_CPU }
parameters { key: "intra_op_thread_count" value { string_value: "1" } }
"""
GPU = "instance_group { count: 1 kind: KIND_GPU }\ndynamic_batching { }\n"
WHOLE = """\
name: "whole"
platform: "ensemble"
max_batch_size: 4
input { name: "image" data_type: TYPE_STRING dims: [ 1 ] }
output { name: "mask" data_type: TYPE_UINT8 dims: [ 8, 8, 1 ] }
output { name: "probabilities" data_type: TYPE_FP32 dims: [ 3 ] }
output { name: "frame" data_type: TYPE_INT32 dims: [ 4 ] }
ensemble_scheduling {
  step {
    model_name: "encode" model_version: -1
    input_map { key: "image" value: "image" }
    output_map { key: "pixels" value: "pixels" }
    output_map { key: "frame" value: "frame" }
  }
  step {
    model_name: "segment" model_version: -1
    input_map { key: "image" value: "pixels" }
    output_map { key: "mask" value: "mask" }
    output_map { key: "onward" value: "onward" }
  }
  step {
    model_name: "classify" model_version: -1
    input_map { key: "mask" value: "onward" }
    output_map { key: "probabilities" value: "probabilities" }
  }
}
"""


def graph(
    inputs: Mapping[str, tuple[int, Shape]],
    outputs: Mapping[str, tuple[int, Shape | None]],
    *,
    initializers: Sequence[TensorProto] = (),
    opset: int = 18,
    ir_version: int = 10,
    domain: str = "",
) -> onnx.ModelProto:
    """A graph that is never run: each output comes from the first input."""
    given = [helper.make_tensor_value_info(name, *value) for name, value in inputs.items()]
    made = [helper.make_tensor_value_info(name, *value) for name, value in outputs.items()]
    first = next(iter(inputs), "x")
    nodes = [helper.make_node("Cast", [first], [name], to=TensorProto.FLOAT, domain=domain) for name in outputs]
    drawn = helper.make_graph(nodes, "small", given, made, list(initializers))
    opsets = [helper.make_opsetid(name, opset if not name else 1) for name in sorted({"", domain})]
    return helper.make_model(drawn, opset_imports=opsets, ir_version=ir_version)


def segment(**changes: Any) -> onnx.ModelProto:
    """The graph of `segment`, with something about it changed."""
    return graph(IN, OUT, **changes)


def write(repository: Path, files: Mapping[str, str | bytes | onnx.ModelProto]) -> Path:
    for name, content in files.items():
        file = repository / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, onnx.ModelProto):
            content = content.SerializeToString()
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    return repository


def faultless(repository: Path) -> Path:
    """Preprocessing, two networks and the ensemble of them, as Fovea's own."""
    probabilities = graph({"mask": MASK}, {"probabilities": (FLOAT, ["N", 3])})
    return write(
        repository,
        {
            "encode/config.pbtxt": ENCODE,
            "encode/1/model.py": SCRIPT,
            "segment/config.pbtxt": SEGMENT,
            "segment/configs/gpu.pbtxt": SEGMENT.partition("instance_group")[0] + GPU,
            "segment/1/model.onnx": segment(),
            "classify/config.pbtxt": CLASSIFY,
            "classify/1/model.onnx": probabilities,
            "classify/labels.txt": "one\ntwo\nthree\n",
            "whole/config.pbtxt": WHOLE,
            "whole/1/.gitkeep": "",
        },
    )


def swap(name: str, old: str, new: str) -> Damage:
    """Replace a text that stands in the file, wherever it stands."""

    def damage(repository: Path) -> None:
        file = repository / name
        text = file.read_text(encoding="utf-8")
        assert old in text, f"{name} has no {old!r}"
        file.write_text(text.replace(old, new), encoding="utf-8")

    return damage


def add(name: str, content: str | bytes | onnx.ModelProto) -> Damage:
    """Write a file, or replace it."""
    return lambda repository: write(repository, {name: content})


def more(name: str, text: str) -> Damage:
    """Append to a file."""
    return lambda repository: (repository / name).write_text((repository / name).read_text(encoding="utf-8") + text)


def remove(name: str) -> Damage:
    """A file, or a folder and what is in it."""

    def damage(repository: Path) -> None:
        path = repository / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

    return damage


def rename(old: str, new: str) -> Damage:
    return lambda repository: (repository / old).rename(repository / new)


def both(*damages: Damage) -> Damage:
    return lambda repository: [damage(repository) for damage in damages]


@dataclass(frozen=True)
class Fault:
    """`also`: rules that the same damage breaks; no other may be reported."""

    damage: Damage
    rule: str
    path: str
    field: str
    also: tuple[str, ...]


def fault(damage: Damage, rule: str, path: str, field: str, *also: str) -> Fault:
    return Fault(damage, rule, path, field, also)


def assert_found(sown: Fault, folder: Path) -> None:
    """The fault is found where it is, said in whole sentences with a cure, and nothing else is reported."""
    repository = faultless(folder / "repository")
    sown.damage(repository)
    found = findings(repository)
    here = [f for f in found if (f.rule, f.path, f.field) == (sown.rule, sown.path, sown.field)]
    assert here, found
    assert {finding.rule for finding in found} <= {sown.rule, *sown.also}, found
    for finding in found:
        assert finding.said.endswith("."), finding
        assert finding.cure.endswith("."), finding
        assert "\n" not in finding.said + finding.cure
        if finding.path.endswith(".pbtxt") and finding.field.count(".") and finding.rule != "config-syntax":
            assert finding.line, finding


def findings(repository: Path, version: str = triton.DEFAULT, cores: int = CORES) -> list[Finding]:
    return lint(repository, triton.release(version), cores)[1]
