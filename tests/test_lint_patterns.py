"""Repositories as Triton's own documentation and examples make them give no false alarm."""

from collections.abc import Mapping
from pathlib import Path

import onnx
import pytest
from conftest import REPOSITORY
from onnx import TensorProto, numpy_helper
from small_repositories import FLOAT, SCRIPT, UINT8, Shape, faultless, findings, graph, write

from export.lint import graph_file
from fovea.tasks import TASKS

INT32, INT64, STRING = TensorProto.INT32, TensorProto.INT64, TensorProto.STRING
COMPLETING = SCRIPT + "\n    @staticmethod\n    def auto_complete_config(config):\n        return config\n"


def same(kind: int, names: str, shape: Shape) -> dict[str, tuple[int, Shape]]:
    return dict.fromkeys(names.split(), (kind, shape))


def tensors(kind: str, dims: str, **sides: str) -> str:
    lines = [f'{s} [ {{ name: "{n}" data_type: {kind} dims: {dims} }} ]' for s in sides for n in sides[s].split()]
    return "\n".join(lines) + "\n"


def step(model: str, version: int = -1, **maps: Mapping[str, str]) -> str:
    pairs = [f'{side} {{ key: "{k}" value: "{v}" }}' for side, given in maps.items() for k, v in given.items()]
    return f'step {{ model_name: "{model}" model_version: {version} {" ".join(pairs)} }}\n'


