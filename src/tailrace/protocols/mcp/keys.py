"""Idempotency keys: where a request may carry one, and which requests are the same call."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, cast

import msgspec
from msgspec import UNSET

from tailrace.errors import ProtocolError
from tailrace.wire.jsonrpc import INVALID_PARAMS

if TYPE_CHECKING:
    from tailrace.core.exchange import Exchange
    from tailrace.service import Tool
    from tailrace.wire import mcp

__all__ = ["MAX_KEY", "fingerprint_of", "idempotency_key"]

MAX_KEY = 255  # bytes of an idempotency key
_HEADER = b"idempotency-key"
_EXACT = 2**53  # up to here a float is the integer it looks like

_encode_sorted = msgspec.json.Encoder(order="sorted").encode


def idempotency_key(
    tool: Tool, arguments: Any, meta: mcp.Meta, exchange: Exchange | None, *, batch: bool = False
) -> str | None:
    """The key of a request, from the tool's argument, `_meta` or the header `Idempotency-Key`; None if it has none.

    Args:
        tool: A `once` tool.
        arguments: Decoded.
        meta: The request's.
        exchange: The POST that brought it; None where there are no headers.
        batch: It brought others as well, so that its headers name none of them.

    Raises:
        ProtocolError: -32602: two that differ; one that cannot be a key.
    """
    keys: list[tuple[str, str]] = []
    if isinstance(tool.once, str) and isinstance(arguments, dict):
        given = cast("dict[str, Any]", arguments).get(tool.once)
        if isinstance(given, str):  # else the arguments' own check has something to say, or it is null
            keys.append((f"the argument {tool.once}", given))
    if meta.idempotency_key is not UNSET:
        keys.append(("_meta", meta.idempotency_key))
    if exchange is not None:
        values = exchange.header_values(_HEADER)
        if values and batch:
            raise ProtocolError(
                INVALID_PARAMS, "the header Idempotency-Key cannot name one of a batch: put the key into _meta"
            )
        keys += [("the header Idempotency-Key", _unquoted(value)) for value in values]
    for place, key in keys:
        if not 0 < len(key.encode()) <= MAX_KEY:
            raise ProtocolError(INVALID_PARAMS, f"{place}: an idempotency key has 1 to {MAX_KEY} bytes")
        if key != keys[0][1]:
            raise ProtocolError(INVALID_PARAMS, f"the idempotency keys in {keys[0][0]} and in {place} differ")
    return keys[0][1] if keys else None


def fingerprint_of(tool: str, arguments: Any) -> bytes:
    """The same for equal calls: the order of members and the spelling of numbers do not count, all else does."""
    return hashlib.sha256(tool.encode() + b"\0" + _encode_sorted(_plain(arguments))).digest()


def _plain(value: Any) -> Any:
    """JSON has one kind of number: 1.0 is 1."""
    if isinstance(value, dict):
        return {name: _plain(member) for name, member in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_plain(item) for item in cast("list[Any]", value)]
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return int(value)
    return value


def _unquoted(value: str) -> str:
    """The header is a string in quotes where its client follows the draft (RFC 9651, 3.3.3), else it is as it is."""
    if len(value) < 2 or not (value.startswith('"') and value.endswith('"')):
        return value
    return value[1:-1].replace('\\"', '"').replace("\\\\", "\\")
