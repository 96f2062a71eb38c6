"""What a handler sees of its call beside the messages (`Context.rpc`); made when it is first asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailrace.core.headers import fields_of
from tailrace.wire.metadata import Metadata

if TYPE_CHECKING:
    from tailrace.protocols.connect.call import RpcCall

__all__ = ["Info"]


class Info:
    """Headers and trailers of one call (fulfils `core.rpc.RpcInfo`)."""

    __slots__ = ("_call", "_headers", "response_headers", "response_trailers")

    def __init__(self, call: RpcCall) -> None:
        self._call = call
        self._headers: Metadata | None = None
        self.response_headers = Metadata()
        self.response_trailers = Metadata()

    @property
    def path(self) -> str:
        """``package.Service/Method``."""
        return self._call.method.path

    @property
    def protocol(self) -> str:
        """``connect``, ``grpc`` or ``grpc-web``."""
        return self._call.opening.form.kind.protocol

    @property
    def codec(self) -> str:
        """``proto`` or ``json``."""
        return self._call.opening.form.kind.codec

    @property
    def http_method(self) -> str:
        """``POST`` or ``GET``."""
        return self._call.reply.exchange.method

    @property
    def query(self) -> bytes:
        """Of its URL."""
        return self._call.reply.exchange.query

    @property
    def principal(self) -> str:
        """Who calls."""
        return self._call.reply.exchange.principal

    @property
    def timeout(self) -> float | None:
        """What the client gave it, in seconds."""
        return self._call.opening.timeout

    @property
    def headers(self) -> Metadata:
        """The request's."""
        if self._headers is None:
            self._headers = Metadata.read(fields_of(self._call.reply.exchange))
        return self._headers

    async def send_headers(self) -> None:
        """Send the answer's headers now."""
        self._call.open()
