"""Two results side by side: a difference is told only where it is larger than what noise makes, and said plainly."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import __main__ as program
from benchmarks import compare
from benchmarks.results import SCHEMA
from benchmarks.statistics import noise, resampled

MACHINE = {"cpu": "one", "cpu_flags": ["avx2"], "cores": 2, "cgroup_cpu_max": "", "memory_gib": 16, "gpu": "none"}


def result(seed: int, slower: float = 1.0, mood: float = 0.03) -> dict[str, Any]:
    """Four rounds of a lone client: latencies with a heavy tail, each round a few per cent faster or slower."""
    generator = np.random.default_rng(seed)
    runs = []
    for turn in range(4):
        speed = slower * np.exp(generator.normal(0, mood))
        latencies = 20 * speed * np.exp(0.06 * np.abs(generator.standard_t(4, 64)))
        seconds = float(latencies.sum() / 1e3)
        run = {"contender": "gRPC", "concurrency": 1, "round": turn, "seconds": seconds, "server": {}}
        runs.append(run | {"latencies_ms": [float(latency) for latency in latencies]})
    environment = MACHINE | {"commit": "a", "sha256": {"fundus/config.pbtxt": "1"}}
    settings = {"requests_per_round": 64, "rounds": 4, "hardware": "cpu", "graphs": {}}
    return {
        "schema": SCHEMA,
        "scenario": "single",
        "task": "fundus",
        "environment": environment,
        "settings": settings,
        "runs": runs,
    }


def regressed(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return any(change.regression for change in compare.compared(a, b))


def test_two_hundred_pairs_of_the_same_raise_no_alarm() -> None:
    assert not any(regressed(result(2 * pair), result(2 * pair + 1)) for pair in range(200))


def test_a_difference_between_equals_is_told_in_few_cases() -> None:
    told = [
        change.decision != "no difference that can be told"
        for pair in range(100)
        for change in compare.compared(result(2 * pair), result(2 * pair + 1))
    ]
    assert np.mean(told) <= 0.06


def test_a_slowdown_of_a_fifth_is_always_found_and_named() -> None:
    for pair in range(30):
        changes = compare.compared(result(2 * pair), result(2 * pair + 1, slower=1.2))
        slower = {change.metric for change in changes if change.regression}
        assert {"images/s", "p50 ms"} & slower
        assert all(change.decision == "slower" for change in changes if change.regression)
        backwards = compare.compared(result(2 * pair + 1, slower=1.2), result(2 * pair))
        assert {"faster"} <= {change.decision for change in backwards}
        assert not any(change.regression for change in backwards)


def test_a_slowdown_of_a_twentieth_is_no_regression_of_more_than_a_tenth() -> None:
    found = [regressed(result(2 * pair, mood=0.015), result(2 * pair + 1, 1.05, mood=0.015)) for pair in range(60)]
    assert sum(found) <= 1


def test_a_result_that_moves_by_itself_cannot_show_a_difference() -> None:
    """Its second half is a quarter slower than its first: so much another result may differ for no reason."""
    moving = result(1, mood=0.0)
    for run in moving["runs"][2:]:
        run["latencies_ms"] = [1.25 * latency for latency in run["latencies_ms"]]
        run["seconds"] *= 1.25
    for change in compare.compared(moving, result(2, slower=1.2, mood=0.0)):
        if change.metric in ("images/s", "p50 ms"):
            assert change.noise > 0.2
        assert change.decision == "no difference that can be told" or change.noise < 0.2


def test_pieces_keep_neighbours_together_and_span_no_two_rounds() -> None:
    drawn = resampled([[1.0] * 240, [2.0] * 240], seed=0, resamples=50)
    pieces = drawn.reshape(50, 24, 20)
    assert ((pieces == 1).all(axis=2) | (pieces == 2).all(axis=2)).all()
    assert 1.2 < drawn.mean() < 1.8


def test_the_noise_of_a_result_is_what_its_halves_differ_by() -> None:
    def mean(values: Any) -> Any:
        return np.mean(values, axis=-1)

    assert noise([[1.0], [1.0], [2.0], [2.0]], mean) == pytest.approx(np.log(2))
    assert noise([[1.0], [2.0], [1.0], [2.0]], mean) == pytest.approx(np.log(2))
    assert noise([[1.0, 1.0, 3.0, 3.0]], mean) == pytest.approx(np.log(3))


def written(path: Path, told: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told))
    return path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["benchmarks", "compare", *map(str, arguments)])
    return program.main()


def test_the_program_ends_with_1_on_a_regression_and_0_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a = written(tmp_path / "a" / "single" / "fundus.json", result(1))
    b = written(tmp_path / "b" / "single" / "fundus.json", result(2, slower=1.3))
    assert run(monkeypatch, a, b) == 1
    said = capsys.readouterr()
    assert "slower" in said.out
    assert "more than 10% for the worse" in said.err
    assert run(monkeypatch, b.parent.parent, a.parent.parent, "--json") == 0
    changes = json.loads(capsys.readouterr().out)
    assert {change["metric"] for change in changes} == {"images/s", "p50 ms", "p90 ms", "p95 ms"}
    assert all(change["low"] <= change["high"] for change in changes)


def test_results_of_different_machines_are_refused_unless_asked_for_and_then_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = result(2)
    other["environment"] = other["environment"] | {"cores": 64, "commit": "b", "sha256": {"fundus/config.pbtxt": "2"}}
    other["settings"] = other["settings"] | {"rounds": 9}
    a, b = written(tmp_path / "a.json", result(1)), written(tmp_path / "b.json", other)
    assert run(monkeypatch, a, b) == 2
    said = capsys.readouterr().err
    assert "cores: 2 and 64; rounds: 4 and 9" in said
    assert "--anyway" in said
    assert run(monkeypatch, a, b, "--anyway") == 0
    said = capsys.readouterr().err
    for difference in ("cores: 2 and 64", "rounds: 4 and 9", "commit: a and b", "1 files (fundus/config.pbtxt)"):
        assert f"single fundus differs in {difference}." in said


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"schema": 1}, "is of schema 1, not"),
        ({"stopped": "the server ended"}, "is unfinished \\(the server ended\\): measure again"),
        ({"task": "retina"}, "have no scenario and task in common \\(single fundus; single retina\\)"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_reason(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, Any],
    sentence: str,
) -> None:
    a, b = written(tmp_path / "a.json", result(1)), written(tmp_path / "b.json", result(2) | change)
    assert run(monkeypatch, a, b) == 2
    assert re.search(sentence, capsys.readouterr().err)


def test_missing_and_broken_files_are_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a, broken = written(tmp_path / "a.json", result(1)), tmp_path / "broken.json"
    broken.write_text('{"schema": 2, "runs": [')
    (tmp_path / "empty").mkdir()
    for other, sentence in (
        (tmp_path / "none.json", "cannot be read"),
        (broken, "only a part"),
        (tmp_path / "empty", "holds no results"),
    ):
        assert run(monkeypatch, a, other) == 2
        said = capsys.readouterr().err
        assert sentence in said
        assert str(other) in said


def test_rates_found_are_compared_as_what_was_confirmed_and_what_was_too_high(tmp_path: Path) -> None:
    def found(rate: float, missed: float) -> dict[str, Any]:
        runs = [
            {"contender": "gRPC", "rate_per_s": missed, "verdict": "missed"},
            {"contender": "gRPC", "rate_per_s": rate, "verdict": "met"},
        ]
        return result(1) | {"scenario": "server", "runs": runs, "rate_per_s": rate}

    (same,) = compare.compared(found(40, 44), found(42, 43))
    assert same.decision == "no difference that can be told"
    (slower,) = compare.compared(found(40, 42), found(30, 31.5))
    assert (slower.decision, slower.regression) == ("slower", True)
    assert compare.compared(found(40, 42), found(40, 42) | {"rate_per_s": None}) == []
