"""How an answer is written: one `Form` for each of Connect's two forms, gRPC and gRPC-Web.

A form is what a request's head asks for, so calls with the same head share it. It writes whole answers to an
exchange, and for a stream gives the head, the frames and the end; who sends them is `outlet`.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from tailrace.errors import Code, RpcError
from tailrace.wire import connect, grpc
from tailrace.wire.compression import IDENTITY, compress, decompress
from tailrace.wire.envelopes import COMPRESSED, END_STREAM, EnvelopeReader, envelope
from tailrace.wire.metadata import Metadata
from tailrace.wire.rpc import status_of_code

if TYPE_CHECKING:
    from tailrace.core.exchange import Exchange, Headers
    from tailrace.core.settings import Settings
    from tailrace.wire.metadata import Fields
    from tailrace.wire.rpc import ContentType

__all__ = ["ConnectStream", "ConnectUnary", "Form", "Grpc", "GrpcWeb"]

logger = logging.getLogger("tailrace.rpc")

_WELL = grpc.encode_web_trailers([*grpc.WELL])
_JSON = (b"content-type", b"application/json")


class Form(ABC):
    """How the answers to requests with one head are written.

    Args:
        kind: The request's content type, which is the answer's.
        compression: Of the request's messages.
        answering: The compression of the answer's.
        extra: Header fields of every answer (CORS).
        settings: Limits.

    Attributes:
        head: Header fields of an answer.
    """

    __slots__ = ("answering", "compression", "extra", "head", "kind", "max_message", "min_compress")

    def __init__(self, kind: ContentType, compression: str, answering: str, extra: Headers, settings: Settings) -> None:
        self.kind = kind
        self.compression = compression
        self.answering = answering
        self.extra = tuple(extra)
        self.max_message = settings.max_message
        self.min_compress = settings.min_compress
        # A tuple is a constant to transports: they keep its bytes.
        self.head: Headers = ((b"content-type", kind.text.encode()), *self._encodings(), *self.extra)

    def _encodings(self) -> Fields:
        """What the head says of compression."""
        return []

    # --- what comes in ---

    @abstractmethod
    def message(self, exchange: Exchange) -> bytes:
        """The one message of a request whose body is there.

        Raises:
            RpcError: There is none, or more than one; it is damaged or too long.
        """

    def unpack(self, flags: int, data: bytes) -> bytes:
        """A message from its envelope.

        Raises:
            RpcError: It is damaged, or too long.
        """
        if flags & COMPRESSED:
            if self.compression == IDENTITY:
                raise RpcError(Code.INTERNAL, "a message is compressed, and the request does not say how")
            data = decompress(self.compression, data, self.max_message)
        if flags & ~COMPRESSED:
            raise RpcError(Code.INVALID_ARGUMENT, f"a message has unknown flags: {flags:#04x}")
        return data

    # --- what goes out ---

    @abstractmethod
    def frame(self, message: bytes) -> bytes:
        """One message of an answer, as it is sent."""

    @abstractmethod
    def reply(
        self,
        exchange: Exchange,
        frames: bytes,
        error: RpcError | None = None,
        headers: Metadata | None = None,
        trailers: Metadata | None = None,
        status: int = 0,
    ) -> None:
        """Answer at once and whole.

        Args:
            exchange: Whose reply it is.
            frames: What `frame` gave for all messages; of an error nothing.
            error: How it ended; None: well.
            headers: The handler's own.
            trailers: The handler's own.
            status: Of HTTP, where an error has another than its code's.
        """

    @abstractmethod
    def end(self, error: RpcError | None, trailers: Metadata | None) -> tuple[bytes, Headers]:
        """The end of a streamed answer: its last bytes, and its trailers."""

    def start(self, headers: Metadata | None) -> Headers:
        """The head of a streamed answer."""
        return self.head if headers is None else [*self.head, *headers.encode()]

    def _envelope(self, message: bytes) -> bytes:
        if self.answering != IDENTITY and len(message) >= self.min_compress:
            return envelope(COMPRESSED, compress(self.answering, message))
        return envelope(0, message)


class ConnectUnary(Form):
    """Connect's unary form: the body is the message, an error is JSON with a status."""

    __slots__ = ()

    def message(self, exchange: Exchange) -> bytes:
        """The body."""
        return decompress(self.compression, exchange.body, self.max_message)

    def frame(self, message: bytes) -> bytes:
        """The message as it is."""
        return message

    def reply(
        self,
        exchange: Exchange,
        frames: bytes,
        error: RpcError | None = None,
        headers: Metadata | None = None,
        trailers: Metadata | None = None,
        status: int = 0,
    ) -> None:
        """Answer."""
        if error is not None:
            head = [_JSON, *self.extra, *metadata_of(error).encode()]
            frames = connect.encode_error(error)
            status = status or status_of_code(error.code)
        else:
            head, status = self.head, 200
        if headers is not None:
            head = [*head, *headers.encode()]
        if trailers is not None:
            head = [*head, *trailers.encode(b"trailer-")]
        if error is None and self.answering != IDENTITY and len(frames) >= self.min_compress:
            frames = compress(self.answering, frames)
            head = [*head, (b"content-encoding", self.answering.encode())]
        exchange.respond(status, head, frames)

    def end(self, error: RpcError | None, trailers: Metadata | None) -> tuple[bytes, Headers]:
        """Nothing streams in this form."""
        raise NotImplementedError


