"""Protobuf text, read for what `text_format` does not tell: the line of each field, and all that is unknown at once."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from export.lint.finding import Finding

DEEPEST = 40
"""Triton's configs nest to seven; protobuf itself refuses a hundred."""
TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)|(?P<token>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|[\w.+-]+|[{}<>\[\]:,;/])""",
    re.ASCII,
)
STRING = re.compile(
    r"""(?:[^\\]|\\(?:[abfnrtv\\?'"]|[0-3]?[0-7]{1,2}|[xX][0-9a-fA-F]{1,2}"""
    r"""|u(?![dD][89a-fA-F])[0-9a-fA-F]{4}|U000[0-9a-fA-F]{5}|U0010[0-9a-fA-F]{4}))*"""
)
"""What protobuf's strings may hold; its Python parser is laxer than Triton's, or raises something else."""
QUOTES = "\"'"
OPEN = {"{": "}", "<": ">"}


@dataclass
class Scan:
    """`lines`: `input[0].dims` → 1, and for maps by key too: `parameters["task"]` → 7."""

    path: str
    lines: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def say(self, rule: str, name: str, line: int, said: str, cure: str) -> None:
        self.findings.append(Finding(rule, self.path, name, said, cure, line))


def scan(text: str, descriptor: Any, path: str) -> Scan:
    """Walk `text` beside the message's `descriptor`; where it is no protobuf text, leave the rest to the parser."""
    found = Scan(path)
    words = list(_words(text))
    _fields(words, 0, descriptor, "", found, 0)
    return found


def _words(text: str) -> Iterator[tuple[str, int]]:
    line, position = 1, 0
    while position < len(text):
        match = TOKEN.match(text, position)
        if match is None:
            return
        if match["token"]:
            yield match["token"], line
        line += match[0].count("\n")
        position = match.end()


def _fields(words: list[tuple[str, int]], at: int, descriptor: Any, prefix: str, found: Scan, depth: int) -> int:
    """Read fields up to the bracket that closes the message, or the end; the position after them."""
    counts: dict[str, int] = {}
    chosen: dict[str, str] = {}
    while at < len(words) and words[at][0] not in ("}", ">", "]"):
        name, line = words[at]
        known = descriptor.fields_by_name.get(name) if descriptor else None
        if descriptor and known is None:
            _unknown(name, line, descriptor, prefix, found)
        if known is not None and known.containing_oneof is not None:
            first = chosen.setdefault(known.containing_oneof.name, name)
            if first != name:
                _two(first, name, prefix, line, found)
        at += 1
        if at < len(words) and words[at][0] == ":":
            at += 1
        found.lines.setdefault(prefix + name, line)
        many = at < len(words) and words[at][0] == "["
        at += many
        while at < len(words) and not (many and words[at][0] == "]"):
            index = counts.get(name, 0)
            counts[name] = index + 1
            path = f"{prefix}{name}[{index}]" if known is not None and known.is_repeated else prefix + name
            found.lines.setdefault(path, words[at][1] if many else line)
            at = _value(words, at, known, path, found, depth)
            if not many:
                break
            at += at < len(words) and words[at][0] == ","
        at += many
        at += at < len(words) and words[at][0] in (",", ";")
    return at


def _value(words: list[tuple[str, int]], at: int, known: Any, path: str, found: Scan, depth: int) -> int:
    word, line = words[at]
    if word in OPEN:
        if depth == DEEPEST:
            top = path.partition(".")[0]
            found.say("config-syntax", top, line, f"Fields are nested deeper than {DEEPEST}.", "Take that part out.")
            return len(words)
        inner = known.message_type if known is not None else None
        end = _fields(words, at + 1, inner, f"{path}.", found, depth + 1)
        if inner is not None and inner.GetOptions().map_entry:
            key = next(
                (b for (a, _), (b, _) in zip(words[at:end], words[at + 2 : end], strict=False) if a == "key"), ""
            )
            found.lines.setdefault(f"{path[: path.rindex('[')]}[{key}]", line)
        return end + 1
    if known is not None and known.enum_type is not None and not _names(known.enum_type, word):
        values = [value.name for value in known.enum_type.values]
        close = get_close_matches(word, values, 1, 0.8)
        cure = f"Write {close[0]}." if close else f"Write one of {', '.join(values)}."
        found.say("unknown-value", path, line, f"{path.rsplit('.')[-1]} is {word}, which Triton does not have.", cure)
    at += 1
    if word[0] not in QUOTES:
        return at
    while True:
        if not STRING.fullmatch(word[1:-1]):
            found.say("config-syntax", path, line, f"{word} has a backslash that means nothing.", "Write it twice.")
        if at == len(words) or words[at][0][0] not in QUOTES:
            return at
        (word, line), at = words[at], at + 1  # neighbouring strings are one


def _names(enumeration: Any, word: str) -> bool:
    return word in enumeration.values_by_name or (word.isdigit() and int(word) in enumeration.values_by_number)


def _unknown(name: str, line: int, descriptor: Any, prefix: str, found: Scan) -> None:
    where = f"in {descriptor.name}" if prefix else "at the top of a config"
    close = get_close_matches(name, descriptor.fields_by_name, 1, 0.6)
    cure = f"Write {close[0]}." if close else "Take it out, or put it where it belongs."
    found.say("unknown-field", prefix + name, line, f"There is no field {name} {where}.", cure)


def _two(first: str, second: str, prefix: str, line: int, found: Scan) -> None:
    ensemble = "ensemble_scheduling" in (first, second)
    found.say(
        "two-schedulers",
        prefix + second,
        line,
        f"{first} and {second} stand together, of which a config may have one.",
        "Take the other out: an ensemble's steps are batched in their own configs."
        if ensemble
        else "Keep one of them.",
    )
