"""What a docstring says: the description, and one text a parameter.

Understands Google's ``Args:``, NumPy's ``Parameters`` and reST's ``:param x:``. The part that
describes parameters is taken out of the description, since each text goes to its own argument.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterable

__all__ = ["Docstring", "parse_docstring"]

_GOOGLE = re.compile(r"(?:Args|Arguments|Parameters|Params):\s*$")
_NUMPY = re.compile(r"(?:Parameters|Other Parameters)\s*$")
_REST = re.compile(r":(?:param|parameter|arg|argument)\s+(?:[^:]*?\s)??\*{0,2}(\w+)\s*:\s*(.*)$")
_REST_TYPE = re.compile(r":type\s+\w+\s*:")
_ITEM = re.compile(r"\*{0,2}(\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)$")
_NUMPY_ITEM = re.compile(r"\*{0,2}(\w+(?:\s*,\s*\w+)*)\s*(?::.*)?$")


@dataclasses.dataclass(frozen=True, slots=True)
class Docstring:
    """A docstring in parts.

    Attributes:
        description: The text without the part that describes parameters.
        parameters: One line of text for each parameter described.
    """

    description: str
    parameters: dict[str, str]


def parse_docstring(text: str | None, names: Iterable[str] = ()) -> Docstring:
    """Take a docstring apart.

    Args:
        text: The docstring, or None.
        names: The parameters there are; a section in which none of them is described stays part of
            the description.
    """
    if not text:
        return Docstring("", {})
    known = set(names)
    lines = inspect.cleandoc(text).splitlines()
    kept: list[str] = []
    parameters: dict[str, str] = {}
    at = 0
    while at < len(lines):
        found, after = _section(lines, at)
        if known.intersection(found):
            parameters.update({name: about for name, about in found.items() if name in known})
            at = after
        else:
            kept.append(lines[at])
            at += 1
    return Docstring(_tidy(kept), parameters)


def _section(lines: list[str], at: int) -> tuple[dict[str, str], int]:
    """What the lines from `at` on say of parameters, if a section begins there, and where it ends."""
    line = lines[at]
    if _GOOGLE.match(line):
        end = _end_of_indented(lines, at + 1)
        return _google(lines[at + 1 : end]), end
    if _NUMPY.match(line) and at + 1 < len(lines) and re.fullmatch(r"-{3,}\s*", lines[at + 1]):
        end = _end_of_numpy(lines, at + 2)
        return _numpy(lines[at + 2 : end]), end
    if _REST.match(line):
        return _rest(lines, at)
    return {}, at + 1


def _google(lines: list[str]) -> dict[str, str]:
    indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    found: dict[str, list[str]] = {}
    current: list[str] | None = None
    for line in lines:
        depth = len(line) - len(line.lstrip())
        item = _ITEM.match(line.strip()) if depth == indent else None
        if item is not None:
            current = found.setdefault(item[1], [item[2]])
        elif current is not None and line.strip():
            current.append(line.strip())
    return {name: " ".join(words).strip() for name, words in found.items()}


def _numpy(lines: list[str]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    current: list[list[str]] = []
    for line in lines:
        if line and not line[0].isspace():
            item = _NUMPY_ITEM.match(line)
            current = [found.setdefault(name.strip(), []) for name in item[1].split(",")] if item else []
        elif line.strip():
            for words in current:
                words.append(line.strip())
    return {name: " ".join(words) for name, words in found.items()}


def _rest(lines: list[str], at: int) -> tuple[dict[str, str], int]:
    item = _REST.match(lines[at])
    if item is None:
        return {}, at + 1
    words = [item[2]]
    at += 1
    while at < len(lines) and lines[at][:1].isspace() and lines[at].strip():
        words.append(lines[at].strip())
        at += 1
    while at < len(lines) and _REST_TYPE.match(lines[at]):
        at += 1
    return {item[1]: " ".join(words).strip()}, at


def _end_of_indented(lines: list[str], at: int) -> int:
    while at < len(lines) and (not lines[at].strip() or lines[at][0].isspace()):
        at += 1
    return at


def _end_of_numpy(lines: list[str], at: int) -> int:
    """NumPy's items stand at the margin, so a section ends where the next is underlined."""
    while at < len(lines):
        if at + 1 < len(lines) and lines[at].strip() and re.fullmatch(r"-{3,}\s*", lines[at + 1]):
            return at
        at += 1
    return at


def _tidy(lines: list[str]) -> str:
    text = "\n".join(line.rstrip() for line in lines).strip()
    return re.sub(r"\n{3,}", "\n\n", text)