ADD_SUB = tensors("TYPE_INT32", "[ 16 ]", input="INPUT0 INPUT1", output="OUTPUT0 OUTPUT1")
SIMPLE = graph(same(INT32, "INPUT0 INPUT1", ["N", 16]), same(INT32, "OUTPUT0 OUTPUT1", ["N", 16]))
DENSENET = """\
name: "densenet_onnx"
platform: "onnxruntime_onnx"
max_batch_size : 0
input [ { name: "data_0" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, 224, 224 ]
          reshape { shape: [ 1, 3, 224, 224 ] } } ]
output [ { name: "fc6_1" data_type: TYPE_FP32 dims: [ 4 ] reshape { shape: [ 1, 4, 1, 1 ] }
           label_filename: "densenet_labels.txt" } ]
"""
START = "control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } ]"
SEQUENCE = f"""\
name: "simple_sequence"
platform: "onnxruntime_onnx"
max_batch_size: 8
sequence_batching {{
  max_sequence_idle_microseconds: 5000000
  oldest {{ max_candidate_sequences: 1024 }}
  control_input [ {{ name: "START" {START} }},
    {{ name: "END" {START.replace("START", "END")} }},
    {{ name: "READY" {START.replace("START", "READY")} }},
    {{ name: "CORRID" control [ {{ kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 }} ] }} ]
  state [ {{ input_name: "STATE_IN" output_name: "STATE_OUT" data_type: TYPE_INT32 dims: [ -1 ]
             initial_state {{ data_type: TYPE_INT32 dims: [ 1 ] zero_data: true name: "initial" }} }} ]
}}
{tensors("TYPE_INT32", "[ 1 ]", input="INPUT", output="OUTPUT")}
instance_group [ {{ kind: KIND_CPU }} ]
"""
SEQUENCE_GRAPH = graph(
    same(INT32, "INPUT START END READY", ["N", 1])
    | {"CORRID": (TensorProto.UINT64, ["N", 1]), "STATE_IN": (INT32, ["N", "S"])},
    same(INT32, "OUTPUT", ["N", 1]) | {"STATE_OUT": (INT32, ["N", "S"])},
)
BERT = graph(same(INT64, "input_ids attention_mask", ["batch", "length"]), {"logits": (FLOAT, ["batch", 2])})
OPTIONAL = graph(
    same(FLOAT, "INPUT INITIALIZER", [5, 5]),
    same(FLOAT, "OUTPUT", [5, 5]),
    initializers=[TensorProto(name="INITIALIZER", data_type=FLOAT, dims=[5, 5], float_data=[0.0] * 25)],
)
PLAN = 'platform: "tensorrt_plan"\nmax_batch_size: 8\n' + tensors("TYPE_FP32", "[ 3, -1, -1 ]", input="x", output="y")
WARM = """\
model_warmup [ { name: "zeros" batch_size: 8 inputs { key: "INPUT0" value: { data_type: TYPE_INT32 dims: [ 16 ]
  zero_data: true } } inputs { key: "INPUT1" value: { data_type: TYPE_INT32 dims: [ 16 ] input_data_file: "raw" } } } ]
"""
PATTERNS: dict[str, tuple[dict[str, str | bytes | onnx.ModelProto], set[str]]] = {
    "densenet with a reshape and ImageNet's repeated labels": (
        {
            "densenet_onnx/config.pbtxt": DENSENET,
            "densenet_onnx/densenet_labels.txt": "crane\nmaillot\ncrane\nmaillot\n",
            "densenet_onnx/1/model.onnx": graph(
                same(FLOAT, "data_0", [1, 3, 224, 224]), same(FLOAT, "fc6_1", [1, 4, 1, 1])
            ),
        },
        {"label-duplicate"},
    ),
    "adding and subtracting, in ONNX and without a name": (
        {
            "simple/config.pbtxt": 'platform: "onnxruntime_onnx"\nmax_batch_size: 8\n' + ADD_SUB,
            "simple/1/model.onnx": SIMPLE,
        },
        set(),
    ),
    "strings": (
        {
            "simple_string/config.pbtxt": 'backend: "onnxruntime"\nmax_batch_size: 8\n'
            + tensors("TYPE_STRING", "[ 16 ]", input="INPUT0", output="OUTPUT0"),
            "simple_string/1/model.onnx": graph(same(STRING, "INPUT0", ["N", 16]), same(STRING, "OUTPUT0", ["N", 16])),
        },
        set(),
    ),
    "a sequence with its controls and a state": (
        {"simple_sequence/config.pbtxt": SEQUENCE, "simple_sequence/1/model.onnx": SEQUENCE_GRAPH},
        {"threads-unset"},
    ),
    "TensorFlow, as graph and as folder": (
        {
            "inception_graphdef/config.pbtxt": 'name: "inception_graphdef"\nplatform: "tensorflow_graphdef"\n'
            + tensors("TYPE_FP32", "[ 299, 299, 3 ]", input="input", output="Predictions/Softmax"),
            "inception_graphdef/1/model.graphdef": b"graph",
            "simple_identity/config.pbtxt": 'platform: "tensorflow_savedmodel"\nmax_batch_size: 8\n',
            "simple_identity/1/model.savedmodel/saved_model.pb": b"graph",
        },
        set(),
    ),
    "an ensemble of a custom backend, DALI's and a network that has no config": (
        {
            "preprocess/config.pbtxt": 'platform: "custom"\ndefault_model_filename: "libimage.so"\nmax_batch_size: 8\n'
            + tensors("TYPE_STRING", "[ 1 ]", input="INPUT")
            + tensors("TYPE_UINT8", "[ -1 ]", output="OUTPUT"),
            "preprocess/1/libimage.so": b"elf",
            "dali/config.pbtxt": 'backend: "dali"\nmax_batch_size: 256\n'
            + tensors("TYPE_UINT8", "[ -1 ]", input="IN")
            + tensors("TYPE_FP32", "[ 3, 224, 224 ]", output="OUT"),
            "dali/1/dali.py": "",
            "resnet50/1/model.onnx": graph(same(FLOAT, "data", ["N", 3, 224, 224]), same(FLOAT, "softmax", ["N", 10])),
            "whole/config.pbtxt": 'name: "whole"\nplatform: "ensemble"\nmax_batch_size: 4\n'
            + tensors("TYPE_STRING", "[ 1 ]", input="INPUT")
            + tensors("TYPE_FP32", "[ 10 ]", output="OUTPUT")
            + "ensemble_scheduling {\n"
            + step("preprocess", input_map={"INPUT": "INPUT"}, output_map={"OUTPUT": "encoded"})
            + step("resnet50", 1, input_map={"data": "image"}, output_map={"softmax": "OUTPUT"})
            + step("dali", input_map={"IN": "encoded"}, output_map={"OUT": "image"})
            + "}",
            "whole/1/.gitkeep": "",
        },
        set(),
    ),
    "an ensemble in an ensemble, with a step that is not batched": (
        {
            "plain/config.pbtxt": 'backend: "python"\n' + tensors("TYPE_FP32", "[ -1, 4 ]", input="x", output="y"),
            "plain/1/model.py": SCRIPT,
            "inner/config.pbtxt": 'platform: "ensemble"\nmax_batch_size: 8\n'
            + tensors("TYPE_FP32", "[ 4 ]", input="x", output="y")
            + f"ensemble_scheduling {{ {step('plain', input_map={'x': 'x'}, output_map={'y': 'y'})} }}",
            "inner/1/.gitkeep": "",
            "outer/config.pbtxt": 'platform: "ensemble"\nmax_batch_size: 8\n'
            + tensors("TYPE_FP32", "[ -1 ]", input="a", output="b")
            + f"ensemble_scheduling {{ {step('inner', input_map={'x': 'a'}, output_map={'y': 'b'})} }}",
            "outer/1/.gitkeep": "",
        },
        set(),
    ),
    "Python: completing itself, decoupled, calling others, and read by an ensemble": (
        {
            "auto/config.pbtxt": "",
            "auto/1/model.py": COMPLETING,
            "bare/1/model.py": COMPLETING,
            "decoupled/config.pbtxt": 'backend: "python"\nmodel_transaction_policy { decoupled: True }\n' + ADD_SUB,
            "decoupled/1/model.py": "from elsewhere import *\n",
            "bls/config.pbtxt": 'name: "bls"\nbackend: "python"\n'
            + tensors("TYPE_STRING", "[ 1 ]", input="MODEL_NAME")
            + ADD_SUB
            + "instance_group [ { kind: KIND_CPU } ]\n",
            "bls/1/model.py": "try:\n    from a import B as TritonPythonModel\nexcept ImportError:\n    pass\n",
            "outer/config.pbtxt": 'platform: "ensemble"\n'
            + tensors("TYPE_FP32", "[ 1 ]", input="a", output="b")
            + f"ensemble_scheduling {{ {step('auto', input_map={'any': 'a'}, output_map={'thing': 'b'})} }}",
            "outer/1/.gitkeep": "",
        },
        set(),
    ),
    "two inputs of free length, completed outputs": (
        {
            "bert/config.pbtxt": 'backend: "onnxruntime"\nmax_batch_size: 16\n'
            + tensors("TYPE_INT64", "[ -1 ]", input="input_ids attention_mask")
            + "instance_group { count: 1 kind: KIND_GPU }\n"
            + "dynamic_batching { preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 100 }\n"
            + 'optimization { execution_accelerators { gpu_execution_accelerator : [ { name : "tensorrt" } ] } }\n',
            "bert/1/model.onnx": BERT,
        },
        set(),
    ),
    "an initializer that is an optional input": (
        {
            "optional/config.pbtxt": 'platform: "onnxruntime_onnx"\nmax_batch_size: 0\n'
            + tensors("TYPE_FP32", "[5, 5]", input="INPUT", output="OUTPUT")
            + 'input { name: "INITIALIZER" data_type: TYPE_FP32 dims: [5, 5] optional: true }',
            "optional/1/model.onnx": OPTIONAL,
        },
        set(),
    ),
    "ragged input with what Triton counts of it": (
        {
            "ragged/config.pbtxt": 'backend: "onnxruntime"\nmax_batch_size: 8\n'
            + 'input { name: "RAGGED" data_type: TYPE_FP32 dims: [ -1 ] allow_ragged_batch: true }\n'
            + 'batch_input { kind: BATCH_ACCUMULATED_ELEMENT_COUNT target_name: "INDEX" data_type: TYPE_FP32 '
            + 'source_input: "RAGGED" }\n'
            + tensors("TYPE_FP32", "[ 1 ]", output="OUTPUT"),
            "ragged/1/model.onnx": graph(
                {"RAGGED": (FLOAT, ["T"]), "INDEX": (FLOAT, ["N"])}, {"OUTPUT": (FLOAT, ["N", 1])}
            ),
        },
        set(),
    ),
    "scalars": (
        {
            "scalar/config.pbtxt": 'backend: "onnxruntime"\nmax_batch_size: 8\n'
            + 'input { name: "x" data_type: TYPE_FP32 dims: [ 1 ] reshape { shape: [ ] } }\n'
            + 'output { name: "y" data_type: TYPE_BF16 dims: [ 1 ] reshape { shape: [ ] } }\n',
            "scalar/1/model.onnx": graph({"x": (FLOAT, ["N"])}, {"y": (TensorProto.BFLOAT16, ["N"])}),
        },
        set(),
    ),
    "TensorRT with profiles, engines for several cards, and one that is to be built": (
        {
            "plan/config.pbtxt": PLAN
            + 'instance_group [ { kind: KIND_GPU profile: [ "0", "1" ] gpus: [ 0 ] } ]\n'
            + 'cc_model_filenames [ { key: "7.5" value: "t4.plan" }, { key: "8.0" value: "a100.plan" } ]\n',
            "plan/1/t4.plan": b"engine",
            "plan/1/a100.plan": b"engine",
            "other/1/model.onnx": SIMPLE,
            "other/configs/tensorrt.pbtxt": PLAN,
        },
        {"graph-not-built"},
    ),
    "other backends with files of their own": (
        {
            "fil/config.pbtxt": 'backend: "fil"\nmax_batch_size: 32\ninstance_group [{ kind: KIND_CPU }]\n'
            + "dynamic_batching { }\n"
            + tensors("TYPE_FP32", "[ 393 ]", input="input__0")
            + tensors("TYPE_FP32", "[ 2 ]", output="output__0"),
            "fil/1/xgboost.json": "{}",
            "vllm/config.pbtxt": 'backend: "vllm"\ninstance_group [ { count: 1 kind: KIND_MODEL } ]\n',
            "vllm/1/model.json": "{}",
            "model.dali/1/model.dali": b"pipeline",
            "torch/config.pbtxt": 'platform: "pytorch_libtorch"\nmax_batch_size: 32\n'
            + tensors("TYPE_FP32", "[3,224,224 ]", input="input__0", output="output__0"),
            "torch/1/model.pt": b"script",
            "torch2/config.pbtxt": 'backend: "pytorch"\nruntime: "model.py"\n',
            "torch2/1/model.py": "",
            "vino/config.pbtxt": 'backend: "openvino"\nmax_batch_size: 8\n' + ADD_SUB,
            "vino/1/model.xml": "<net/>",
            "vino/1/model.bin": b"",
            "vino_onnx/config.pbtxt": 'backend: "openvino"\nmax_batch_size: 8\n' + ADD_SUB,
            "vino_onnx/1/model.onnx": SIMPLE,
        },
        set(),
    ),
    "warm-up, response cache, rate limiter, priorities": (
        {
            "warm/config.pbtxt": 'backend: "onnxruntime"\nmax_batch_size: 8\nresponse_cache { enable: true }\n'
            + ADD_SUB
            + WARM
            + 'instance_group [ { kind: KIND_GPU rate_limiter { resources [ { name: "R" count: 4 } ] } } ]\n'
            + "dynamic_batching { priority_levels: 2 default_priority_level: 1 default_queue_policy { "
            + "timeout_action: DELAY default_timeout_microseconds: 100000 } }\n",
            "warm/1/model.onnx": SIMPLE,
            "warm/warmup/raw": bytes(64),
        },
        set(),
    ),
    "several versions, of which the broken ones are not served": (
        {
            "newest/1/model.onnx": b"an old format",
            "newest/3/model.onnx": SIMPLE,
            "chosen/config.pbtxt": "version_policy: { specific { versions: [ 2 ] } }",
            "chosen/1/model.onnx": b"",
            "chosen/2/model.onnx": SIMPLE,
            "every/config.pbtxt": "version_policy: { all { } }",
            "every/1/model.onnx": SIMPLE,
            "every/2/model.onnx": SIMPLE,
            "README.md": "what this is",
            ".git/HEAD": "ref",
            "every/assets/model_card.md": "about",
        },
        set(),
    ),
    "a graph above two gigabytes, as a folder with external data": (
        {
            "large/1/model.onnx/model.onnx": graph(
                same(FLOAT, "x", ["N", 4]),
                same(FLOAT, "y", ["N", 4]),
                initializers=[
                    TensorProto(
                        name="w",
                        data_type=FLOAT,
                        dims=[2, 2],
                        data_location=TensorProto.EXTERNAL,
                        external_data=[onnx.StringStringEntryProto(key="location", value="weights/w.bin")],
                    )
                ],
            ),
            "large/1/model.onnx/weights/w.bin": bytes(16),
        },
        set(),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("files", "warnings"), PATTERNS.values(), ids=PATTERNS.keys())
def test_a_pattern_of_tritons_own_gives_no_false_alarm(
    files: dict[str, str | bytes | onnx.ModelProto], warnings: set[str], tmp_path: Path
) -> None:
    found = findings(write(tmp_path, files))
    assert [finding for finding in found if finding.severity == "error"] == []
    assert {finding.rule for finding in found} == warnings


def test_fovea_s_own_repository_is_clean() -> None:
    """But for engines, which are built on the machine that serves them."""
    assert {finding.rule for finding in findings(REPOSITORY)} <= {"graph-not-built"}


def test_a_repository_of_links_into_a_store_is_clean(tmp_path: Path) -> None:
    """As a release is published, and as the server shows Triton some tasks only."""
    store = faultless(tmp_path / "store")
    (tmp_path / "shown").mkdir()
    for model in store.iterdir():
        (tmp_path / "shown" / model.name).symlink_to(model)
    (store / "segment/1/model.onnx").rename(tmp_path / "blob")
    (store / "segment/1/model.onnx").symlink_to(tmp_path / "blob")
    assert findings(tmp_path / "shown") == []


@pytest.mark.parametrize("network", [network.name for task in TASKS.values() for network in task.networks])
def test_the_outline_of_a_graph_is_what_onnx_reads(network: str) -> None:
    file = REPOSITORY / network / "1" / "model.onnx"
    outline, model = graph_file.read(file), onnx.load(file)
    assert outline.ir_version == model.ir_version
    assert outline.opsets == {entry.domain: entry.version for entry in model.opset_import}
    assert outline.initializers == [tensor.name for tensor in model.graph.initializer]
    sizes = {weight.name: (weight.kind, weight.dims, weight.raw) for weight in outline.weights}
    for tensor in model.graph.initializer:
        kind, dims, raw = sizes[tensor.name]
        assert (kind, dims) == (tensor.data_type, tuple(tensor.dims))
        assert raw in (None, numpy_helper.to_array(tensor).nbytes)
    for values, read in ((model.graph.input, outline.inputs), (model.graph.output, outline.outputs)):
        assert [(value.name, value.kind) for value in read] == [(v.name, v.type.tensor_type.elem_type) for v in values]
        axes = [value.type.tensor_type.shape.dim for value in values]
        shapes = [tuple(axis.dim_value if axis.HasField("dim_value") else -1 for axis in dims) for dims in axes]
        assert [value.shape for value in read] == shapes


def test_the_outline_knows_operators_of_functions_and_of_inner_graphs(tmp_path: Path) -> None:
    inner = onnx.helper.make_graph([onnx.helper.make_node("Mine", ["x"], ["y"], domain="inner")], "g", [], [])
    model = graph(same(UINT8, "x", ["N"]), same(UINT8, "y", ["N"]))
    model.graph.node.append(onnx.helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner))
    opsets = [onnx.helper.make_opsetid("", 18)]
    body = [onnx.helper.make_node("Own", ["a"], ["b"], domain="called")]
    model.functions.append(onnx.helper.make_function("local", "F", ["a"], ["b"], body, opsets))
    model.graph.node.append(onnx.helper.make_node("F", ["x"], ["w"], domain="local"))
    outline = graph_file.read(write(tmp_path, {"model.onnx": model}) / "model.onnx")
    assert outline.domains == {"", "inner", "called", "local"}
    assert outline.local == {"local"}
