"""Faults in ONNX files, by themselves and beside their configs: each is found, with its file, field and cure."""

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from small_repositories import (
    CONFIG,
    FLOAT,
    GRAPH,
    IN,
    MASK,
    OUT,
    UINT8,
    Fault,
    add,
    assert_found,
    both,
    fault,
    graph,
    more,
    remove,
    segment,
    swap,
)


def external(location: str, *, offset: str = "0", length: str = "16") -> TensorProto:
    """Four floats, said to lie in another file."""
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=value)
    return tensor


def weight(*dims: int, raw: bytes | None = None, floats: int = 0) -> TensorProto:
    return TensorProto(name="w", data_type=FLOAT, dims=dims, raw_data=raw, float_data=[1.0] * floats)


def with_constant(tensor: TensorProto) -> onnx.ModelProto:
    model = segment()
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))
    return model


def with_sequence() -> onnx.ModelProto:
    model = graph({"mask": MASK}, {"probabilities": (FLOAT, ["N", 3])})
    model.graph.output[0].CopyFrom(helper.make_tensor_sequence_value_info("probabilities", FLOAT, [3]))
    return model


GRAPHS = {
    "a Git LFS pointer": fault(
        add(GRAPH, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        "lfs-pointer",
        GRAPH,
        "",
    ),
    "a Git LFS pointer of a Python model": fault(
        add("encode/1/model.py", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        "lfs-pointer",
        "encode/1/model.py",
        "",
    ),
    "a Git LFS pointer of an engine": fault(
        both(
            add("segment/configs/tensorrt.pbtxt", 'backend: "tensorrt"\nmax_batch_size: 4\n'),
            add("segment/1/model.plan", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        ),
        "lfs-pointer",
        "segment/1/model.plan",
        "",
    ),
    "an empty graph": fault(add(GRAPH, b""), "graph-broken", GRAPH, ""),
    "half a graph": fault(add(GRAPH, segment().SerializeToString()[:-60]), "graph-broken", GRAPH, ""),
    "a text for a graph": fault(add(GRAPH, "<html>404: Not Found</html>"), "graph-broken", GRAPH, ""),
    "a folder for a graph": fault(
        both(remove(GRAPH), add(f"{GRAPH}/model.onnx/x", "")), "graph-broken", f"{GRAPH}/model.onnx", ""
    ),
    "an IR version of tomorrow": fault(add(GRAPH, segment(ir_version=11)), "ir-too-new", GRAPH, "ir_version"),
    "an opset of tomorrow": fault(add(GRAPH, segment(opset=22)), "opset-too-new", GRAPH, "opset_import"),
    "an operator of one's own": fault(add(GRAPH, segment(domain="my.operators")), "custom-operator", GRAPH, ""),
    "two initializers of one name": fault(
        add(GRAPH, segment(initializers=[weight(1, floats=1)] * 2)),
        "graph-duplicate",
        GRAPH,
        "w",
    ),
    "an input of a negative size": fault(
        add(GRAPH, graph({"image": (UINT8, ["N", 8, -8, 3])}, OUT)),
        "graph-dims",
        GRAPH,
        "image",
        "dims",
    ),
    "an input of an absurd size": fault(
        add(GRAPH, graph({"image": (UINT8, ["N", 2**40, 2**40, 3])}, OUT)),
        "graph-dims",
        GRAPH,
        "image",
        "dims",
    ),
    "an initializer of a negative size": fault(
        add(GRAPH, segment(initializers=[weight(-4)])), "graph-dims", GRAPH, "w"
    ),
    "an initializer of three gigabytes in thirty bytes": fault(
        add(GRAPH, segment(initializers=[weight(3, 2**28)])),
        "initializer-size",
        GRAPH,
        "w",
    ),
    "an initializer with too few bytes": fault(
        add(GRAPH, segment(initializers=[weight(4, raw=b"123")])),
        "initializer-size",
        GRAPH,
        "w",
    ),
    "an initializer with too few numbers": fault(
        add(GRAPH, segment(initializers=[weight(400, floats=1)])),
        "initializer-size",
        GRAPH,
        "w",
    ),
    "external data at an absolute path": fault(
        add(GRAPH, segment(initializers=[external("/etc/passwd")])),
        "external-data-outside",
        GRAPH,
        "w",
    ),
    "external data above the graph": fault(
        add(GRAPH, segment(initializers=[external("data/../../../encode/1/model.py")])),
        "external-data-outside",
        GRAPH,
        "w",
    ),
    "external data behind a link": fault(
        both(
            add(GRAPH, segment(initializers=[external("w.bin")])),
            lambda repository: (repository / "segment/1/w.bin").symlink_to("/etc/passwd"),
        ),
        "external-data-outside",
        GRAPH,
        "w",
    ),
    "external data that are not there": fault(
        add(GRAPH, segment(initializers=[external("w.bin")])),
        "external-data-missing",
        GRAPH,
        "w",
    ),
    "external data cut off": fault(
        both(add(GRAPH, segment(initializers=[external("w.bin")])), add("segment/1/w.bin", b"x" * 15)),
        "external-data-short",
        GRAPH,
        "w",
    ),
    "external data from beyond the end": fault(
        both(add(GRAPH, segment(initializers=[external("w.bin", offset="9" * 18)])), add("segment/1/w.bin", b"x" * 16)),
        "external-data-short",
        GRAPH,
        "w",
    ),
    "external data shorter than their dims": fault(
        both(add(GRAPH, segment(initializers=[external("w.bin", length="8")])), add("segment/1/w.bin", b"x" * 16)),
        "initializer-size",
        GRAPH,
        "w",
    ),
    "external data in a constant": fault(
        add(GRAPH, with_constant(external("../w"))),
        "external-data-outside",
        GRAPH,
        "w",
    ),
}
BETWEEN = {
    "an input of another name": fault(
        swap(CONFIG, 'name: "image"', 'name: "picture"'),
        "input-unknown",
        CONFIG,
        "input[0].name",
        "input-missing",
        "step-input-unknown",
        "step-input-missing",
    ),
    "a control that the graph does not have": fault(
        more(CONFIG, 'sequence_batching { control_input { name: "START" control { kind: CONTROL_SEQUENCE_START } } }'),
        "input-unknown",
        CONFIG,
        "sequence_batching.control_input[0].name",
    ),
    "an output of another name": fault(
        swap("classify/config.pbtxt", 'name: "probabilities"', 'name: "scores"'),
        "output-unknown",
        "classify/config.pbtxt",
        "output[0].name",
        "step-output-unknown",
    ),
    "an input that is left out": fault(
        add(GRAPH, graph(IN | {"scale": (FLOAT, ["N"])}, OUT)),
        "input-missing",
        CONFIG,
        "input",
    ),
    "an input that is not optional": fault(
        swap(CONFIG, 'name: "image"', 'name: "image" optional: true'),
        "input-optional",
        CONFIG,
        "input[0].optional",
    ),
    "another data type": fault(
        add(GRAPH, graph({"image": (FLOAT, ["N", 8, 8, 3])}, OUT)),
        "data-type",
        CONFIG,
        "input[0].data_type",
    ),
    "other dims": fault(add(GRAPH, graph({"image": (UINT8, ["N", 8, 9, 3])}, OUT)), "dims", CONFIG, "input[0].dims"),
    "another rank": fault(
        add(GRAPH, graph({"image": (UINT8, ["N", 8, 8, 3, 1])}, OUT)), "dims", CONFIG, "input[0].dims"
    ),
    "a free output axis of a fixed one": fault(
        swap("classify/config.pbtxt", "dims: [ 3 ]", "dims: [ -1 ]"),
        "dims",
        "classify/config.pbtxt",
        "output[0].dims",
    ),
    "a scalar": fault(
        add("classify/1/model.onnx", graph({"mask": MASK}, {"probabilities": (FLOAT, [])})),
        "dims",
        "classify/config.pbtxt",
        "output[0].dims",
    ),
    "a fixed output axis of a free one": fault(
        add(GRAPH, graph(IN, {"mask": (UINT8, ["N", "H", "W", 1]), "onward": MASK})),
        "dims-free",
        CONFIG,
        "output[0].dims",
    ),
    "a fixed batch": fault(
        add(GRAPH, graph({"image": (UINT8, [1, 8, 8, 3])}, OUT)),
        "batch-axis",
        CONFIG,
        "input[0].dims",
    ),
    "a batch in dims": fault(
        swap(CONFIG, "dims: [ 8, 8, 3 ]", "dims: [ -1, 8, 8, 3 ]"),
        "batch-axis",
        CONFIG,
        "input[0].dims",
        "step-dims",
    ),
    "a batch nowhere": fault(
        swap("classify/config.pbtxt", "max_batch_size: 4", "max_batch_size: 0"),
        "batch-axis",
        "classify/config.pbtxt",
        "input[0].dims",
    ),
    "an output that is a sequence": fault(
        add("classify/1/model.onnx", with_sequence()),
        "graph-type",
        "classify/config.pbtxt",
        "output[0]",
    ),
    "a fault in a variant only": fault(
        swap("segment/configs/gpu.pbtxt", "dims: [ 8, 8, 3 ]", "dims: [ 8, 8, 4 ]"),
        "dims",
        "segment/configs/gpu.pbtxt",
        "input[0].dims",
        "step-dims",
    ),
}
FAULTS = GRAPHS | BETWEEN


@pytest.mark.parametrize("sown", FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_of_a_graph_is_found_where_it_is(sown: Fault, tmp_path: Path) -> None:
    assert_found(sown, tmp_path)
