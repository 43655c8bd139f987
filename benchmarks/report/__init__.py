"""Results → README, docs, plots and one page to show. What is shown is computed from the raw samples, nowhere else."""

from pathlib import Path

from benchmarks import results
from benchmarks.report import capacity, figures, page, peers, readme
from benchmarks.results import FOLDER
from fovea.errors import UsageError

PAGE = Path("out/report.html")


def write(folder: Path = FOLDER, root: Path = Path()) -> int:
    """The parts of README.md, docs/peers.md and docs/capacity.md, the plots beside the results, and `out/report.html`.

    Raises:
        UsageError: there are no results of `multi`, or some of another schema.
    """
    found = {scenario: results.load(folder, scenario) for scenario in page.SECTIONS if (folder / scenario).is_dir()}
    if "multi" not in found:
        raise UsageError(f"{folder} holds no results of multi: run make bench.")
    shown = readme.markdown(found["multi"], found.get("offline", []), found.get("peers", []))
    readme.between(root / "README.md", shown)
    if "peers" in found:
        readme.between(root / "docs" / "peers.md", peers.markdown(found["peers"]))
    if "growth" in found:
        readme.between(root / "docs" / "capacity.md", capacity.markdown(found["growth"], found["multi"]))
    for name, plot in figures.committed(found).items():
        figures.save(plot, folder / f"{name}.png", found)
    (root / PAGE).parent.mkdir(exist_ok=True)
    (root / PAGE).write_text(page.html(found), encoding="utf-8")
    print(f"Wrote README.md, the plots in {folder} and {PAGE}.")
    return 0
