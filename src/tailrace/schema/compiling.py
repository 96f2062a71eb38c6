"""Functions that are written as source text and compiled, once for each type, as dataclasses do it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Compiler"]


class Compiler:
    """The functions of one file and the names they use. The text is ours; names of the user's in it are identifiers
    or quoted.

    Args:
        names: What all functions may call.
    """

    def __init__(self, names: dict[str, Any]) -> None:
        self.names = dict(names)

    def constant(self, value: Any) -> str:
        """A name under which functions find `value`."""
        name = f"constant{len(self.names)}"
        self.names[name] = value
        return name

    def function(self, source: str) -> Callable[[Any], Any]:
        """The function that an expression gives."""
        return eval(source, self.names)

    def define(self, lines: list[str]) -> None:
        """Make a function, which others find under its name."""
        exec("\n".join(lines), self.names)
