"""The tuner: changes what is faster beyond doubt, and nothing else."""

from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY

from benchmarks import __main__ as program
from benchmarks import results, target
from benchmarks.scenarios import tune
from fovea.tasks import TASKS

PRESENT = ("openvino as committed", 2, 1, None)
OTHER = ("openvino as committed", 1, 2, None)


def measured(*points: tuple[tuple[object, ...], int, float, float], slo_ms: float = 200) -> dict[str, Any]:
    """A result of (key, concurrency, images/s, latency of all 480 requests in ms)."""
    runs = [
        {
            "stage": "measured",
            **dict(zip(tune.LINES, key, strict=True)),
            "hardware": "openvino",
            "concurrency": concurrency,
            "round": 0,
            "seconds": 480 / rate,
            "latencies_ms": [latency] * 480,
        }
        for key, concurrency, rate, latency in points
    ]
    return {"task": "fundus", "settings": {"slo_ms": slo_ms}, "runs": runs, "present": list(PRESENT)}


def test_the_fastest_within_the_bound_is_chosen() -> None:
    best = tune.chosen(measured((PRESENT, 1, 20, 50), (OTHER, 4, 40, 100), (OTHER, 8, 60, 300)))
    assert best is not None
    assert (best.key, best.concurrency) == (OTHER, 4)


def test_a_gain_that_may_be_noise_changes_nothing() -> None:
    best = tune.chosen(measured((PRESENT, 4, 40, 100), (OTHER, 4, 41.5, 95)))
    assert best is not None
    assert best.key == PRESENT


def test_what_is_configured_gives_way_when_it_misses_the_bound() -> None:
    best = tune.chosen(measured((PRESENT, 4, 40, 300), (OTHER, 4, 30, 100)))
    assert best is not None
    assert best.key == OTHER


def test_too_few_requests_for_p99_choose_nothing() -> None:
    result = measured((PRESENT, 4, 40, 100))
    result["runs"][0]["latencies_ms"] = [100.0] * 458
    assert tune.chosen(result) is None
    assert "Nothing keeps p99" in tune.sentence(result)


def test_the_front_is_what_no_other_point_beats() -> None:
    result = measured((PRESENT, 1, 20, 50), (OTHER, 1, 19, 60), (PRESENT, 4, 40, 100), (OTHER, 4, 35, 90))
    assert [(p.key, p.concurrency) for p in tune.front(result)] == [(PRESENT, 1), (OTHER, 4), (PRESENT, 4)]


def test_only_configs_that_differ_are_written(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.pbtxt").write_text(name)
    assert tune._write({"a.pbtxt": "a", "b.pbtxt": "new"}, tmp_path) == ["b.pbtxt"]
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.pbtxt": "a", "b.pbtxt": "new"}


def test_all_splits_of_the_cores_are_candidates() -> None:
    (first, *_) = tune.candidates(TASKS["fundus"], REPOSITORY, 6)
    assert [(v.instances, v.threads) for v in tune.layouts(first, 6)] == [(1, 6), (2, 3), (3, 2), (6, 1)]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_bound_that_nothing_meets_is_a_sentence_and_changes_no_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"SCREEN": 4, "FULL": 153, "WARM_UP": 2, "FINALISTS": 1, "DELAYS_US": (0,)}.items():
        monkeypatch.setattr(tune, name, value)
    monkeypatch.setattr(target, "PICTURES", 4)
    before = {path: path.read_bytes() for path in REPOSITORY.rglob("*.pbtxt")}
    monkeypatch.setattr("sys.argv", ["benchmarks", "tune", "fundus", "--slo-ms", "0.01", "--results", str(tmp_path)])
    assert program.main() == 1
    assert "keeps p99 within 0.01 ms: the configs are unchanged" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in REPOSITORY.rglob("*.pbtxt")} == before
    kept = results.read(tmp_path / "tune" / "fundus.unfinished.json")
    assert "keeps p99" in kept["stopped"]
    assert {run["stage"] for run in kept["runs"]} == {"screened", "measured"}
