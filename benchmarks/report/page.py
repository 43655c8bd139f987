"""One self-contained page: every scenario's plots and tables, the machine, and how to measure again."""

import base64
import html as escape
import io
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from rich.console import Console

from benchmarks.report import figures, readme
from benchmarks.results import Result
from benchmarks.scenarios import SCENARIOS

SECTIONS = (
    "multi",
    "peers",
    "single",
    "server",
    "offline",
    "overload",
    "sweep",
    "direct",
    "tune",
    "coldstart",
    "soak",
    "growth",
)
"""The order on the page."""
WIDTH = 190
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1200px; padding: 0 1rem; color: #222 }
h2 { margin-top: 3rem; border-bottom: 1px solid #ccc }
img { max-width: 100% }
pre { font: 12px/1.35 ui-monospace, Menlo, Consolas, monospace; overflow-x: auto; background: #f7f7f7; padding: 1rem }
p.machine { color: #555 }
nav a { margin-right: 1rem }
"""


def html(found: Mapping[str, Sequence[Result]]) -> str:
    """The page, with its pictures inside."""
    present = [name for name in SECTIONS if name in found]
    links = "".join(f'<a href="#{name}">{name}</a>' for name in present)
    body = "".join(_section(name, found[name]) for name in present)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Fovea: benchmarks</title>'
        f"<style>{STYLE}</style></head><body><h1>Fovea: benchmarks</h1><nav>{links}</nav>{body}</body></html>\n"
    )


def _section(name: str, results: Sequence[Result]) -> str:
    module = SCENARIOS[name]
    about = (module.__doc__ or "").splitlines()[0].removeprefix(f"{name}: ")
    measured = f"{results[0]['date']}, commit {results[0]['environment']['commit']}: {readme.machine(results[0])}."
    plots = "".join(_image(plot(results), plot.__doc__ or name) for plot in figures.PLOTS.get(name, ()))
    failed = "".join(f"<p><strong>{escape.escape(text)}</strong></p>" for r in results for text in r.get("failed", []))
    return (
        f'<h2 id="{name}">{name}</h2><p>{escape.escape(about[:1].upper() + about[1:])}</p>{plots}{failed}'
        f"<pre>{escape.escape(_text(module.table(results)))}</pre>"
        f'<p class="machine">Measured {escape.escape(measured)} Again: <code>python -m benchmarks {name} '
        f"{' '.join(result['task'] for result in results)}</code></p>"
    )


def _image(figure: Figure, caption: str) -> str:
    written = io.BytesIO()
    figure.savefig(written, dpi=110)
    coded = base64.b64encode(written.getvalue()).decode()
    return f'<figure><img alt="{escape.escape(caption)}" src="data:image/png;base64,{coded}"></figure>'


def _text(shown: object) -> str:
    console = Console(file=io.StringIO(), width=WIDTH, record=True)
    console.print(shown)
    return "\n".join(line.rstrip() for line in console.export_text().splitlines())
