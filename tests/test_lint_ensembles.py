"""Faults between an ensemble and its steps, and between models and the machine: each is found, with its cure."""

from pathlib import Path

import pytest
from small_repositories import (
    CONFIG,
    FLOAT,
    GRAPH,
    IN,
    OUT,
    Fault,
    add,
    assert_found,
    both,
    fault,
    graph,
    more,
    swap,
)

WARMUP = 'model_warmup { name: "w" batch_size: 1 inputs { key: "image" value { data_type: TYPE_STRING dims: [ 1 ] '
QUEUE = "dynamic_batching { default_queue_policy { max_queue_size: 8 } }\n"
WHOLE = "whole/config.pbtxt"
STEP = "ensemble_scheduling.step"
FAULTS = {
    "an ensemble without its platform": fault(
        swap(WHOLE, 'platform: "ensemble"', 'platform: "onnxruntime_onnx"'),
        "ensemble-platform",
        WHOLE,
        "platform",
    ),
    "an ensemble with a backend": fault(more(WHOLE, 'backend: "python"'), "ensemble-platform", WHOLE, "backend"),
    "an ensemble of nothing": fault(
        lambda r: add(WHOLE, (r / WHOLE).read_text(encoding="utf-8").partition("ensemble_scheduling")[0])(r),
        "ensemble-platform",
        WHOLE,
        "ensemble_scheduling",
    ),
    "instances of an ensemble": fault(
        more(WHOLE, "instance_group { count: 2 kind: KIND_CPU }"),
        "ensemble-settings",
        WHOLE,
        "instance_group",
    ),
    "optimization of an ensemble": fault(more(WHOLE, "optimization { }"), "ensemble-settings", WHOLE, "optimization"),
    "warm-up of an ensemble": fault(
        more(WHOLE, WARMUP + "zero_data: true } } }"), "ensemble-settings", WHOLE, "model_warmup"
    ),
    "a batch above a step's": fault(
        swap("segment/config.pbtxt", "max_batch_size: 4", "max_batch_size: 2"),
        "ensemble-batch",
        WHOLE,
        "max_batch_size",
    ),
    "an ensemble of itself": fault(
        swap(WHOLE, 'model_name: "segment"', 'model_name: "whole"'),
        "ensemble-recursion",
        WHOLE,
        "ensemble_scheduling",
    ),
    "a step without a model": fault(
        swap(WHOLE, 'model_name: "segment" ', ""),
        "step-incomplete",
        WHOLE,
        f"{STEP}[1]",
    ),
    "a step of an unknown model": fault(
        swap(WHOLE, 'model_name: "segment"', 'model_name: "unet"'),
        "step-model",
        WHOLE,
        f"{STEP}[1].model_name",
    ),
    "a step of a version that is not there": fault(
        swap(WHOLE, 'model_name: "segment" model_version: -1', 'model_name: "segment" model_version: 7'),
        "step-version",
        WHOLE,
        f"{STEP}[1].model_version",
    ),
    "a step of no version": fault(
        swap(WHOLE, 'model_name: "segment" model_version: -1', 'model_name: "segment"'),
        "step-version",
        WHOLE,
        f"{STEP}[1]",
    ),
    "a map to an input that is not there": fault(
        swap(WHOLE, 'input_map { key: "mask"', 'input_map { key: "masks"'),
        "step-input-unknown",
        WHOLE,
        f'{STEP}[2].input_map["masks"]',
        "step-input-missing",
    ),
    "an input that is not mapped": fault(
        both(
            swap(
                "segment/config.pbtxt",
                'output { name: "mask"',
                'input { name: "scale" data_type: TYPE_FP32 dims: [ 1 ] }\noutput { name: "mask"',
            ),
            add(GRAPH, graph(IN | {"scale": (FLOAT, ["N", 1])}, OUT)),
        ),
        "step-input-missing",
        WHOLE,
        f"{STEP}[1]",
        "input-missing",
    ),
    "a map from an output that is not there": fault(
        swap(WHOLE, 'output_map { key: "onward"', 'output_map { key: "onwards"'),
        "step-output-unknown",
        WHOLE,
        f'{STEP}[1].output_map["onwards"]',
    ),
    "two data types of one tensor": fault(
        swap("encode/config.pbtxt", "TYPE_UINT8", "TYPE_FP32"),
        "step-data-type",
        WHOLE,
        f'{STEP}[1].input_map["image"]',
    ),
    "two data types of an output": fault(
        swap(WHOLE, "TYPE_INT32", "TYPE_INT64"),
        "step-data-type",
        WHOLE,
        "output[2]",
    ),
    "two shapes of one tensor": fault(
        swap("encode/config.pbtxt", "[ 8, 8, 3 ]", "[ 8, 9, 3 ]"),
        "step-dims",
        WHOLE,
        f'{STEP}[1].input_map["image"]',
    ),
    "two shapes of an input": fault(
        swap(WHOLE, "dims: [ 1 ]", "dims: [ 2 ]"), "step-dims", WHOLE, f'{STEP}[0].input_map["image"]'
    ),
    "a tensor made twice": fault(
        swap(WHOLE, 'key: "onward" value: "onward"', 'key: "onward" value: "mask"'),
        "tensor-twice",
        WHOLE,
        f'{STEP}[1].output_map["onward"]',
        "tensor-not-made",
    ),
    "a tensor that is read and never made": fault(
        swap(WHOLE, 'key: "image" value: "pixels"', 'key: "image" value: "picture"'),
        "tensor-not-made",
        WHOLE,
        f'{STEP}[1].input_map["image"]',
        "tensor-unused",
    ),
    "a step that waits for itself": fault(
        swap(WHOLE, 'key: "image" value: "pixels"', 'key: "image" value: "onward"'),
        "tensor-cycle",
        WHOLE,
        f"{STEP}[1]",
        "tensor-unused",
        "step-dims",
    ),
    "an input that no one reads": fault(
        more(WHOLE, 'input { name: "age" data_type: TYPE_FP32 dims: [ 1 ] }'),
        "tensor-unused",
        WHOLE,
        "input[1]",
    ),
    "a tensor that no one reads": fault(
        swap(WHOLE, 'output { name: "frame" data_type: TYPE_INT32 dims: [ 4 ] }\n', ""),
        "tensor-unused",
        WHOLE,
        f'{STEP}[0].output_map["frame"]',
    ),
    "an output that no one makes": fault(
        more(WHOLE, 'output { name: "heatmap" data_type: TYPE_FP32 dims: [ 2, 2 ] }'),
        "output-not-made",
        WHOLE,
        "output[3]",
    ),
    "an output that a step reads": fault(
        both(
            swap(WHOLE, '    output_map { key: "onward" value: "onward" }\n', ""),
            swap(WHOLE, 'key: "mask" value: "onward"', 'key: "mask" value: "mask"'),
        ),
        "output-read-on",
        WHOLE,
        "output[0]",
    ),
    "a queue with an end": fault(
        more("segment/config.pbtxt", QUEUE),
        "queue-limit",
        "segment/config.pbtxt",
        "dynamic_batching.default_queue_policy.max_queue_size",
        "cpu-batching",
    ),
    "more threads than cores": fault(
        swap(CONFIG, 'string_value: "1"', 'string_value: "2"'),
        "threads",
        CONFIG,
        'parameters["intra_op_thread_count"]',
    ),
    "threads that are not said": fault(
        swap(CONFIG, 'parameters { key: "intra_op_thread_count" value { string_value: "1" } }\n', ""),
        "threads-unset",
        CONFIG,
        "instance_group",
    ),
    "instances that are not said": fault(
        swap(
            CONFIG,
            'count: 2 kind: KIND_CPU }\nparameters { key: "intra_op_thread_count" value { string_value: "1" } }',
            "kind: KIND_CPU }",
        ),
        "threads-unset",
        CONFIG,
        "instance_group",
    ),
    "dynamic batching on a CPU": fault(
        more(CONFIG, "dynamic_batching { }"), "cpu-batching", CONFIG, "dynamic_batching"
    ),
}


@pytest.mark.parametrize("sown", FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_of_an_ensemble_is_found_where_it_is(sown: Fault, tmp_path: Path) -> None:
    assert_found(sown, tmp_path)
