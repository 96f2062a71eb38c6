"""The messages of a streamed request, as its handler reads them: from the body that is still coming."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tailrace.errors import ClientGone, Code, RpcError, TransportError
from tailrace.schema.protobuf import InvalidMessage
from tailrace.wire.envelopes import EnvelopeReader
from tailrace.wire.grpc import Base64Reader

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailrace.core.exchange import Exchange
    from tailrace.protocols.connect.forms import Form

__all__ = ["Inlet"]


class Inlet:
    """An iterator over a request's messages, for its one handler. What is not read holds the client up.

    A message that is damaged or too long ends the iteration with an `RpcError`; left alone, that is the call's answer.

    Args:
        exchange: The request.
        form: How it is written.
        decode: Bytes to a value.
    """

    __slots__ = ("_decode", "_exchange", "_form", "_reader", "_text", "_whole")

    def __init__(self, exchange: Exchange, form: Form, decode: Callable[[bytes], Any]) -> None:
        self._exchange = exchange
        self._form = form
        self._decode = decode
        self._reader = EnvelopeReader(form.max_message)
        self._text = Base64Reader() if form.kind.base64 else None
        self._whole = False

    def __aiter__(self) -> Inlet:
        return self

    async def __anext__(self) -> Any:
        """The next message."""
        while (found := self._reader.next()) is None:
            if self._whole:
                raise StopAsyncIteration
            data = await self._read()
            if not data:
                self._whole = True
                if self._reader.partial or (self._text is not None and self._text.partial):
                    raise RpcError(Code.INVALID_ARGUMENT, "the request ends inside a message")
            else:
                self._reader.feed(data if self._text is None else self._text.feed(data))
        try:
            return self._decode(self._form.unpack(found.flags, found.data))
        except InvalidMessage as error:
            raise RpcError(Code.INVALID_ARGUMENT, str(error)) from None

    async def _read(self) -> bytes:
        source = self._exchange.source
        if source is None:  # it came whole
            body, self._exchange.body = self._exchange.body, b""
            return body
        try:
            return await source.read()
        except TransportError as error:
            raise ClientGone(str(error)) from None
