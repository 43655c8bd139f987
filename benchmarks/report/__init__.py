"""Results → README, docs, plots and one page to show. What is shown is computed from the raw samples, nowhere else."""

from pathlib import Path

from benchmarks import results
from benchmarks.report import capacity, figures, page, readme
from benchmarks.results import FOLDER
from fovea.errors import UsageError

PAGE = Path("out/report.html")


def write(folder: Path = FOLDER, root: Path = Path()) -> int:
    """The README's and docs/capacity.md's parts, the plots beside the results, and `out/report.html`.

    Raises:
        UsageError: there are no results of `multi`, or some of another schema.
    """
    found = {scenario: results.load(folder, scenario) for scenario in page.SECTIONS if (folder / scenario).is_dir()}
    if "multi" not in found:
        raise UsageError(f"{folder} holds no results of multi: run make bench.")
    readme.between(root / "README.md", readme.markdown(found["multi"], found.get("peers", [])))
    if "growth" in found:
        readme.between(root / "docs" / "capacity.md", capacity.markdown(found["growth"], found["multi"]))
    for name, plot in figures.committed(found).items():
        figures.save(plot, folder / f"{name}.png", found)
    (root / PAGE).parent.mkdir(exist_ok=True)
    (root / PAGE).write_text(page.html(found), encoding="utf-8")
    print(f"Wrote README.md, the plots in {folder} and {PAGE}.")
    return 0
