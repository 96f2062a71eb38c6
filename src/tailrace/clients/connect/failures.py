"""The one border at which what ends a call becomes an `RpcError`: pyqwest's exceptions, resets, our own closes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyqwest

from tailrace.clients.causes import short_cause
from tailrace.clients.connect.h2_pipe import Broken, PeerReset
from tailrace.errors import CallCancelled, Code, DeadlineExceeded, RpcDeadlineExceeded, RpcError

__all__ = ["failure", "rpc_error"]

_RESET = pyqwest.StreamErrorCode
_OF_RESET = {  # gRPC over HTTP/2, "Errors"
    _RESET.REFUSED_STREAM: Code.UNAVAILABLE,
    _RESET.CANCEL: Code.CANCELED,
    _RESET.ENHANCE_YOUR_CALM: Code.RESOURCE_EXHAUSTED,
    _RESET.INADEQUATE_SECURITY: Code.PERMISSION_DENIED,
}


def rpc_error(
    code: Code,
    message: str = "",
    details: Sequence[Any] = (),
    metadata: Mapping[str, str | bytes | Sequence[str | bytes]] | None = None,
) -> RpcError:
    """An `RpcError`, of the class that its code has."""
    made = RpcDeadlineExceeded if code is Code.DEADLINE_EXCEEDED else RpcError
    return made(code, message, details, metadata)


def failure(error: Exception, *, expired: bool = False) -> Exception:
    """What a program is told of an exception that ended its call; what is no such thing stays as it is.

    Args:
        error: The exception.
        expired: The call's deadline has passed: servers reset a stream then without another word.
    """
    match error:
        case RpcError():
            known = isinstance(error, DeadlineExceeded) or error.code is not Code.DEADLINE_EXCEEDED
            return error if known else rpc_error(error.code, str(error.message), error.details, error.metadata)
        case DeadlineExceeded():
            return rpc_error(Code.DEADLINE_EXCEEDED, str(error))
        case CallCancelled():
            return rpc_error(Code.CANCELED, error.reason)
        case pyqwest.StreamError() | PeerReset():
            reason = pyqwest.StreamErrorCode(error.code)
            code = _OF_RESET.get(reason, Code.INTERNAL)
            if expired and code is Code.CANCELED:
                code = Code.DEADLINE_EXCEEDED
            return rpc_error(code, f"the server reset the stream: {reason.name}")
        case ConnectionError() | TimeoutError():
            return rpc_error(Code.UNAVAILABLE, f"cannot connect: {short_cause(error)}; nothing was sent")
        case pyqwest.RemoteProtocolError() | pyqwest.ReadError() | pyqwest.WriteError() | Broken():
            return rpc_error(Code.UNAVAILABLE, f"the connection broke: {short_cause(error)}")
        case _:
            return error
