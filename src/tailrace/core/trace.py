"""What ties a request to others across services: its trace (W3C Trace Context) and its correlation id."""

from __future__ import annotations

import re
from collections.abc import Callable

__all__ = ["TRACE_HEADERS", "read_trace"]

TRACE_HEADERS = (b"traceparent", b"tracestate", b"x-correlation-id", b"x-request-id")

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.{0,64})?")
_NOTHING = "0" * 32
_ID = re.compile(r"[\x21-\x7e]{1,128}")
_MAX_STATE = 512  # characters; what the specification asks to be passed on


def read_trace(get: Callable[[bytes], str | None]) -> dict[str, str]:
    """The values of a context that a request's headers give: `traceparent`, `tracestate`, `correlation_id`.

    The correlation id is the trace's id, else `x-correlation-id`, else `x-request-id`. What is not as the
    specification says, or longer than 128 characters, is passed over: it comes from a client.

    Args:
        get: Gives the value of a header, by its name in lower case.
    """
    values: dict[str, str] = {}
    parent = get(b"traceparent")
    trace = _TRACEPARENT.fullmatch(parent) if parent is not None else None
    if parent is not None and trace is not None and trace[1] != _NOTHING:
        values = {"traceparent": parent, "correlation_id": trace[1]}
        state = get(b"tracestate")
        if state is not None and state.isascii() and state.isprintable() and len(state) <= _MAX_STATE:
            values["tracestate"] = state
        return values
    for name in (b"x-correlation-id", b"x-request-id"):
        given = get(name)
        if given is not None and _ID.fullmatch(given):
            values["correlation_id"] = given
            return values
    return values
