"""Every exception Tailrace raises, sorted by whose fault it is: yours, theirs, or the world's.

Foreign exceptions (msgspec, sqlite3, sockets) are mapped to these at one border each; everything
below that border can rely on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any

__all__ = [
    "AnswerWritten",
    "AuthorizationError",
    "CallCancelled",
    "CapabilityError",
    "ClientGone",
    "Code",
    "DeadlineExceeded",
    "DefinitionError",
    "EntryTaken",
    "LimitError",
    "ProtocolError",
    "RequestRefused",
    "ResourceNotFound",
    "RpcDeadlineExceeded",
    "RpcError",
    "StepError",
    "StoreBusy",
    "StoreError",
    "StoreLost",
    "StoreTooNew",
    "StreamEnded",
    "StreamReset",
    "TailraceError",
    "ToolError",
    "TransportError",
]


def _utf8(text: str) -> str:
    """A text that can be sent: half a surrogate pair, as in the name of a file that is not UTF-8, is spelled out."""
    if not isinstance(text, str) or text.isascii():  # pyright: ignore[reportUnnecessaryIsInstance]
        return text
    return text.encode(errors="backslashreplace").decode()


class TailraceError(Exception):
    """The base of every exception that Tailrace raises itself."""


# --- yours: the program that uses Tailrace ------------------------------------------------------


class DefinitionError(TailraceError, TypeError):
    """A tool, a service or an option is defined in a way that cannot work; raised at definition time."""


class ToolError(TailraceError):
    """Raise it in a tool to answer the caller with ``isError`` and this text, without a log record.

    Args:
        message: What the caller reads.
        data: JSON-able details; they become the result's ``structuredContent``.
    """

    def __init__(self, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.message = _utf8(message)
        self.data = data


class ResourceNotFound(ToolError):
    """Raise it in a resource where nothing stands at the URI that was asked for.

    Args:
        message: What the caller reads; default: that there is no such resource.
    """

    def __init__(self, message: str = "there is no such resource") -> None:
        super().__init__(message)


class CapabilityError(ToolError):
    """The client of a call cannot be asked: it did not declare that it can, or there is none. Where a tool does not
    handle it, its caller reads the text (from 2026-07-28 on as the error -32021).

    Args:
        message: What the caller reads.
        required: The capabilities that the client would have to declare; None where that would not help.
    """

    def __init__(self, message: str, required: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.required = required


class StepError(ToolError):
    """A step of a call (`Context.step`) is not run again: an earlier run of the handler began it, and it has no result.

    Args:
        message: What the caller reads.
        unknown: It was cut off, so that nobody knows whether it took effect; else it had failed.
    """

    def __init__(self, message: str, *, unknown: bool) -> None:
        super().__init__(message)
        self.unknown = unknown


class RequestRefused(ToolError):
    """The client of a call was asked, and answered with an error, or with what makes no sense.

    Args:
        code: The JSON-RPC error code.
        message: What the client said.
        data: Its `error.data`, or None.
    """

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.details = data


# --- RPC: raised by a method for its caller, and by a client for what it was answered -------------


class Code(IntEnum):
    """How an RPC ended, where it did not end well; the numbers are gRPC's, Connect has the names in lower case."""

    CANCELED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class RpcError(ToolError):
    """Raise it in a method to answer its caller with this code; a client raises it for such an answer.

    Over MCP, where there are no codes, it is a `ToolError`: ``isError`` with the text.

    Args:
        code: How the call ended.
        message: What the caller reads.
        details: Protobuf messages, or ``google.protobuf.Any`` of them, in which programs find more.
        metadata: Headers (or trailers, once a stream has begun) that go with the error; names in lower case.
    """

    def __init__(
        self,
        code: Code,
        message: str = "",
        details: Sequence[Any] = (),
        metadata: Mapping[str, str | bytes | Sequence[str | bytes]] | None = None,
    ) -> None:
        super().__init__(message or code.name.lower())
        self.code = Code(code)
        self.details = tuple(details)
        self.metadata = dict(metadata or {})


# --- theirs: the peer ---------------------------------------------------------------------------


class ProtocolError(TailraceError):
    """The peer broke the protocol, or asked for what is not there; it is answered, never logged as ours.

    Args:
        code: JSON-RPC error code (``wire.mcp`` lists those of MCP).
        message: What the peer reads.
        data: JSON-able ``error.data``, or None.
    """

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = _utf8(message)
        self.data = data


class LimitError(TailraceError):
    """New work is refused because a named cap is reached; the work that was accepted goes on.

    Args:
        limit: The cap's name, as in ``data: {"limit": NAME}`` of the refusal.
        message: What the caller reads.
    """

    def __init__(self, limit: str, message: str) -> None:
        super().__init__(message)
        self.limit = limit
        self.message = message


class CallCancelled(TailraceError):
    """Why a context ended: its call was cancelled (by the peer, by a close, or by its parent).

    Args:
        reason: One sentence for people.
    """

    def __init__(self, reason: str = "cancelled") -> None:
        super().__init__(reason)
        self.reason = reason


class ClientGone(CallCancelled):
    """Why a context ended: the client's connection closed before it had its answer."""

    def __init__(self, reason: str = "the client went away") -> None:
        super().__init__(reason)


class StreamReset(ClientGone):
    """Why a context ended: the client reset the request's own HTTP/2 stream; its connection goes on."""

    def __init__(self, reason: str = "the client reset the stream") -> None:
        super().__init__(reason)


class AnswerWritten(CallCancelled):
    """Why a context ended: the answer is given, and the request is over. Work that goes on needs `Context.detach`."""

    def __init__(self, reason: str = "the answer is written") -> None:
        super().__init__(reason)


class DeadlineExceeded(TailraceError, TimeoutError):
    """Why a context ended: its deadline passed."""


class RpcDeadlineExceeded(RpcError, DeadlineExceeded):
    """What a client raises when its call's deadline passed, here or at the server: an `RpcError` of that code, and a
    `TimeoutError`. (What `asyncio.timeout` raises stays that.)
    """


class StreamEnded(TailraceError, EOFError):
    """Nothing more can be sent on a client's stream, as the server has ended the call; `receive` tells how."""


# --- the world's: disks, sockets, other processes -----------------------------------------------


class StoreError(TailraceError):
    """The store could not do what it was asked: a full disk, an I/O error, a damaged file."""


class StoreBusy(StoreError):
    """Another process holds the store; it was waited for, for as long as was said."""


class StoreTooNew(StoreError):
    """The store was written by a newer version, and is left untouched."""


class StoreLost(StoreError):
    """Another process has taken this store over, or may, as what wrote to it has failed: this process writes nothing to
    it any more, for good."""


class EntryTaken(StoreError):
    """The key of an entry is held already, so that the write which claimed it was not done, as a whole."""


class TransportError(TailraceError):
    """A connection broke, or could not be made."""


class AuthorizationError(TransportError):
    """No token can be had for a server: its authorization server refuses, the user does, or what they say of themselves
    cannot be trusted."""
