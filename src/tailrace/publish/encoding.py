"""Values and headers of a message as bytes, with what ties it to the request it came from."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tailrace.core.outgoing import Message
from tailrace.core.trace import trace_of
from tailrace.schema import encode_value

if TYPE_CHECKING:
    from tailrace.core.context import Context

__all__ = ["MAX_VALUE", "make_message"]

MAX_VALUE = 1024 * 1024  # bytes; brokers take about as much by default
_MAX_KEY = 1024  # bytes
_MAX_HEADERS = 16 * 1024  # bytes of names and values together
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")  # Kafka's rule, and a sound one for the others
_TRACING = ("traceparent", "tracestate")
_OWN = frozenset({"message-id", "correlation-id", "content-type", *_TRACING})


def make_message(
    context: Context,
    topic: str,
    value: Any,
    key: str | bytes | None = None,
    headers: Mapping[str, str | bytes] = {},
    trace: Mapping[str, str] | None = None,
) -> Message:
    """Encode one message; it gets its id here.

    Args:
        context: Of the request: its correlation id and trace go into the headers.
        topic: Letters, digits and ``. _ -``, at most 249.
        value: bytes as they are, str as UTF-8, anything else as JSON; at most 1 MiB.
        key: At most 1 KiB, or None.
        headers: More headers, at most 16 KiB; those that Tailrace sets itself cannot be given.
        trace: `traceparent` and `tracestate`, where they are not the context's.

    Raises:
        ValueError: One of them is not as said.
    """
    if not _TOPIC.fullmatch(topic) or topic in {".", ".."}:
        raise ValueError(f"no topic can be named {topic[:300]!r}: letters, digits and . _ - (249 at most)")
    body, content_type = _encode(value)
    if len(body) > MAX_VALUE:
        raise ValueError(f"the value has {len(body)} bytes; at most {MAX_VALUE} can be published")
    encoded_key = key.encode() if isinstance(key, str) else key
    if encoded_key is not None and len(encoded_key) > _MAX_KEY:
        raise ValueError(f"the key has {len(encoded_key)} bytes; at most {_MAX_KEY} are taken")
    id = secrets.token_hex(16)
    return Message(id, topic, encoded_key, body, _headers(context, id, content_type, headers, trace), time.time())


def _encode(value: Any) -> tuple[bytes, str]:
    if isinstance(value, (bytes, bytearray)):
        return bytes(value), "application/octet-stream"
    if isinstance(value, str):
        return value.encode(), "text/plain; charset=utf-8"
    return encode_value(value), "application/json"


def _headers(
    context: Context, id: str, content_type: str, given: Mapping[str, str | bytes], trace: Mapping[str, str] | None
) -> tuple[tuple[str, bytes], ...]:
    own: dict[str, str | bytes | None] = dict(trace_of(context) if trace is None else trace)
    own |= {"correlation-id": context.correlation_id, "message-id": id, "content-type": content_type}
    headers = [(name, _bytes(value)) for name, value in own.items() if value is not None]
    size = 0
    for name, value in given.items():
        if name.lower() in _OWN:
            raise ValueError(f"the header {name!r} is set by Tailrace itself")
        headers.append((name, _bytes(value)))
        size += len(name) + len(headers[-1][1])
    if size > _MAX_HEADERS:
        raise ValueError(f"the headers have {size} bytes; at most {_MAX_HEADERS} are taken")
    return tuple(headers)


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value
