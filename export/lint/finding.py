"""What the linter says: which rule is broken, where, what was expected and came, and the cure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from export.lint.rules import RULES, Severity

NAMED = 6
MOST_DIMS = 10


@dataclass(frozen=True)
class Finding:
    """`path` is below the repository; `field` is empty where the whole file is meant, `line` unknown where None."""

    rule: str
    path: str
    field: str
    said: str
    cure: str
    line: int | None = None

    @property
    def severity(self) -> Severity:
        return RULES[self.rule].severity


def listed(names: Iterable[str]) -> str:
    """Some names in a sentence, not ten thousand."""
    known = list(names)
    more = f" and {len(known) - NAMED} more" if len(known) > NAMED else ""
    return ", ".join(known[:NAMED]) + more if known else "none"


def shaped(dims: Sequence[int]) -> str:
    """Dims in a sentence, the first of them where there are too many."""
    return f"[{', '.join(map(str, dims[:MOST_DIMS]))}{', …' if len(dims) > MOST_DIMS else ''}]"
