"""Which of the server's tools do the work of the trials, and how each takes its arguments.

Four roles: `echo` answers with a text it was given, `slow` takes a number of seconds, `burst` sends so many progress
notifications, and `effect` leaves a trace of each start and each end in the witness file, which this side reads: the
only way to see from outside what ran, and how often.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tailrace.cli.arguments import Schema, alternatives, is_object

if TYPE_CHECKING:
    from tailrace.cli.check.model import Json

__all__ = ["ROLES", "Tool", "choose"]

ROLES = {
    "echo": "answers with the text it is given",
    "slow": "takes the number of seconds it is given, then answers",
    "burst": "sends as many progress notifications as it is given, then answers",
    "effect": "appends `start KEY` to the file named by TAILRACE_WITNESS, waits some seconds, appends `end KEY` "
    "unless it "
    "was cancelled, and answers with KEY",
}
# What a role needs to say, and the words by which an argument for it is known.
_WANTED: dict[str, tuple[str, ...]] = {"echo": ("text",), "slow": ("seconds",), "burst": ("count",),
                                       "effect": ("key", "seconds")}  # fmt: skip
_KINDS = {"text": ("string",), "key": ("string",), "seconds": ("number", "integer"), "count": ("integer", "number"),
          "size": ("integer", "number"), "pause": ("number",)}  # fmt: skip
_NAMES = {
    "text": r"text|message|msg|input|value|query|content",
    "key": r"key|id|name|token",
    "seconds": r"sec|duration|delay|time|wait|ms|milli",
    "count": r"count|times|steps|number|^n$|total|messages",
    "size": r"size|bytes|length",
    "pause": r"pause|interval|gap|sleep|delay",
}
_OPTIONAL = {"burst": ("size", "pause")}  # said where the tool has them
_MILLISECONDS = re.compile(r"ms$|milli")


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool in its role.

    Args:
        name: As the server calls it.
        template: Its arguments; a value such as `$text` stands for what a trial says.
        says: What the template can say.
    """

    name: str
    template: Json
    says: frozenset[str]

    def arguments(self, **values: Any) -> Json:
        """The arguments of one call; what the tool has no argument for is left out."""
        return {name: _filled(value, values) for name, value in self.template.items() if not _unsaid(value, values)}


def choose(
    role: str, name: str, listed: Sequence[Mapping[str, Any]], given: Json | None = None
) -> tuple[Tool | None, str]:
    """The tool for a role, or why there is none.

    Args:
        role: A key of `ROLES`.
        name: What the tool is called.
        listed: What `tools/list` gave.
        given: Its arguments, with `$text`, `$seconds`, `$count`, `$size`, `$pause` or `$key` as values
            (`$milliseconds` and `$wholeseconds` as well); None finds
            them in the tool's input schema.
    """
    found = next((tool for tool in listed if tool.get("name") == name), None)
    if found is None:
        return None, f"there is no tool {name!r}: name with --{role} one that {ROLES[role]}"
    if given is not None:
        return Tool(name, given, frozenset(_names_in(given))), ""
    schema: object = found.get("inputSchema")
    template, missing = _template(role, schema if is_object(schema) else {})
    if missing:
        return None, f"the tool {name!r} has no argument for {missing}: say how with --{role}-args"
    return Tool(name, template, frozenset(_names_in(template))), ""


# --- templates --------------------------------------------------------------------------------------


def _template(role: str, schema: Schema) -> tuple[Json, str]:
    properties: Mapping[str, Any] = schema.get("properties") or {}
    left = dict(properties)
    template: Json = {}
    for wanted in (*_WANTED[role], *_OPTIONAL.get(role, ())):
        name = _argument_for(wanted, left, schema, strict=wanted not in _WANTED[role])
        if name is not None:
            template[name] = f"${_unit(wanted, name, _kinds(left[name], schema))}{wanted}"
            del left[name]
        elif wanted in _WANTED[role]:
            return {}, wanted
    for name in schema.get("required") or ():
        if name in left:
            template[name] = _something(left[name], schema)
    return template, ""


def _unit(wanted: str, name: str, kinds: set[str]) -> str:
    if wanted not in ("seconds", "pause"):
        return ""
    return "milli" if _MILLISECONDS.search(name.lower()) else "" if "number" in kinds else "whole"


def _argument_for(wanted: str, left: Mapping[str, Any], root: Schema, *, strict: bool) -> str | None:
    """By type, the one whose name fits first; `strict`: only one whose name fits."""
    fitting = [name for name, one in left.items() if _kinds(one, root) & set(_KINDS[wanted])]
    by_name = [name for name in fitting if re.search(_NAMES[wanted], name.lower())]
    return next(iter(by_name or ([] if strict else fitting)), None)


def _kinds(schema: object, root: Schema) -> set[str]:
    return {str(one.get("type")) for one in alternatives(schema, root)} if is_object(schema) else set()


def _something(schema: object, root: Schema) -> Any:
    """A value for an argument that must be there and does not matter."""
    for one in alternatives(schema, root) if is_object(schema) else ():
        if "default" in one:
            return one["default"]
        if "const" in one or one.get("enum"):
            return one.get("const", (one.get("enum") or [None])[0])
        plain: dict[Any, Any] = {"integer": 1, "number": 1, "boolean": False, "array": [], "object": {}, "null": None}
        return plain.get(one.get("type"), "x")
    return "x"


def _names_in(template: Json) -> list[str]:
    return [_parts(value)[1] for value in template.values() if _parts(value)[1]]


def _parts(value: Any) -> tuple[str, str]:
    """The unit and the name in `$milliseconds`; nothing in a plain value."""
    found = (
        re.fullmatch(r"\$(milli|whole)?(text|key|seconds|count|size|pause)", value) if isinstance(value, str) else None
    )
    return (found[1] or "", found[2]) if found else ("", "")


def _unsaid(value: Any, values: Mapping[str, Any]) -> bool:
    name = _parts(value)[1]
    return bool(name) and name not in values


def _filled(value: Any, values: Mapping[str, Any]) -> Any:
    unit, name = _parts(value)
    if not name:
        return value
    said = values[name]
    return round(said * 1000) if unit == "milli" else math.ceil(said) if unit == "whole" else said
