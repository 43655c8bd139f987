"""The linter as a program: exit codes, output, time; every rule is written down and has a fault that breaks it."""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY, ROOT
from small_repositories import CONFIG, ENCODE, GRAPH, SEGMENT, add, faultless, findings, more, remove, segment, swap
from test_lint_configs import FAULTS as IN_CONFIGS
from test_lint_ensembles import FAULTS as IN_ENSEMBLES
from test_lint_ensembles import QUEUE, WHOLE
from test_lint_graphs import FAULTS as IN_GRAPHS

from export.lint.rules import RULES
from export.lint.triton import OLDEST, ONNX_RUNTIME, READS

FAULTS = IN_CONFIGS | IN_GRAPHS | IN_ENSEMBLES


def lint(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "export", "lint", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return faultless(tmp_path / "repository")


def test_the_faultless_repository_has_no_finding(repository: Path) -> None:
    assert findings(repository) == []


def test_every_rule_has_a_fault_that_breaks_it() -> None:
    assert len(FAULTS) == len(IN_CONFIGS) + len(IN_GRAPHS) + len(IN_ENSEMBLES)
    assert {sown.rule for sown in FAULTS.values()} == set(RULES)


def test_the_documentation_lists_the_rules_of_the_code() -> None:
    page = (ROOT / "docs" / "lint.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z-]+)` \| (error|warning) \| (.+) \|$", page, re.MULTILINE)
    assert rows == [(name, rule.severity, rule.asks) for name, rule in RULES.items()]


def test_a_clean_repository_ends_with_0(repository: Path) -> None:
    done = lint(repository, "--cores", 2)
    assert (done.returncode, done.stdout, done.stderr) == (0, "No fault found in 4 models.\n", "")


def test_warnings_alone_end_with_0_and_are_said(repository: Path) -> None:
    done = lint(repository, "--cores", 1)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "2 warnings in 2 files of 4 models."
    assert "2 instances × 1 threads = 2, more than cores (1)." in done.stdout


def test_an_error_ends_with_1_and_names_file_line_field_and_cure(repository: Path) -> None:
    swap(CONFIG, "dims: [ 8, 8, 3 ]", "dims: [ 8, 9, 3 ]")(repository)
    done = lint(repository, "--cores", 2)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines() == [
        f"{repository}/segment/config.pbtxt",
        "    4  error    dims  input[0].dims: image has dims [8, 9, 3] here, and [8, 8, 3] in segment/1/model.onnx.",
        "                Write dims: [8, 8, 3].",
        f"{repository}/whole/config.pbtxt",
        '   17  error    step-dims  ensemble_scheduling.step[1].input_map["image"]: pixels is UINT8 [8, 8, 3] in '
        "encode/config.pbtxt, and UINT8 [8, 9, 3] as image in segment/config.pbtxt.",
        "                Make both UINT8 [8, 8, 3] or both UINT8 [8, 9, 3].",
        "2 errors in 2 files of 4 models.",
    ]


def test_json_says_the_same(repository: Path) -> None:
    swap(CONFIG, "max_batch_size", "max_batchsize")(repository)
    done = lint(repository, "--json", "--cores", 2)
    assert done.returncode == 1
    answer = json.loads(done.stdout)
    assert {name: answer[name] for name in ("triton", "cores", "models", "errors", "warnings")} == {
        "triton": "2.51",
        "cores": 2,
        "models": 4,
        "errors": 4,
        "warnings": 0,
    }
    assert answer["findings"][0] == {
        "severity": "error",
        "rule": "unknown-field",
        "path": CONFIG,
        "field": "max_batchsize",
        "said": "There is no field max_batchsize at the top of a config.",
        "cure": "Write max_batch_size.",
        "line": 3,
    }


def test_what_is_no_repository_is_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    (tmp_path / "empty" / "folder").mkdir(parents=True)
    for words, said in (
        ([tmp_path / "gone"], "is no folder"),
        ([tmp_path / "file"], "is no folder"),
        ([tmp_path / "empty"], "holds no model"),
        (["--cores", "0"], "--cores must be at least 1"),
        (["--triton", "2.44"], "give a release from 2.45 to 2.72"),
        (["--triton", "24.10"], "give a release from 2.45 to 2.72"),
    ):
        done = lint(*words)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
        assert done.stderr.count("\n") == 1


def test_all_of_fovea_s_repository_takes_two_seconds_at_most() -> None:
    """Of three runs the fastest, for the tests may share the machine."""
    took = []
    for _ in range(3):
        started = time.monotonic()
        assert lint(REPOSITORY, "--cores", 2).returncode == 0
        took.append(time.monotonic() - started)
        if took[-1] <= 2:
            return
    pytest.fail(f"the linter took {min(took):.1f} s")


def test_the_linter_starts_no_framework() -> None:
    code = "import sys, export.lint.program; print(*{m.split('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert not {"onnx", "onnxruntime", "torch", "tensorflow", "keras", "cv2"} & set(done.stdout.split())


def test_all_unknown_fields_are_named_at_once(repository: Path) -> None:
    more(CONFIG, "colour: 3\nshape { of: 4 }\ninput { nam: 'x' }\n")(repository)
    unknown = [(f.field, f.line) for f in findings(repository) if f.rule == "unknown-field"]
    assert unknown == [("colour", 9), ("shape", 10), ("input[1].nam", 11)]


def test_a_later_triton_reads_more(repository: Path) -> None:
    add(GRAPH, segment(ir_version=11, opset=23))(repository)
    more("segment/config.pbtxt", QUEUE)(repository)
    swap(WHOLE, "ensemble_scheduling {", "ensemble_scheduling { max_inflight_requests: 4")(repository)
    rules = {version: {f.rule for f in findings(repository, version)} for version in ("2.51", "2.60", "2.63", "2.66.0")}
    assert rules == {
        "2.51": {"ir-too-new", "opset-too-new", "field-too-new", "queue-limit", "cpu-batching"},
        "2.60": {"field-too-new", "queue-limit", "cpu-batching"},
        "2.63": {"queue-limit", "cpu-batching"},
        "2.66.0": {"cpu-batching"},
    }


def test_the_step_that_all_requests_enter_by_may_limit_its_queue(repository: Path) -> None:
    more("encode/config.pbtxt", QUEUE)(repository)
    assert findings(repository, "2.51") == []


def test_every_release_has_an_onnx_runtime_that_is_known() -> None:
    assert set(ONNX_RUNTIME) == set(READS)
    assert list(ONNX_RUNTIME) == sorted(ONNX_RUNTIME)
    assert OLDEST + len(ONNX_RUNTIME) - 1 == 72


def test_an_ensemble_is_judged_with_every_variant_of_its_steps(repository: Path) -> None:
    add("encode/configs/gpu.pbtxt", ENCODE.replace("UINT8", "FP32"))(repository)
    (finding,) = findings(repository)
    assert (finding.rule, finding.path) == ("step-data-type", "whole/config.pbtxt")
    assert "encode/configs/gpu.pbtxt" in finding.said
    assert "segment/configs/gpu.pbtxt" in finding.said


def test_a_variant_may_name_another_graph(repository: Path) -> None:
    add("segment/configs/openvino.pbtxt", SEGMENT.replace("onnxruntime", "openvino"))(repository)
    add("segment/configs/half.pbtxt", SEGMENT + 'default_model_filename: "half.onnx"')(repository)
    add("segment/1/half.onnx", segment(opset=22))(repository)
    assert [(f.rule, f.path) for f in findings(repository)] == [("opset-too-new", "segment/1/half.onnx")]


def test_a_broken_config_is_not_reported_as_a_missing_model(repository: Path) -> None:
    swap(CONFIG, '"onnxruntime"', "5")(repository)
    assert {finding.path for finding in findings(repository)} == {CONFIG}


def test_shared_sessions_take_their_threads_once(repository: Path) -> None:
    more(CONFIG, 'parameters { key: "share_session_between_instances" value { string_value: "true" } }')(repository)
    swap(CONFIG, 'string_value: "1"', 'string_value: "2"')(repository)
    assert findings(repository) == []


def test_linting_changes_nothing(repository: Path) -> None:
    before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    remove("classify/labels.txt")(shutil.copytree(repository, repository.parent / "copy"))
    lint(repository)
    lint(repository.parent / "copy")
    assert {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()} == before


def test_a_fault_that_every_variant_has_is_said_once(repository: Path) -> None:
    swap("encode/config.pbtxt", "TYPE_UINT8", "TYPE_FP32")(repository)
    (finding,) = findings(repository)
    assert finding.rule == "step-data-type"
