"""What the head of a request says: which method, in which form, for how long; or why it is not served.

It is read once for each head that a transport knows again (`Exchange.verdicts`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from tailrace.errors import Code, RpcError
from tailrace.protocols.connect.forms import ConnectStream, ConnectUnary, Form, Grpc, GrpcWeb
from tailrace.wire import connect, grpc
from tailrace.wire.compression import CODECS, IDENTITY, accepted, choose
from tailrace.wire.rpc import CONTENT_TYPES, ContentType, read_content_type

if TYPE_CHECKING:
    from tailrace.core.exchange import Exchange, Headers
    from tailrace.core.settings import Settings
    from tailrace.service import Method

__all__ = ["Forms", "Opening", "Refused", "cors_of", "kind_of", "preflight", "read_opening"]


class Opening(Struct, frozen=True):
    """A request's head, read.

    Attributes:
        method: What is called.
        form: How it is written.
        timeout: Seconds that the client gives it, or None.
    """

    method: Any  # a Method
    form: Form
    timeout: float | None


class Refused(Exception):
    """The head is not served. Never leaves this package.

    Args:
        status: Of HTTP.
        message: For people.
        headers: Go with it.
    """

    def __init__(self, status: int, message: str, headers: Headers = ()) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers


_FORMS = 256  # that are kept
_KEPT = 512  # characters of what one is kept under

_ENCODING_HEADERS: Final = {
    "grpc": (b"grpc-encoding", b"grpc-accept-encoding"),
    "grpc-web": (b"grpc-encoding", b"grpc-accept-encoding"),
    "connect": (b"connect-content-encoding", b"connect-accept-encoding"),
    "unary": (b"content-encoding", b"accept-encoding"),
}


_JSON_ASKED = re.compile(rb"(?:^|&)encoding=json(?:&|$)")


def kind_of(exchange: Exchange) -> ContentType | None:
    """What the request's content type says, if that is something of an RPC; a GET says it in its query."""
    if exchange.method == "GET":
        return CONTENT_TYPES["application/json" if _JSON_ASKED.search(exchange.query) else "application/proto"]
    return read_content_type(exchange.header(b"content-type"))


def read_opening(exchange: Exchange, method: Method, forms: Forms) -> Opening:
    """What the head says.

    Raises:
        Refused: In a way that HTTP has a status for.
        RpcError: Else; `forms` has the form for the answer.
    """
    _check_http(exchange, method)
    kind = kind_of(exchange)
    if kind is None or (kind.protocol == "connect" and kind.stream is (method.kind == "unary")):
        raise Refused(
            415, f"{method.path} takes other content types (see Accept-Post)", [(b"accept-post", _accept_post(method))]
        )
    form = forms.get(exchange, kind)
    if kind.protocol == "grpc":
        _check_listener(exchange)
    elif kind.protocol == "connect":
        _check_version(exchange, forms.settings)
    if form.compression != IDENTITY and form.compression not in CODECS:
        raise RpcError(
            Code.UNIMPLEMENTED,
            f"unknown compression {form.compression[:64]!r}: supported are {accepted()}, {IDENTITY}",
        )
    if kind.protocol == "connect":
        timeout = connect.parse_timeout(exchange.header(b"connect-timeout-ms"))
    else:
        timeout = grpc.parse_timeout(exchange.header(b"grpc-timeout"))
    return Opening(method, form, timeout)


