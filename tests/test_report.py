"""The report says what the samples say, and no committed figure is older than its samples."""

import shutil
from pathlib import Path

import pytest
from conftest import ROOT

from benchmarks import report, results
from benchmarks.report import capacity, figures, page, peers, readme
from benchmarks.scenarios import SCENARIOS
from fovea.errors import UsageError

FOUND = {name: results.load(ROOT / results.FOLDER, name) for name in page.SECTIONS}


def test_every_scenario_has_its_place_on_the_page_and_committed_results() -> None:
    assert set(page.SECTIONS) == set(SCENARIOS)
    assert set(figures.PLOTS) <= set(SCENARIOS)


def test_the_page_holds_every_section_and_needs_no_other_file() -> None:
    text = page.html(FOUND)
    assert all(f'<h2 id="{name}">' in text for name in page.SECTIONS)
    assert text.count("<img ") == text.count('src="data:image/png;base64,') == sum(map(len, figures.PLOTS.values()))
    assert "http" not in text.replace("HTTP", "").partition("</style>")[2].split("src=")[0]


def test_the_committed_plots_are_made_from_the_committed_samples() -> None:
    plots = figures.committed(FOUND)
    for name in plots:
        assert figures.made_from(ROOT / results.FOLDER / f"{name}.png") == figures.source(FOUND), "run make report"


def test_the_capacity_page_is_made_from_the_committed_samples() -> None:
    text = (ROOT / "docs" / "capacity.md").read_text(encoding="utf-8")
    shown = text.partition(readme.BEGIN)[2].partition(readme.END)[0].strip()
    assert shown == capacity.markdown(FOUND["growth"], FOUND["multi"])


def test_the_page_of_the_peers_is_made_from_the_committed_samples() -> None:
    text = (ROOT / "docs" / "peers.md").read_text(encoding="utf-8")
    shown = text.partition(readme.BEGIN)[2].partition(readme.END)[0].strip()
    assert shown == peers.markdown(FOUND["peers"])


def test_machines_are_rounded_up_and_never_filled_to_the_brim() -> None:
    assert capacity._machines(rate=100, load=70) == 1
    assert capacity._machines(rate=100, load=70.1) == 2
    assert capacity._price(rate=100, cores=2) == pytest.approx(1e6 / 70 / 3600 * 2 * capacity.PRICE)


def test_a_page_without_its_markers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("nothing")
    with pytest.raises(UsageError, match="has lost the markers"):
        readme.between(tmp_path / "README.md", "text")
    assert (tmp_path / "README.md").read_text() == "nothing"


def test_without_results_there_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="make bench"):
        report.write(tmp_path, tmp_path)


def test_another_schema_is_refused_and_nothing_is_rewritten(tmp_path: Path) -> None:
    shutil.copytree(ROOT / results.FOLDER / "multi", tmp_path / "multi")
    path = tmp_path / "multi" / "fundus.json"
    path.write_text(path.read_text().replace(f'"schema": {results.SCHEMA}', '"schema": 1'))
    shutil.copy(ROOT / "README.md", tmp_path)
    with pytest.raises(UsageError, match="schema 1"):
        report.write(tmp_path, tmp_path)
    assert (tmp_path / "README.md").read_bytes() == (ROOT / "README.md").read_bytes()
