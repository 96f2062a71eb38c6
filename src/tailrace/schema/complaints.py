"""One form of message for JSON that does not fit, whichever library found it out.

The reader is a program's author or a language model that will try again, so a message names the
value, says what was expected, and what was given. Text that came from the peer is cut short.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from tailrace.errors import TailraceError

__all__ = [
    "Complaint",
    "complaint_of_jsonschema",
    "complaint_of_msgspec",
    "complaint_of_pydantic",
    "problems_of_pydantic",
    "shorten",
]

_TEXT_LIMIT = 100  # characters of the peer's own text that a message repeats
_SENTENCE_LIMIT = 300
_MOST = 5  # complaints of pydantic that one message names
_LISTED = 10_000  # of them; pydantic can list all or none, and a caller can make millions: seconds, and gigabytes

_MISSING = re.compile(r"Object missing required field `(.*)`", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_NO_CHOICE = re.compile(r"Invalid (?:enum )?value (.*)", re.DOTALL)
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")

_JSON_NAMES: dict[type, str] = {dict: "object", list: "array", tuple: "array", type(None): "null"}
_EXPECTED = {  # the first word of pydantic's error type -> the name msgspec gives such a value
    "bool": "bool",
    "bytes": "bytes",
    "date": "date",
    "datetime": "datetime",
    "decimal": "decimal",
    "dataclass": "object",
    "dict": "object",
    "float": "float",
    "frozen": "array",
    "int": "int",
    "list": "array",
    "mapping": "object",
    "model": "object",
    "none": "null",
    "set": "array",
    "string": "str",
    "time": "time",
    "timedelta": "duration",
    "tuple": "array",
    "url": "url",
    "uuid": "uuid",
}
_TYPE_NAMES = {"string": "str", "integer": "int", "number": "float", "boolean": "bool"}
_BOUNDS = {  # pydantic's error type -> where its detail stands, and the sign
    "greater_than": ("gt", ">"),
    "greater_than_equal": ("ge", ">="),
    "less_than": ("lt", "<"),
    "less_than_equal": ("le", "<="),
}


class Complaint(TailraceError):
    """JSON, or a value that was to become JSON, does not fit its declared type.

    Attributes:
        message: One sentence, as the caller reads it.
        path: Of the value that does not fit; empty where it is the whole.
    """

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.path = path


def complaint_of_msgspec(error: Exception, schema: Mapping[str, Any]) -> tuple[str, str]:
    """Say in one sentence what msgspec found, and the path of the value; `schema` gives the names and choices."""
    if isinstance(error, RecursionError):
        return "arguments are nested too deeply", ""
    if type(error).__name__ != "ValidationError":
        return f"arguments are not valid JSON: {error}", ""
    text, path = _split(str(error))
    if found := _MISSING.fullmatch(text):
        return _missing(path, found[1]), _join(path, found[1])
    if found := _UNKNOWN.fullmatch(text):
        known = _node(schema, path).get("properties", {})
        return _unknown(path, found[1], known), _join(path, shorten(found[1]))
    if found := _NO_CHOICE.fullmatch(text):
        text = _no_choice(found[1], _choices(_node(schema, path), schema))
    elif not path:
        return "arguments must be an object" + text.replace("`", "").removeprefix("Expected object"), ""
    return f"argument {path!r}: {_lower(shorten(text.replace('`', ''), _SENTENCE_LIMIT))}", path


def complaint_of_jsonschema(error: Any) -> tuple[str, str]:
    """Say what jsonschema-rs found in an object of arguments, and the path of the value that does not fit."""
    path = _path("", error.instance_path).removeprefix(".")
    where = f"argument {path!r}" if path else "arguments"
    return f"{where}: {_lower(shorten(error.message, _SENTENCE_LIMIT))}", path


def complaint_of_pydantic(error: Exception, name: str) -> tuple[str, str]:
    """Say what pydantic found in the argument `name`, and the path of the first value that does not fit."""
    found, more = problems_of_pydantic(error, name)
    sentences = [f"argument {holder!r}: {what}" for holder, what, _ in found]
    if more:
        sentences.append(f"and {more} more")
    return "; ".join(sentences), found[0][2]


def problems_of_pydantic(error: Exception, name: str) -> tuple[list[tuple[str, str, str]], int]:
    """What pydantic found in the value called `name`: the first few, each as the path to name, what is wrong, and the
    value's path; and how many more there are."""
    errors: Callable[..., list[dict[str, Any]]] | None = getattr(error, "errors", None)
    if errors is None:
        return [(name, shorten(str(error), _SENTENCE_LIMIT), name)], 0
    count: int = cast("Any", error).error_count()
    if count > _LISTED:
        return [(name, f"{count} things in it do not fit", name)], 0
    return [_problem(one, name) for one in errors(include_url=False)[:_MOST]], max(0, count - _MOST)


