"""How a call is answered: what the bytes of an answer say, per protocol. Nothing here waits, or knows a connection.

An answer is begun with its head, fed with its body, asked for messages, and finished at its end. How it ended
is known when `ended` is true: in Connect's and gRPC-Web's streams before the body's end.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from tailrace.clients.connect.failures import rpc_error
from tailrace.errors import Code, RpcError
from tailrace.wire import connect, grpc
from tailrace.wire.compression import IDENTITY, decompress
from tailrace.wire.envelopes import COMPRESSED, END_STREAM, TRAILERS, Envelope, EnvelopeReader
from tailrace.wire.metadata import Metadata
from tailrace.wire.rpc import Protocol, code_of_status, read_content_type

__all__ = ["Answer", "make_answer"]

Fields: TypeAlias = Iterable[tuple[bytes, str]]


class Answer(ABC):
    """One answer as it comes.

    Args:
        codec: What was asked for.
        accept: The compressions that were offered.
        limit: Bytes of one message, decompressed.

    Attributes:
        headers: Once it has begun.
        trailers: Once it has ended.
        ended: How it ended is known: by `error`, or well.
        error: How it ended; None: well.
    """

    protocol: Protocol
    encoding_header: bytes
    stream = True

    def __init__(self, codec: str, accept: Sequence[str], limit: int) -> None:
        self.codec = codec
        self.accept = accept
        self.limit = limit
        self.headers = Metadata()
        self.trailers = Metadata()
        self.compression = IDENTITY
        self.ended = False
        self.error: RpcError | None = None

    def begin(self, status: int, fields: Fields) -> None:
        """Its head.

        Raises:
            RpcError: It is no answer to this call.
        """
        fields = list(fields)
        values = dict(reversed(fields))  # of several the first
        self.headers = self.read_headers(fields)
        if status != 200:
            raise self.refusal(status)
        self.check_type(values.get(b"content-type"))
        self.compression = self.check_encoding(values.get(self.encoding_header))

    @abstractmethod
    def feed(self, data: bytes) -> None:
        """The body's next bytes."""

    @abstractmethod
    def next(self) -> bytes | None:
        """The next message, or None until more is fed.

        Raises:
            RpcError: It is none, or too long.
        """

    @abstractmethod
    def finish(self, trailers: Fields) -> None:
        """The body's end, and HTTP's trailers.

        Raises:
            RpcError: It is no end of an answer.
        """

    # --- for those who derive ---

    def read_headers(self, fields: list[tuple[bytes, str]]) -> Metadata:
        return Metadata.read(fields)

    def refusal(self, status: int) -> RpcError:
        """For an answer of the server or of something before it that knows nothing of RPC."""
        return rpc_error(code_of_status(status), f"the server answered with HTTP {status}", (), _plain(self.headers))

    def check_type(self, value: str | None) -> None:
        found = read_content_type(value)
        if found is None or (found.protocol, found.stream) != (self.protocol, self.stream) or found.base64:
            raise rpc_error(
                Code.UNKNOWN, f"the answer is {value or 'without a content-type'}, nothing of {self.protocol}"
            )
        if found.codec != self.codec:
            raise rpc_error(Code.INTERNAL, f"the answer is {value}, and {self.codec} was asked for")

    def check_encoding(self, value: str | None) -> str:
        if value is None or value == IDENTITY or not value:
            return IDENTITY
        if value not in self.accept:
            offered = ", ".join(self.accept) or "none"
            raise rpc_error(Code.INTERNAL, f"the answer is compressed with {value[:64]!r}; {offered} was offered")
        return value

    def end(self, error: RpcError | None, trailers: Metadata) -> None:
        self.ended = True
        self.error = error
        self.trailers = trailers
        if error is not None:  # an error has all that came with it
            merged = _plain(self.headers)
            for name, values in _plain(trailers).items():
                merged[name] = [*merged.get(name, []), *values]
            error.metadata = dict[str, str | bytes | Sequence[str | bytes]](merged)


