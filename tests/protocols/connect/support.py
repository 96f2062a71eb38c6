"""A shop that is called by hand, in all three protocols, through exchanges without a wire."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from tailrace import Code, Context, RpcError, Service
from tailrace.server import Server
from tailrace.wire import connect, grpc
from tailrace.wire.compression import IDENTITY, decompress
from tailrace.wire.envelopes import COMPRESSED, END_STREAM, TRAILERS, EnvelopeReader, envelope
from tailrace.wire.metadata import Metadata
from tailrace.wire.rpc import content_type_of
from tests.rigs.exchange import FakeExchange

PROTOCOLS = pytest.mark.parametrize("protocol", ["connect", "grpc", "grpc-web"])


@dataclass
class Order:
    item: str = ""
    qty: int = 1


@dataclass
class Answer:
    """One reply, read.

    Attributes:
        messages: Its messages, from JSON.
        error: How it ended, if not well.
        headers: Of HTTP.
        trailers: The handler's own.
        status: Of HTTP.
        ended: It ended in order.
    """

    status: int
    headers: dict[str, str]
    messages: list[Any] = field(default_factory=list[Any])
    error: RpcError | None = None
    trailers: Metadata = field(default_factory=Metadata)
    ended: bool = False

    @property
    def code(self) -> Code | None:
        return None if self.error is None else self.error.code


class Request(FakeExchange):
    """One call, and its reply."""

    def __init__(
        self,
        path: str,
        *messages: Any,
        protocol: str = "connect",
        stream: bool = False,
        fed: bool = False,
        headers: Sequence[tuple[str, str]] = (),
        raw: bytes | None = None,
        **more: Any,
    ) -> None:
        self.protocol: Any = protocol
        self.enveloped = stream or protocol != "connect"
        kind = content_type_of(self.protocol, "json", stream=stream)
        body = b"".join(self.frame(message) for message in messages) if raw is None else raw
        given = [*headers]
        if not any(name == "content-type" for name, _ in given):
            given.append(("content-type", kind))
        more.setdefault("version", "2" if protocol == "grpc" else "1.1")
        super().__init__("POST", path, body, given, streams=fed, **more)

    def frame(self, message: Any) -> bytes:
        data = message if isinstance(message, bytes) else json.dumps(message).encode()
        return envelope(0, data) if self.enveloped else data

    def say(self, message: Any) -> None:
        """One more message of a stream."""
        self.feed(self.frame(message))

    @property
    def answer(self) -> Answer:
        """What was replied so far."""
        answer = Answer(self.status, self.headers)
        if not self.enveloped:
            self._read_unary(answer)
        else:
            self._read_stream(answer)
        return answer

    def _read_unary(self, answer: Answer) -> None:
        answer.ended = True
        body = decompress(self.headers.get("content-encoding", IDENTITY), self.reply_body, 10**7)
        answer.trailers = Metadata.read(
            (name.removeprefix("trailer-").encode(), value)
            for name, value in self.headers.items()
            if name.startswith("trailer-")
        )
        if self.status == 200:
            answer.messages.append(json.loads(body))
        else:
            answer.error = connect.decode_error(body, Code.DATA_LOSS)

    def _read_stream(self, answer: Answer) -> None:
        encoding = self.headers.get("connect-content-encoding") or self.headers.get("grpc-encoding") or IDENTITY
        reader = EnvelopeReader(10**7)
        body = self.reply_body + self.sink.written
        reader.feed(grpc.Base64Reader().feed(body) if "-text" in self.headers.get("content-type", "") else body)
        while (found := reader.next()) is not None:
            if self.protocol == "connect" and found.flags & END_STREAM:
                answer.error, answer.trailers = connect.decode_end(found.data)
                answer.ended = True
            elif found.flags & TRAILERS:
                answer.ended, answer.error, answer.trailers = grpc.read_status(grpc.decode_web_trailers(found.data))
            else:
                data = decompress(encoding, found.data, 10**7) if found.flags & COMPRESSED else found.data
                answer.messages.append(json.loads(data))
        if self.protocol == "grpc":
            fields = [*self.reply_trailers, *self.sink.trailers]
            fields = fields or [(name.encode(), value.encode()) for name, value in self.headers.items()]
            read = [(name, value.decode("latin-1")) for name, value in fields]
            answer.ended, answer.error, answer.trailers = grpc.read_status(read)

    async def done(self) -> Answer:
        """Wait for the end of the reply."""
        await self.status_code()
        if self.streaming is not None:
            await asyncio.wait([self.streaming])
        return self.answer


def send(server: Server, request: Request) -> Request:
    server.handle(request)
    return request


async def call(server: Server, path: str, *messages: Any, **options: Any) -> Answer:
    """Make a call, and wait for the end of its reply."""
    return await send(server, Request(path, *messages, **options)).done()


class Shop:
    """Its `service` has a method of each kind; `seen` tells what happened to its handlers.

    Attributes:
        gates: By item: `Wait` goes on when its gate is set.
        context: Of the call that waited last.
    """

    def __init__(self, **options: Any) -> None:
        self.seen: list[str] = []
        self.gate = asyncio.Event()
        self.context: Context | None = None
        self.made = 0
        self.service = service = Service("shop", package="shop.v1", **options)

        @service.rpc
        async def place(request: Order) -> Order:
            self.made += 1
            return Order(request.item.upper(), request.qty + 1)

        @service.rpc
        def plain(request: Order) -> Order:
            return request

        @service.rpc(read_only=True)
        async def look(request: Order) -> Order:
            return request

        @service.rpc
        async def total(requests: AsyncIterator[Order]) -> Order:
            items = [request.item async for request in requests]
            return Order(",".join(items), len(items))

        @service.rpc
        async def watch(request: Order) -> AsyncIterator[Order]:
            for number in range(request.qty):
                yield Order(request.item, number)

        @service.rpc
        async def talk(requests: AsyncIterator[Order], ctx: Context) -> AsyncIterator[Order]:
            async for request in requests:
                yield Order(request.item.upper(), request.qty)

        @service.rpc
        async def wait(request: Order, ctx: Context) -> Order:
            await self.hold(ctx)
            return request

        @service.rpc
        async def wait_stream(request: Order, ctx: Context) -> AsyncIterator[Order]:
            yield request
            await self.hold(ctx)

        @service.rpc
        async def wait_requests(requests: AsyncIterator[Order], ctx: Context) -> Order:
            await self.hold(ctx, requests)
            return Order("never")

        @service.rpc
        async def wait_both(requests: AsyncIterator[Order], ctx: Context) -> AsyncIterator[Order]:
            yield Order("first")
            await self.hold(ctx, requests)

    async def hold(self, ctx: Context, requests: AsyncIterator[Order] | None = None) -> None:
        self.context = ctx
        self.seen.append("begin")
        try:
            if requests is None:
                await self.gate.wait()
            else:
                async for _ in requests:
                    pass
        except BaseException as error:
            self.seen.append(type(error).__name__)
            raise
        self.seen.append("end")

    async def begun(self) -> None:
        while not self.seen:
            await asyncio.sleep(0)
