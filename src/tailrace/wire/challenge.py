"""`WWW-Authenticate: Bearer`: what a server wants to see of who asks, written and read (RFC 9110, 11.6.1; RFC 6750, 3).

MCP adds `resource_metadata`, where to find out about authorization servers (RFC 9728, 5.1).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from msgspec import Struct

__all__ = ["Challenge", "read_challenge", "write_challenge"]

_MAX = 8192  # characters of one header that are looked at
_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # RFC 9110, 5.6.2
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_PART = re.compile(rf"\s*(?:(?P<name>{_TOKEN})\s*=\s*(?P<value>{_TOKEN}|{_QUOTED})|(?P<scheme>{_TOKEN})|(?P<other>\S))")
_ESCAPE = re.compile(r"\\(.)")
_UNSAFE = re.compile(r"[^ -~]")


class Challenge(Struct, frozen=True):
    """What a server asks for.

    Attributes:
        error: ``invalid_token``, ``insufficient_scope`` or another; None where no token was shown.
        scopes: All that this request needs; empty: not said.
        resource_metadata: The address of the resource's metadata, or None.
        description: For people, or None.
    """

    error: str | None = None
    scopes: tuple[str, ...] = ()
    resource_metadata: str | None = None
    description: str | None = None


def read_challenge(values: Iterable[str]) -> Challenge | None:
    """The first ``Bearer`` challenge of these headers, or None; of a doubled parameter, the first counts."""
    for value in values:
        scheme, params = "", dict[str, str]()
        for part in _PART.finditer(value[:_MAX]):
            if part["scheme"]:
                if scheme == "bearer":
                    break
                scheme, params = part["scheme"].lower(), {}
            elif part["name"] and scheme == "bearer":
                params.setdefault(part["name"].lower(), _unquote(part["value"]))
        if scheme == "bearer":
            return Challenge(
                error=params.get("error"),
                scopes=tuple(dict.fromkeys(params.get("scope", "").split())),
                resource_metadata=params.get("resource_metadata"),
                description=params.get("error_description"),
            )
    return None


def write_challenge(params: Mapping[str, str | None]) -> bytes:
    """One ``Bearer`` challenge; parameters that are None are left out, and what no header can carry becomes ``?``."""
    said = [f"{name}={_quote(value)}" for name, value in params.items() if value is not None]
    return f"Bearer {', '.join(said)}".rstrip().encode("ascii")


def _quote(value: str) -> str:
    return '"' + _UNSAFE.sub("?", value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _unquote(value: str) -> str:
    return _ESCAPE.sub(r"\1", value[1:-1]) if value.startswith('"') else value
