"""Headers and trailers as programs see them: names in lower case, several values each, bytes under names in ``-bin``.

The same for the three protocols (Connect, "Binary-Header"; gRPC over HTTP/2, "Custom-Metadata").
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, TypeAlias, cast

__all__ = ["Fields", "Metadata", "Value", "decode_binary", "encode_binary"]

Value: TypeAlias = "str | bytes"
Fields: TypeAlias = "list[tuple[bytes, bytes]]"

_NAME = re.compile(r"[0-9a-z_.!#$&'*+^`|~-]+")
_TEXT = re.compile(r"[\t\x20-\x7e\x80-\xff]*")  # what a header field can carry (RFC 9110, 5.5)
_PROTOCOLS_OWN = re.compile(
    r"connect-(?:protocol-version|timeout-ms|content-encoding|accept-encoding)"
    r"|content-(?:type|length|encoding)|connection|transfer-encoding|keep-alive|upgrade|te|trailer|host|date"
    r"|grpc-(?:status|message|status-details-bin|timeout|encoding|accept-encoding|message-type)"
    r"|accept-encoding|accept-post|allow|proxy-.*|trailer-.*"
)


def encode_binary(value: bytes) -> str:
    """Bytes as the value of a ``-bin`` field: base64 without padding."""
    return b64encode(value).rstrip(b"=").decode("ascii")


def decode_binary(value: str) -> bytes:
    """The bytes that a ``-bin`` field's value stands for, padded or not.

    Raises:
        ValueError: It is no base64.
    """
    text = value.strip().rstrip("=")
    try:
        return b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError as error:
        raise ValueError(f"no base64: {error}") from None


class Metadata(MutableMapping[str, Value]):
    """Headers or trailers.

    As a mapping it has the first value of each name; `add` puts one more, `all` gives all. Names may be given in any
    case, and are in lower case then. A value is ``bytes`` under a name that ends with ``-bin``, else ``str``.

    Args:
        given: Names and their value, or values.

    Raises:
        ValueError: A name or value cannot be sent, or is the protocol's own (as ``content-type``, ``grpc-status``).
    """

    __slots__ = ("_values",)

    def __init__(self, given: Mapping[str, Value | Sequence[Value]] | None = None) -> None:
        self._values: dict[str, list[Value]] = {}
        for name, values in (given or {}).items():
            for value in [values] if isinstance(values, str | bytes) else values:
                self.add(name, value)

    # --- as it came and as it goes ---

    @classmethod
    def read(cls, fields: Iterable[tuple[bytes, str]]) -> Metadata:
        """What came: names in lower case, and values. A ``-bin`` value that is no base64 is passed over; one with
        commas is several."""
        metadata = cls()
        for key, value in fields:
            name = key.decode("latin-1")
            known = metadata._values.setdefault(name, [])
            if not name.endswith("-bin"):
                known.append(value)
                continue
            for part in value.split(","):
                try:
                    known.append(decode_binary(part))
                except ValueError:
                    continue
        return metadata

    def encode(self, prefix: bytes = b"") -> Fields:
        """As header fields, with `prefix` before each name."""
        return [(prefix + name.encode("latin-1"), value.encode("latin-1")) for name, value in self.texts()]

    def texts(self) -> Iterator[tuple[str, str]]:
        """All names and values in order, bytes as base64."""
        for name, values in self._values.items():
            for value in values:
                yield name, encode_binary(value) if isinstance(value, bytes) else value

    # --- several values ---

    def add(self, name: str, value: Value) -> None:
        """One more value under this name.

        Raises:
            ValueError: It cannot be sent, or the name is the protocol's own.
            TypeError: Text under a ``-bin`` name, or bytes under another one.
        """
        name = name.lower()
        self._check(name, value)
        self._values.setdefault(name, []).append(value)

    def all(self, name: str) -> list[Value]:
        """All values under this name; none is an empty list."""
        return list(self._values.get(name.lower(), ()))

    def update_all(self, other: Metadata) -> None:
        """Add all of `other`."""
        for name, values in other._values.items():
            self._values.setdefault(name, []).extend(values)

    # --- one value ---

    def get(self, name: str, default: Any = None, /) -> Any:
        """The first value under this name, or `default`."""
        values = self._values.get(name.lower())
        return values[0] if values else default

    def __getitem__(self, name: str) -> Value:
        values = self._values.get(name.lower())
        if not values:
            raise KeyError(name)
        return values[0]

    def __setitem__(self, name: str, value: Value) -> None:
        name = name.lower()
        self._check(name, value)
        self._values[name] = [value]

    def __delitem__(self, name: str) -> None:
        del self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return (name for name, values in self._values.items() if values)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(self._values.get(name.lower()))

    def __repr__(self) -> str:
        return f"Metadata({list(self)})"  # their values may be secrets

    @staticmethod
    def _check(name: str, value: Value) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name[:64]!r} cannot be the name of a header")
        if _PROTOCOLS_OWN.fullmatch(name):
            raise ValueError(f"{name!r} is the protocol's own")
        if name.endswith("-bin"):
            if not isinstance(value, bytes):
                raise TypeError(f"{name!r} takes bytes, as all names in -bin")
        elif not isinstance(cast("object", value), str):
            raise TypeError(f"{name!r} takes text; bytes go under a name in -bin")
        elif not _TEXT.fullmatch(cast("str", value)):
            raise ValueError(f"the value of {name!r} has characters that a header cannot carry")
