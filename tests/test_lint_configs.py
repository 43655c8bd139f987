"""Faults in the files of a repository and in its configs: each is found, with its file, field and cure."""

from pathlib import Path

import pytest
from small_repositories import (
    CONFIG,
    GRAPH,
    SCRIPT,
    Fault,
    add,
    assert_found,
    both,
    fault,
    more,
    remove,
    rename,
    segment,
    swap,
)

WARMUP = 'model_warmup { name: "w" batch_size: 1 inputs { key: "image" value { data_type: TYPE_UINT8 dims: [ 8, 8, 3 ] '

FOLDERS = {
    "a folder that is no model": fault(add("notes/readme.txt", "hello"), "model-empty", "notes", ""),
    "no version folder": fault(remove("whole/1"), "version-missing", "whole", ""),
    "a version called v2": fault(add("segment/v2/model.onnx", segment()), "version-ignored", "segment/v2", ""),
    "a version called 02": fault(add("segment/02/model.onnx", segment()), "version-ignored", "segment/02", ""),
    "only a version called 0": fault(
        rename("encode/1", "encode/0"), "version-ignored", "encode/0", "", "version-missing"
    ),
    "a version policy for versions that are not there": fault(
        more(CONFIG, "version_policy { specific { versions: [ 1, 7 ] } }"),
        "version-policy",
        CONFIG,
        "version_policy",
    ),
    "a version policy for none": fault(
        more("encode/config.pbtxt", "version_policy { latest { num_versions: 0 } }"),
        "version-policy",
        "encode/config.pbtxt",
        "version_policy",
        "step-version",
    ),
    "no graph": fault(remove(GRAPH), "graph-missing", CONFIG, "backend"),
    "no model.py": fault(remove("encode/1/model.py"), "graph-missing", "encode/config.pbtxt", "backend"),
    "a graph of another name": fault(
        more(CONFIG, 'default_model_filename: "unet.onnx"'),
        "graph-missing",
        CONFIG,
        "default_model_filename",
    ),
    "an engine for a card that is not there": fault(
        more(CONFIG, 'cc_model_filenames { key: "7.5" value: "t4.onnx" }'),
        "graph-missing",
        CONFIG,
        "cc_model_filenames",
    ),
    "an engine that is to be built": fault(
        add("segment/configs/tensorrt.pbtxt", 'backend: "tensorrt"\nmax_batch_size: 4\n'),
        "graph-not-built",
        "segment/configs/tensorrt.pbtxt",
        "backend",
    ),
    "a graph beside the versions": fault(add("segment/model.onnx", segment()), "stray-file", "segment/model.onnx", ""),
    "a config in a version": fault(add("segment/1/config.pbtxt", ""), "stray-file", "segment/1/config.pbtxt", ""),
    "a graph above the model": fault(
        more(CONFIG, 'default_model_filename: "../../classify/1/model.onnx"'),
        "path-outside",
        CONFIG,
        "default_model_filename",
    ),
    "labels above the model": fault(
        swap("classify/config.pbtxt", "labels.txt", "/etc/hostname"),
        "path-outside",
        "classify/config.pbtxt",
        "output[0].label_filename",
    ),
    "a name too long for a file": fault(
        more(CONFIG, f'default_model_filename: "{"n" * 5000}"'),
        "path-outside",
        CONFIG,
        "default_model_filename",
    ),
    "a config of two megabytes": fault(more(CONFIG, "#" * 2**21), "file-unreadable", CONFIG, ""),
    "a config that links to nothing": fault(
        both(remove(CONFIG), lambda repository: (repository / CONFIG).symlink_to("gone")),
        "file-unreadable",
        CONFIG,
        "",
    ),
    "a warm-up without its data": fault(
        more(CONFIG, WARMUP + 'input_data_file: "seven" } } }'),
        "warmup-missing",
        CONFIG,
        'model_warmup[0].inputs["image"].input_data_file',
    ),
}
CONFIGS = {
    "half a config": fault(swap(CONFIG, " } }\n", ""), "config-syntax", CONFIG, ""),
    "a number where a name belongs": fault(swap(CONFIG, '"onnxruntime"', "5"), "config-syntax", CONFIG, ""),
    "a field twice": fault(more(CONFIG, "max_batch_size: 8"), "config-syntax", CONFIG, ""),
    "a config in UTF-16": fault(add(CONFIG, "name: 'segment'".encode("utf-16")), "config-syntax", CONFIG, ""),
    "a config nested a thousand times": fault(
        more(CONFIG, "input {" * 1000), "config-syntax", CONFIG, "input[1]", "unknown-field"
    ),
    "a misspelt field": fault(
        swap(CONFIG, "max_batch_size", "max_batchsize"), "unknown-field", CONFIG, "max_batchsize", "batch-axis"
    ),
    "a field in the wrong place": fault(
        swap(CONFIG, "kind: KIND_CPU", "kind: KIND_CPU threads: 3"),
        "unknown-field",
        CONFIG,
        "instance_group[0].threads",
    ),
    "a data type of another library": fault(
        swap(CONFIG, "data_type: TYPE_UINT8 dims: [ 8, 8, 3 ]", "data_type: TYPE_FLOAT32 dims: [ 8, 8, 3 ]"),
        "unknown-value",
        CONFIG,
        "input[0].data_type",
    ),
    "dynamic batching on an ensemble": fault(
        more("whole/config.pbtxt", "dynamic_batching { }"),
        "two-schedulers",
        "whole/config.pbtxt",
        "dynamic_batching",
    ),
    "two schedulers": fault(
        more("segment/configs/gpu.pbtxt", "sequence_batching { }"),
        "two-schedulers",
        "segment/configs/gpu.pbtxt",
        "sequence_batching",
    ),
    "a field of a later Triton": fault(
        swap("whole/config.pbtxt", "ensemble_scheduling {", "ensemble_scheduling { max_inflight_requests: 4"),
        "field-too-new",
        "whole/config.pbtxt",
        "ensemble_scheduling.max_inflight_requests",
    ),
    "another name than the folder's": fault(swap(CONFIG, '"segment"', '"unet"'), "name-mismatch", CONFIG, "name"),
    "no backend": fault(
        both(rename(GRAPH, "segment/1/unet.onnx"), swap(CONFIG, 'backend: "onnxruntime"\n', "")),
        "backend-unknown",
        CONFIG,
        "backend",
        "graph-missing",
    ),
    "a negative batch": fault(
        swap("encode/config.pbtxt", "size: 4", "size: -1"), "batch-size", "encode/config.pbtxt", "max_batch_size"
    ),
    "a preferred batch above the largest": fault(
        swap("segment/configs/gpu.pbtxt", "batching { }", "batching { preferred_batch_size: [ 4, 8 ] }"),
        "batch-size",
        "segment/configs/gpu.pbtxt",
        "dynamic_batching.preferred_batch_size",
    ),
    "priorities without a default": fault(
        swap("segment/configs/gpu.pbtxt", "batching { }", "batching { priority_levels: 2 }"),
        "priority-level",
        "segment/configs/gpu.pbtxt",
        "dynamic_batching.priority_levels",
    ),
    "an input without a type": fault(
        swap(CONFIG, "data_type: TYPE_UINT8 dims: [ 8, 8, 3 ]", "dims: [ 8, 8, 3 ]"),
        "tensor-incomplete",
        CONFIG,
        "input[0]",
        "step-data-type",
    ),
    "an output without dims": fault(
        swap("whole/config.pbtxt", "data_type: TYPE_INT32 dims: [ 4 ]", "data_type: TYPE_INT32"),
        "tensor-incomplete",
        "whole/config.pbtxt",
        "output[2]",
    ),
    "an output twice": fault(
        more("encode/config.pbtxt", 'output { name: "frame" data_type: TYPE_INT32 dims: [ 4 ] }'),
        "tensor-duplicate",
        "encode/config.pbtxt",
        "output[2].name",
    ),
    "a dim of nothing": fault(
        swap("encode/config.pbtxt", "dims: 1 ", "dims: 0 "),
        "dims-invalid",
        "encode/config.pbtxt",
        "input[0].dims",
        "step-dims",
    ),
    "a format of three dims for one": fault(
        swap("encode/config.pbtxt", "dims: 1 ", "dims: 1 format: FORMAT_NHWC "),
        "dims-invalid",
        "encode/config.pbtxt",
        "input[0].format",
    ),
    "a reshape to more elements": fault(
        swap("encode/config.pbtxt", "dims: 1 ", "dims: 1 reshape { shape: [ 2 ] } "),
        "reshape-mismatch",
        "encode/config.pbtxt",
        "input[0].reshape",
    ),
    "a GPU for the CPU": fault(
        swap(CONFIG, "kind: KIND_CPU", "kind: KIND_CPU gpus: [ 0 ]"),
        "instance-group",
        CONFIG,
        "instance_group[0].gpus",
    ),
    "a profile without TensorRT": fault(
        swap(CONFIG, "kind: KIND_CPU", 'kind: KIND_CPU profile: [ "0" ]'),
        "instance-group",
        CONFIG,
        "instance_group[0].profile",
    ),
    "a response cache for a stream": fault(
        more(CONFIG, "response_cache { enable: true } model_transaction_policy { decoupled: true }"),
        "response-cache",
        CONFIG,
        "response_cache",
    ),
    "threads in words": fault(
        swap(CONFIG, 'string_value: "1"', 'string_value: "two"'),
        "parameter-invalid",
        CONFIG,
        'parameters["intra_op_thread_count"]',
    ),
    "no labels": fault(
        remove("classify/labels.txt"), "labels-missing", "classify/config.pbtxt", "output[0].label_filename"
    ),
    "too few labels": fault(
        add("classify/labels.txt", "one\ntwo\n"),
        "label-count",
        "classify/config.pbtxt",
        "output[0].label_filename",
    ),
    "an empty label": fault(
        add("classify/labels.txt", "one\n\nthree\n"), "label-blank", "classify/labels.txt", "probabilities"
    ),
    "a label twice": fault(
        add("classify/labels.txt", "one\ntwo\none\n"),
        "label-duplicate",
        "classify/labels.txt",
        "probabilities",
    ),
    "no Python": fault(add("encode/1/model.py", "def ("), "python-syntax", "encode/1/model.py", ""),
    "Python nested too deep": fault(
        add("encode/1/model.py", "-" * 100_000 + "1"), "python-syntax", "encode/1/model.py", ""
    ),
    "Python with a null byte": fault(add("encode/1/model.py", b"x = 1\0"), "python-syntax", "encode/1/model.py", ""),
    "no TritonPythonModel": fault(
        add("encode/1/model.py", SCRIPT.replace("Triton", "Titan")),
        "python-class",
        "encode/1/model.py",
        "TritonPythonModel",
    ),
}
FAULTS = FOLDERS | CONFIGS


@pytest.mark.parametrize("sown", FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_in_files_and_configs_is_found_where_it_is(sown: Fault, tmp_path: Path) -> None:
    assert_found(sown, tmp_path)