def shorten(text: str, limit: int = _TEXT_LIMIT) -> str:
    """Cut text that came from the peer to `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


# --- sentences ----------------------------------------------------------------------------------


def _missing(path: str, name: str) -> str:
    return f"argument {path!r}: missing required field {name!r}" if path else f"missing required argument {name!r}"


def _unknown(path: str, name: str, known: Iterable[str]) -> str:
    sentence = f"argument {path!r}: unknown field" if path else "unknown argument"
    sentence = f"{sentence} {shorten(name)!r}"
    near = difflib.get_close_matches(name[:_TEXT_LIMIT], list(known), n=1)
    return f"{sentence}; did you mean {near[0]!r}?" if near else sentence


def _no_choice(given: str, choices: list[str]) -> str:
    given = shorten(given)
    if not choices:
        return f"invalid value {given}"
    return f"expected {'one of ' if len(choices) > 1 else ''}{', '.join(choices)}, got {given}"


def _problem(one: dict[str, Any], name: str) -> tuple[str, str, str]:
    path, given, details = _path(name, one["loc"]), one.get("input"), one.get("ctx", {})
    kind = str(one["type"])
    expected = _EXPECTED.get(kind.split("_")[0])
    if kind in ("missing", "extra_forbidden"):
        verb = "missing required" if kind == "missing" else "unknown"
        return _path(name, one["loc"][:-1]), f"{verb} field {shorten(str(one['loc'][-1]))!r}", path
    if kind in _BOUNDS:
        key, sign = _BOUNDS[kind]
        what = f"expected {_json_name(given)} {sign} {details[key]}"
    elif "expected" in details:
        what = f"expected {details['expected']}, got {shorten(repr(given))}"
    elif expected is not None and kind.rpartition("_")[2] in ("type", "parsing", "float"):
        what = f"expected {expected}, got {_json_name(given)}"
    else:
        text = str(one["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
        what = _lower(shorten(text, _SENTENCE_LIMIT))
    return path, what, path


def _json_name(value: Any) -> str:
    kind = cast("type[Any]", type(value))
    return _JSON_NAMES.get(kind, kind.__name__)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


# --- paths --------------------------------------------------------------------------------------


def _split(text: str) -> tuple[str, str]:
    """Part ``Expected `int`, got `str` - at `$.a[0]``` into what is wrong, and ``a[0]``."""
    what, _, where = text.rpartition(" - at `")
    if not what:
        return text, ""
    in_key = where.startswith("key` in `")
    path = where.removeprefix("key` in `").removesuffix("`").removeprefix("$").removeprefix(".")
    return (f"{what} as a key" if in_key else what), path


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _path(name: str, location: Sequence[int | str]) -> str:
    steps = (f"[{step}]" if isinstance(step, int) else f".{shorten(step)}" for step in location)
    return name + "".join(steps)


def _node(schema: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    """The part of a schema that describes the value at `path`, or an empty one where it cannot be told."""
    node: Mapping[str, Any] = schema
    for field, index in _STEP.findall("." + path if path and path[0] != "[" else path):
        node = _follow(node, schema)
        if field:
            node = node.get("properties", {}).get(field, {})
        elif index == "...":
            node = node.get("additionalProperties", {})
        else:
            prefix = node.get("prefixItems", [])
            node = prefix[int(index)] if int(index) < len(prefix) else node.get("items", {})
        if not isinstance(node, dict):
            return {}
    return _follow(node, schema)


def _follow(node: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" in node:
        node = schema.get("$defs", {}).get(node["$ref"].rpartition("/")[2], {})
    objects = [one for one in node.get("anyOf", []) if one != {"type": "null"}]
    return _follow(objects[0], schema) if len(objects) == 1 else node


def _choices(node: Mapping[str, Any], schema: Mapping[str, Any]) -> list[str]:
    choices = [repr(choice) for choice in node.get("enum", [])]
    for part in node.get("anyOf", []):
        one = _follow(part, schema)
        kind = str(one.get("type", "another type"))
        choices += _choices(one, schema) or [_TYPE_NAMES.get(kind, kind)]
    return choices
