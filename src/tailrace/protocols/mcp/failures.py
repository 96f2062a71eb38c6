"""Why a request has no result: refusals, cancellations, and how an error is written."""

from __future__ import annotations

from tailrace.errors import CallCancelled, LimitError, ProtocolError
from tailrace.wire.jsonrpc import INVALID_REQUEST, encode_error

__all__ = ["DuplicateId", "PeerCancelled", "encode_failure", "no_room"]


class PeerCancelled(CallCancelled):
    """The client cancelled the call, and wants no answer (MCP, cancellation)."""


class DuplicateId(ProtocolError):
    """A second request under an id that is in flight. Answered under that id, it would end the first one at its
    client's, so it is refused without one."""

    def __init__(self, id: int | str) -> None:
        super().__init__(INVALID_REQUEST, f"a request with the id {str(id)[:64]!r} is in flight")


def no_room(answer: bytes) -> LimitError:
    """What is said of an answer that was made and cannot be kept for its reader."""
    text = f"the answer has {len(answer)} bytes, and too many answers that nobody has read are kept already"
    return LimitError("log", text)


def encode_failure(id: int | str | None, error: ProtocolError) -> bytes:
    """The encoded JSON-RPC error of a `ProtocolError`."""
    if error.data is not None:
        return encode_error(id, error.code, error.message, error.data)
    return encode_error(id, error.code, error.message)
