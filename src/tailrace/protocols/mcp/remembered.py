"""How what came of a call that runs once is remembered: in bytes, without an id, in no era's words."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from tailrace.wire import mcp
from tailrace.wire.content import Text

__all__ = ["ASKED", "ERROR", "PAUSED", "RESULT", "UNKNOWN", "RememberedError", "decode_error", "unknown"]

RESULT, ERROR, UNKNOWN = b"r", b"e", b"u"  # how a remembered answer begins: what follows is JSON
ASKED, PAUSED = b"q", b"p"  # how one begins that is not remembered: a question, or an error; the key stays open


class RememberedError(Struct, frozen=True, omit_defaults=True):
    """What follows `ERROR` and `PAUSED`: a JSON-RPC error."""

    code: int
    message: str
    data: Any = None


decode_error = msgspec.json.Decoder(RememberedError).decode


def unknown(text: str) -> bytes:
    """What follows `UNKNOWN`: the result that says so."""
    return mcp.encode(mcp.ToolResult([Text(text)], is_error=True))
