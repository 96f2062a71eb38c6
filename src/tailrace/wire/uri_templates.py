"""URI templates (RFC 6570), read backwards: which values make this URI of the template?

Levels 1 to 3, and of level 4 the explode modifier where it can be undone: path segments (``{/path*}``) and query
parameters (``{?tag*}``). Not the prefix modifier (``{name:3}``): what it cut off is not in the URI. Every URI is read
in one way, in time that grows with its length: a variable ends where the literal behind it begins.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

__all__ = ["MAX_URI", "UriTemplate"]

MAX_URI: Final = 8192  # characters of a URI that is matched

_EXPRESSION: Final = re.compile(r"\{([+#./;?&]?)([^{}]*)\}")
_LEADS_OUT: Final = re.compile(r"^[/\\]|^[A-Za-z]:|(?:^|[/\\])\.\.(?:[/\\]|$)")
_VARIABLE: Final = re.compile(r"[A-Za-z_]\w*", re.ASCII)


class UriTemplate:
    """One template.

    Args:
        text: E.g. ``orders://{id}``, ``files://{+path}``, ``search://items{?q,tag*}``.
        any_path: Values may lead anywhere: nobody makes paths of them, or who does looks at them first.

    Attributes:
        names: Its variables, in order.
        lists: Those that are exploded: their values are lists.

    Raises:
        ValueError: It is no template, or cannot be read backwards; says why.
    """

    __slots__ = ("_any_path", "_in_query", "_pattern", "lists", "names", "text")

    def __init__(self, text: str, *, any_path: bool = False) -> None:
        self.text = text
        self._any_path = any_path
        self.names: tuple[str, ...] = ()
        self.lists: frozenset[str] = frozenset()
        self._in_query: frozenset[str] = frozenset()
        pieces = _EXPRESSION.split(text)  # literal, operator, variables, literal, …
        if any("{" in literal or "}" in literal for literal in pieces[::3]):
            raise ValueError("braces that are not closed, or are nested")
        self._pattern = re.compile(self._regex(pieces), re.DOTALL)

    def match(self, uri: str) -> dict[str, str | list[str]] | None:
        """The values of the variables, percent-decoded; None where the URI is not one of the template.

        Variables of the query may stand in any order or be absent, and names that the template does not have are passed
        over. A value that leads out of the folder that it is put behind matches nothing (``..`` as a path segment, a
        slash or a drive in front, NUL), unless that is asked for.
        """
        if len(uri) > MAX_URI:
            return None
        base, mark, query = uri.partition("?") if self._in_query else (uri, "", "")
        found = self._pattern.fullmatch(base)
        if found is None:
            return None
        raw = {name: value for name, value in found.groupdict().items() if value is not None}
        try:
            values: dict[str, str | list[str]] = {name: self._value(name, value) for name, value in raw.items()}
            if mark:
                self._read_query(query.partition("#")[0], values)
        except ValueError:
            return None
        return values

    def _value(self, name: str, raw: str) -> str | list[str]:
        return [self._decoded(part) for part in raw.split("/")[1:]] if name in self.lists else self._decoded(raw)

    def _decoded(self, value: str) -> str:
        """Raises `ValueError` for what is not UTF-8, or would lead out of where it is put."""
        text = unquote(value, errors="strict")
        if not self._any_path and ("\0" in text or _LEADS_OUT.search(text)):
            raise ValueError
        return text

    def _read_query(self, query: str, values: dict[str, str | list[str]]) -> None:
        for pair in query.split("&"):
            name, _, value = pair.partition("=")
            if name not in self._in_query:
                continue
            decoded = self._decoded(value.replace("+", " "))
            if name in self.lists:
                many = values.setdefault(name, [])
                assert isinstance(many, list)
                many.append(decoded)
            else:
                values[name] = decoded

    # --- reading the template ---

    def _regex(self, pieces: list[str]) -> str:
        regex = re.escape(pieces[0])
        wide = 0  # variables that may hold slashes: with two of them a URI could be read in many ways
        for index in range(1, len(pieces), 3):
            operator, inside, literal = pieces[index : index + 3]
            if operator in "?&" and operator:
                self._query(operator, inside)
                if literal:
                    raise ValueError("a query stands at the end")
                continue
            if self._in_query:
                raise ValueError("a query stands at the end")
            followed = pieces[index + 3] if index + 3 < len(pieces) else None
            if not literal and operator in "+" and followed is not None and followed in "+":
                raise ValueError("two variables need something between them")
            specs = self._variables(inside)
            wide += operator in ("+", "#") or any(exploded for _, exploded in specs)
            regex += self._expression(operator, specs, literal[:1]) + re.escape(literal)
        if wide > 1:
            raise ValueError("only one variable may hold several path segments")
        return regex

    def _variables(self, inside: str) -> list[tuple[str, bool]]:
        specs: list[tuple[str, bool]] = []
        for spec in inside.split(","):
            name, exploded = spec.removesuffix("*"), spec.endswith("*")
            if ":" in name:
                raise ValueError(f"the prefix modifier of {spec!r} cannot be undone")
            if not _VARIABLE.fullmatch(name):
                raise ValueError(f"{spec!r} is no variable; its name is that of a parameter")
            if name in self.names:
                raise ValueError(f"{name!r} is there twice")
            self.names = (*self.names, name)
            if exploded:
                self.lists |= {name}
            specs.append((name, exploded))
        return specs

    def _query(self, operator: str, inside: str) -> None:
        if operator == "?" and self._in_query:
            raise ValueError("a URI has one query; go on with {&name}")
        self._in_query |= {name for name, _ in self._variables(inside)}

    def _expression(self, operator: str, specs: list[tuple[str, bool]], stop: str) -> str:
        names = [name for name, _ in specs]
        exploded = [name for name, many in specs if many]
        if exploded and operator != "/":
            raise ValueError(f"{exploded[0]!r} can be a list as {{/{exploded[0]}*}} or {{?{exploded[0]}*}} only")
        if operator in ("+", "#"):
            if len(names) > 1:
                raise ValueError("only one variable may hold several path segments")
            return f"(?P<{names[0]}>.+)" if operator == "+" else f"(?:\\#(?P<{names[0]}>.*))?"
        if operator == "/":
            return "".join(
                f"(?P<{name}>(?:/[^/?\\#]*)*)" if many else f"(?:/(?P<{name}>[^/?\\#]+))?" for name, many in specs
            )
        if operator == ".":
            return "".join(f"(?:\\.(?P<{name}>[^/?\\#.]+))?" for name in names)
        if operator == ";":
            return "".join(f"(?:;{name}(?:=(?P<{name}>[^/?\\#;]*))?)?" for name in names)
        last = names[-1]
        first = "".join(f"(?P<{name}>[^/?\\#,]+)," for name in names[:-1])
        once = "+" if stop else ""  # it ends where the literal begins, so there is no use in trying a shorter one
        return first + f"(?P<{last}>[^/?\\#{re.escape(stop)}]+{once})"