class Unary(Answer):
    """Of a unary Connect call: the body is the message, or an error in JSON."""

    protocol = "connect"
    encoding_header = b"content-encoding"
    stream = False

    def __init__(self, codec: str, accept: Sequence[str], limit: int) -> None:
        super().__init__(codec, accept, limit)
        self._body = bytearray()
        self._message: bytes | None = None
        self._status = 200

    def begin(self, status: int, fields: Fields) -> None:
        fields = list(fields)
        self._status = status
        if status == 200:
            return super().begin(status, fields)
        values = dict(reversed(fields))
        self.headers = self.read_headers(fields)
        self.compression = self.check_encoding(values.get(self.encoding_header))
        found = read_content_type(values.get(b"content-type"))
        if found is None or (found.protocol, found.codec, found.stream) != ("connect", "json", False):
            raise self.refusal(status)
        return None

    def read_headers(self, fields: list[tuple[bytes, str]]) -> Metadata:
        own = [field for field in fields if not field[0].startswith(b"trailer-")]
        self.trailers = Metadata.read((name[8:], value) for name, value in fields if name.startswith(b"trailer-"))
        return Metadata.read(own)

    def feed(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > self.limit:
            raise too_long(self.limit)

    def next(self) -> bytes | None:
        message, self._message = self._message, None
        return message

    def finish(self, trailers: Fields) -> None:
        data = expand(self.compression, bytes(self._body), self.limit)
        if self._status == 200:
            self._message = data
            self.end(None, self.trailers)
        else:
            error = connect.decode_error(data, code_of_status(self._status))
            self.end(error or self.refusal(self._status), self.trailers)


class Enveloped(Answer):
    """A sequence of messages."""

    ends_with: int  # the flag of the message that ends it; 0: none does

    def __init__(self, codec: str, accept: Sequence[str], limit: int) -> None:
        super().__init__(codec, accept, limit)
        self._reader = EnvelopeReader(limit)

    def feed(self, data: bytes) -> None:
        if not self.ended:
            self._reader.feed(data)

    def next(self) -> bytes | None:
        if self.ended:
            return None
        try:
            found = self._reader.next()
        except RpcError:
            raise too_long(self.limit) from None
        if found is None:
            return None
        data = self._plain(found)
        if found.flags & self.ends_with:
            self.read_end(data)
            return None
        return data

    def finish(self, trailers: Fields) -> None:
        if not self.ended:
            cut = "in the middle of a message" if self._reader.partial else "without saying how it ended"
            raise rpc_error(Code.INTERNAL, f"the answer ended {cut}", (), _plain(self.headers))

    def read_end(self, data: bytes) -> None:
        raise NotImplementedError

    def _plain(self, found: Envelope) -> bytes:
        if found.flags & ~(COMPRESSED | self.ends_with):
            raise rpc_error(Code.INTERNAL, f"a message has flags that are not known: {found.flags:#04x}")
        if not found.flags & COMPRESSED:
            return found.data
        if self.compression == IDENTITY:
            raise rpc_error(Code.INTERNAL, "a message is compressed, and the answer's headers do not say how")
        return expand(self.compression, found.data, self.limit)


class ConnectStream(Enveloped):
    """Of a Connect stream: the last message says how it ended."""

    protocol = "connect"
    encoding_header = b"connect-content-encoding"
    ends_with = END_STREAM

    def read_end(self, data: bytes) -> None:
        self.end(*connect.decode_end(data))


class Grpc(Enveloped):
    """Of a gRPC call: HTTP's trailers say how it ended; where there is no body, the headers may."""

    protocol = "grpc"
    encoding_header = b"grpc-encoding"
    ends_with = 0

    def __init__(self, codec: str, accept: Sequence[str], limit: int) -> None:
        super().__init__(codec, accept, limit)
        self._only: list[tuple[bytes, str]] | None = None  # a head that says how it ended, until a body comes
        self._messages = False

    def begin(self, status: int, fields: Fields) -> None:
        fields = list(fields)
        super().begin(status, fields)
        if any(name == grpc.STATUS for name, _ in fields):
            self._only = fields
            self.headers = Metadata()

    def feed(self, data: bytes) -> None:
        super().feed(data)
        if self._only is not None:
            self.headers = Metadata.read(self._only)
            self._only = None

    def finish(self, trailers: Fields) -> None:
        if self.ended:
            return
        known, error, own = grpc.read_status(trailers)
        if not known and self._only is not None:
            known, error, own = grpc.read_status(self._only)
        if error is None and (self._reader.partial or not known):
            super().finish(trailers)
        self.end(error, own)


class GrpcWeb(Grpc):
    """Of a gRPC-Web call: the last message is a block of trailers."""

    protocol = "grpc-web"
    ends_with = TRAILERS

    def read_end(self, data: bytes) -> None:
        known, error, own = grpc.read_status(grpc.decode_web_trailers(data))
        if not known:
            raise rpc_error(Code.INTERNAL, "the trailers have no grpc-status", (), _plain(self.headers))
        self.end(error, own)


def make_answer(protocol: Protocol, codec: str, accept: Sequence[str], limit: int, *, stream: bool) -> Answer:
    """The answer to a call of this kind (`stream`: not a unary one)."""
    if protocol == "connect":
        return (ConnectStream if stream else Unary)(codec, accept, limit)
    return (Grpc if protocol == "grpc" else GrpcWeb)(codec, accept, limit)


def expand(compression: str, data: bytes, limit: int) -> bytes:
    """A message, decompressed; a server's fault is no invalid argument of ours.

    Raises:
        RpcError: RESOURCE_EXHAUSTED or INTERNAL.
    """
    if not data:  # nothing is nothing, compressed or not
        return data
    try:
        return decompress(compression, data, limit)
    except RpcError as error:
        if error.code is Code.RESOURCE_EXHAUSTED:
            raise too_long(limit) from None
        raise rpc_error(Code.INTERNAL, str(error.message)) from None


def too_long(limit: int) -> RpcError:
    """For a message that is longer than is taken."""
    return rpc_error(
        Code.RESOURCE_EXHAUSTED, f"the server sent a message of more than {limit} bytes; allow more by read_max_bytes="
    )


def _plain(metadata: Metadata) -> dict[str, list[str | bytes]]:
    """As an error has it: without the protocol's own, so that a method that raises it again can send it on."""
    kept: dict[str, list[str | bytes]] = {}
    for name in metadata:
        with contextlib.suppress(ValueError):
            Metadata({name: metadata[name]})
            kept[name] = metadata.all(name)
    return kept