class _Enveloped(Form):
    """What all other forms share: the body is a sequence of messages, and the status of HTTP is 200."""

    __slots__ = ()

    def message(self, exchange: Exchange) -> bytes:
        """The only message of the body."""
        reader = EnvelopeReader(self.max_message)
        reader.feed(self.decode(exchange.body))
        found = reader.next()
        if found is None:
            if reader.partial:
                raise RpcError(Code.INVALID_ARGUMENT, "the request ends inside a message")
            raise RpcError(Code.UNIMPLEMENTED, "the request has no message, and this method takes one")
        if reader.partial:
            raise RpcError(Code.UNIMPLEMENTED, "the request has more than one message, and this method takes one")
        return self.unpack(found.flags, found.data)

    def decode(self, body: bytes) -> bytes:
        """A body without what is wrapped around all of it."""
        return body

    def frame(self, message: bytes) -> bytes:
        """One message."""
        return self._envelope(message)

    def reply(
        self,
        exchange: Exchange,
        frames: bytes,
        error: RpcError | None = None,
        headers: Metadata | None = None,
        trailers: Metadata | None = None,
        status: int = 0,
    ) -> None:
        """Answer."""
        last, fields = self.end(error, trailers)
        exchange.respond(200, self.start(headers), frames + last, fields)


class ConnectStream(_Enveloped):
    """Connect's streaming form: the last message is JSON that says how it ended."""

    __slots__ = ()

    def _encodings(self) -> Fields:
        if self.answering == IDENTITY:
            return []
        return [(b"connect-content-encoding", self.answering.encode())]

    def end(self, error: RpcError | None, trailers: Metadata | None) -> tuple[bytes, Headers]:
        """An envelope with the flag `END_STREAM`."""
        return envelope(END_STREAM, connect.encode_end(error, joined(error, trailers))), ()


class Grpc(_Enveloped):
    """gRPC: how it ended is in the trailers."""

    __slots__ = ()

    def _encodings(self) -> Fields:
        return [] if self.answering == IDENTITY else [(b"grpc-encoding", self.answering.encode())]

    def reply(
        self,
        exchange: Exchange,
        frames: bytes,
        error: RpcError | None = None,
        headers: Metadata | None = None,
        trailers: Metadata | None = None,
        status: int = 0,
    ) -> None:
        """Answer; an error also where there can be no trailers ("Trailers-Only")."""
        last, fields = self.end(error, trailers)
        head = self.start(headers)
        if fields and not exchange.trailers:
            head = [*head, *fields]
        exchange.respond(200, head, frames + last, fields)

    def end(self, error: RpcError | None, trailers: Metadata | None) -> tuple[bytes, Headers]:
        """The trailers."""
        if error is None and trailers is None:
            return b"", grpc.WELL
        return b"", grpc.status_trailers(error, joined(error, trailers))


class GrpcWeb(Grpc):
    """gRPC-Web: the trailers are the last message; in the ``-text`` form, all of the body is base64."""

    __slots__ = ()

    def decode(self, body: bytes) -> bytes:
        """Without the base64, where there is any."""
        if not self.kind.base64:
            return body
        reader = grpc.Base64Reader()
        body = reader.feed(body)
        if reader.partial:
            raise RpcError(Code.INVALID_ARGUMENT, "the base64 of the request is cut off")
        return body

    def frame(self, message: bytes) -> bytes:
        """One message."""
        data = self._envelope(message)
        return grpc.encode_base64(data) if self.kind.base64 else data

    def end(self, error: RpcError | None, trailers: Metadata | None) -> tuple[bytes, Headers]:
        """A message with the flag `TRAILERS`."""
        if error is None and trailers is None and not self.kind.base64:
            return _WELL, ()
        data = grpc.encode_web_trailers(grpc.status_trailers(error, joined(error, trailers)))
        return grpc.encode_base64(data) if self.kind.base64 else data, ()


def joined(error: RpcError | None, trailers: Metadata | None) -> Metadata | None:
    """The handler's trailers, and what goes with its error."""
    if error is None or not error.metadata:
        return trailers
    own = metadata_of(error)
    if trailers is not None:
        own.update_all(trailers)
    return own


def metadata_of(error: RpcError) -> Metadata:
    """What goes with an error. What cannot be sent is left out: the error matters more (it may be another server's,
    passed on with headers that are this connection's own affair)."""
    metadata = Metadata()
    for name, values in error.metadata.items():
        for value in [values] if isinstance(values, str | bytes) else values:
            try:
                metadata.add(name, value)
            except (TypeError, ValueError) as fault:
                logger.debug("metadata of an error is left out: %s", fault)
    return metadata