class Forms:
    """The forms of one endpoint's answers, each made once: heads differ in more than what forms depend on.

    Args:
        settings: Limits.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._known: dict[tuple[str | None, ...], Form] = {}

    def get(self, exchange: Exchange, kind: ContentType) -> Form:
        """The form of the answer to a request of this kind, whatever else is wrong with it."""
        names = _ENCODING_HEADERS[kind.protocol if kind.stream else "unary"]
        key = (kind.text, exchange.header(names[0]), exchange.header(names[1]), exchange.header(b"origin"))
        form = self._known.get(key)
        if form is None:
            form = self._make(exchange, kind, names, *key[1:3])
            if sum(len(value or "") for value in key) <= _KEPT:
                if len(self._known) >= _FORMS:  # clients choose the keys: bounded
                    self._known.clear()
                self._known[key] = form
        return form

    def _make(
        self, exchange: Exchange, kind: ContentType, names: tuple[bytes, bytes], given: str | None, accept: str | None
    ) -> Form:
        compression = (given or IDENTITY).lower()
        extra = list(cors_of(exchange))
        if compression not in CODECS and compression != IDENTITY:
            extra.append((names[1], accepted().encode()))
        make = {"connect": ConnectStream if kind.stream else ConnectUnary, "grpc": Grpc, "grpc-web": GrpcWeb}
        return make[kind.protocol](kind, compression, choose(accept), extra, self.settings)


def _check_http(exchange: Exchange, method: Method) -> None:
    by_get = method.kind == "unary" and bool(method.read_only)
    if exchange.method == "POST" or (exchange.method == "GET" and by_get):
        return
    allow = b"GET, POST" if by_get else b"POST"
    raise Refused(405, f"{method.path} is called by {allow.decode()}", [(b"allow", allow)])


def _check_version(exchange: Exchange, settings: Settings) -> None:
    if exchange.method == "GET":
        return  # `parse_get` tells, once the query is looked at
    version = exchange.header(b"connect-protocol-version")
    if version is None and not settings.require_connect_header:
        return
    if version != connect.VERSION:
        what = "missing" if version is None else f"{version[:16]!r}"
        raise RpcError(Code.INVALID_ARGUMENT, f"connect-protocol-version must be {connect.VERSION!r}, and is {what}")


def _check_listener(exchange: Exchange) -> None:
    """gRPC needs HTTP/2 and trailers; who has neither is told where they are to be had."""
    if exchange.version.startswith("1") or not exchange.trailers:
        lacking = f"HTTP/{exchange.version}" if exchange.version.startswith("1") else "no trailers"
        raise RpcError(
            Code.UNIMPLEMENTED,
            f"gRPC needs HTTP/2 with trailers, and this connection has {lacking}: call it by HTTP/2 at the listener of "
            "`tailrace run` (not an ASGI server), or use gRPC-Web or Connect",
        )


def _accept_post(method: Method) -> bytes:
    streams = method.kind != "unary"
    kinds = [kind.text for kind in CONTENT_TYPES.values() if kind.protocol != "connect" or kind.stream is streams]
    return ", ".join(kinds).encode()


# --- browsers -----------------------------------------------------------------------------------

_EXPOSED = b"*, grpc-status, grpc-message, grpc-status-details-bin, content-encoding, connect-content-encoding"
_MAX_AGE = b"7200"  # seconds; browsers take no more


def cors_of(exchange: Exchange) -> Headers:
    """What lets a page of the request's origin read the answer. The server's guard has admitted that origin."""
    origin = exchange.header(b"origin")
    if origin is None:
        return ()
    return (
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", _EXPOSED),
        (b"vary", b"origin"),
    )


def preflight(exchange: Exchange, method: Method) -> bool:
    """Answer a browser that asks whether it may call; False if it does not ask that."""
    asked = exchange.header(b"access-control-request-method")
    origin = exchange.header(b"origin")
    if exchange.method != "OPTIONS" or asked is None or origin is None:
        return False
    headers = [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-allow-methods", b"GET, POST" if method.read_only else b"POST"),
        (b"access-control-max-age", _MAX_AGE),
        (b"vary", b"origin, access-control-request-headers"),
    ]
    wanted = exchange.header(b"access-control-request-headers")
    if wanted is not None:
        headers.append((b"access-control-allow-headers", wanted.encode("latin-1")))
    exchange.respond(204, headers)
    return True
