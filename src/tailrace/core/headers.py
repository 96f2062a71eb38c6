"""The header fields of the request that brought a call, as its handler sees them: `Context.headers`.

They live in memory only, as long as the call. The store has none of them, and what outlives the call has them without
the fields in which clients prove who they are. A token that this server has checked goes no further than that check.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tailrace.core.exchange import Exchange

__all__ = ["CREDENTIALS", "NO_HEADERS", "RequestHeaders", "fields_of", "headers_of"]

CREDENTIALS = frozenset({b"authorization", b"proxy-authorization", b"cookie"})  # in which clients prove who they are


class RequestHeaders(Mapping[str, str]):
    """Header fields: names in any case, and the first value of each. Read-only.

    Args:
        fields: Names in lower case, and values; those of one name in their order.
    """

    __slots__ = ("_fields", "_values")

    def __init__(self, fields: Sequence[tuple[bytes, str]] = ()) -> None:
        self._fields = fields
        self._values: dict[str, list[str]] | None = None  # by name, once a handler looks: most do not

    @property
    def _by_name(self) -> dict[str, list[str]]:
        if self._values is None:
            values: dict[str, list[str]] = {}  # shown when it is whole: handlers in threads look, too
            for name, value in self._fields:
                values.setdefault(name.decode("latin-1"), []).append(value)
            self._values = values
        return self._values

    def __getitem__(self, name: str) -> str:
        return self._by_name[name.lower()][0]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._by_name

    def __iter__(self) -> Iterator[str]:
        """The names, in lower case."""
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def __repr__(self) -> str:
        """The names alone: values may be secrets, and this ends up in logs."""
        return f"<{type(self).__name__}: {', '.join(self) or 'none'}>"

    def all(self, name: str) -> list[str]:
        """All values, one for each line that carried the name; none is an empty list."""
        return list(self._by_name.get(name.lower(), ()))

    def without_credentials(self) -> RequestHeaders:
        """The same without `Authorization`, `Proxy-Authorization` and `Cookie`."""
        return RequestHeaders([field for field in self._fields if field[0] not in CREDENTIALS])


NO_HEADERS = RequestHeaders()


def fields_of(exchange: Exchange) -> list[tuple[bytes, str]]:
    """The fields of a request that its handler may see: not a token that was for this server, which checked it."""
    if exchange.access is None:
        return list(exchange.fields())
    return [field for field in exchange.fields() if field[0] != b"authorization"]


def headers_of(exchange: Exchange) -> RequestHeaders:
    """What a handler sees of them; made once for all requests of one head."""
    headers: RequestHeaders | None = exchange.verdicts.get("headers")
    if headers is None:
        headers = exchange.verdicts["headers"] = RequestHeaders(fields_of(exchange))
    return headers
