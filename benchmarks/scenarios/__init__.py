"""Ways to load a server; each writes one kind of result."""

from types import ModuleType

from benchmarks.scenarios import (
    coldstart,
    direct,
    growth,
    multi,
    offline,
    overload,
    peers,
    server,
    single,
    soak,
    sweep,
    tune,
)

SCENARIOS: dict[str, ModuleType] = {
    "single": single,
    "multi": multi,
    "server": server,
    "offline": offline,
    "overload": overload,
    "soak": soak,
    "coldstart": coldstart,
    "direct": direct,
    "peers": peers,
    "sweep": sweep,
    "growth": growth,
    "tune": tune,
}
"""Name → module with `arguments(parser)`, `async measure(task, options) -> Path` and `table(results)`."""
