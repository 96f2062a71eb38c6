"""Servers that answer as a test says, in each protocol over each HTTP version: `Spoken` builds the bytes."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import BytesValue, StringValue

from tailrace.connect import Client, RpcDeadlineExceeded
from tailrace.errors import RpcError
from tailrace.wire import connect, grpc
from tailrace.wire.envelopes import END_STREAM, envelope
from tailrace.wire.metadata import Metadata
from tests.rigs.peers import Pairs, Peer, Request, running_peer

PATH = "test.v1.Test/Call"
LIMIT = 30.0  # seconds, for what has no limit of its own and has to happen at once


class Spoken:
    """One protocol over one HTTP version, as a server speaks it."""

    def __init__(self, protocol: Any, http2: bool) -> None:
        self.protocol = protocol
        self.http2 = http2

    def __repr__(self) -> str:
        return f"{self.protocol}-{'h2' if self.http2 else 'h1'}"

    @property
    def ends_early(self) -> bool:
        """The body says how the call ended, before its own end."""
        return self.protocol != "grpc"

    def client(self, peer: Peer, **options: Any) -> Client:
        return Client(peer.url, protocol=self.protocol, http_version="2" if self.http2 else "1.1", **options)

    async def begin(self, request: Request, *headers: tuple[str, str], unary: bool = False) -> None:
        kind = "proto" if unary and self.protocol == "connect" else f"{self.protocol}+proto"
        await request.head(200, [("content-type", f"application/{kind}"), *headers])

    async def message(self, request: Request, text: str) -> None:
        await request.data(self.packed(text))

    def packed(self, text: str) -> bytes:
        return envelope(0, StringValue(value=text).SerializeToString())

    async def end_message(self, request: Request, error: RpcError | None = None, **trailers: str) -> None:
        """The last message, which says how the call ended; the body stays open."""
        if self.protocol == "connect":
            await request.data(envelope(END_STREAM, connect.encode_end(error, Metadata(trailers))))
        elif self.protocol == "grpc-web":
            await request.data(grpc.encode_web_trailers(grpc.status_trailers(error, Metadata(trailers))))

    async def end(self, request: Request, error: RpcError | None = None, **trailers: str) -> None:
        await self.end_message(request, error, **trailers)
        fields: Pairs = ()
        if self.protocol == "grpc":
            status = grpc.status_trailers(error, Metadata(trailers))
            fields = [(name.decode(), value.decode()) for name, value in status]
        await request.end(fields)

    # --- whole answers ---

    async def silent(self, request: Request) -> None:
        """Not even a head."""
        await asyncio.Event().wait()

    async def head_only(self, request: Request) -> None:
        await self.begin(request)
        await asyncio.Event().wait()

    async def one_then_silent(self, request: Request) -> None:
        await self.begin(request)
        await self.message(request, "one")
        await asyncio.Event().wait()

    async def endless(self, request: Request) -> None:
        """As fast as it is read."""
        await self.begin(request)
        piece = self.packed("x" * 30_000)
        while True:
            await request.data(piece)
            await asyncio.sleep(0)

    async def trickle(self, request: Request) -> None:
        """Never ending, and slow."""
        await self.begin(request)
        while True:
            await self.message(request, "tick")
            await asyncio.sleep(0.01)

    async def two(self, request: Request) -> None:
        """In order."""
        await self.begin(request)
        await self.message(request, "one")
        await self.message(request, "two")
        await self.end(request)

    async def echo(self, request: Request) -> None:
        """All of the request's body, once it has ended; the body has messages, as the answer has."""
        data = await request.whole()
        await self.begin(request)
        await request.data(data)
        await self.end(request)


SPOKEN = [
    Spoken("connect", False),
    Spoken("connect", True),
    Spoken("grpc", True),
    Spoken("grpc-web", False),
    Spoken("grpc-web", True),
]
each_way = pytest.mark.parametrize("spoken", SPOKEN, ids=repr)
each_early = pytest.mark.parametrize("spoken", [one for one in SPOKEN if one.ends_early], ids=repr)


def text(value: str) -> StringValue:
    return StringValue(value=value)


def sockets() -> int:
    """Open sockets of this process; not its other descriptors, some of which libraries open at their first use."""
    return sum(_kind(f"/proc/self/fd/{fd}").startswith("socket:") for fd in os.listdir("/proc/self/fd"))


def _kind(path: str) -> str:
    try:
        return os.readlink(path)
    except FileNotFoundError:  # closed meanwhile
        return ""


async def eventually(true: Callable[[], bool], what: str) -> None:
    """Wait until `true()`, within a bound."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LIMIT):
            while not true():
                await asyncio.sleep(0.005)
            return
    raise AssertionError(f"it never came that {what}")


async def at_its_deadline(peer: Peer, call: Callable[[float], Awaitable[Any]], seconds: float = 0.5) -> Any:
    """The error of a call that passes its deadline after the server has got its request: where a busy machine lets the
    time pass before, the call is made with more of it."""
    for limit in (seconds, 5.0, 30.0):
        with pytest.raises(RpcDeadlineExceeded) as error:
            await call(limit)
        if peer.requests:
            return error.value
    raise AssertionError("no request came")


async def told(request: Request, spoken: Spoken, *, closed: bool = False) -> None:
    """The server learns that its client left: the stream is reset (with CANCEL), or, over HTTP/1.1 and if the client is
    `closed`, the connection."""
    await eventually(request.left.is_set, "the server was told")
    assert request.reset in ((8, None) if closed else (8,) if spoken.http2 else (None,))


@contextlib.asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """What happens inside ends by itself, in this time and what a busy machine needs."""
    try:
        async with asyncio.timeout(seconds + LIMIT):
            yield
    except TimeoutError as error:
        if error.__cause__ is None or not isinstance(error.__cause__, asyncio.CancelledError):
            raise
        raise AssertionError(f"it did not end within {seconds:g} s") from error


@contextlib.asynccontextmanager
async def served(spoken: Spoken, answer: Any, **options: Any) -> AsyncIterator[tuple[Client, Peer]]:
    """A client of a server that answers each request by `answer(request)`; afterwards nothing of it is left."""
    before = asyncio.all_tasks()
    rig = {name: options.pop(name) for name in ("tls", "streams") if name in options}
    async with running_peer(answer, http2=spoken.http2, **rig) as peer:
        async with spoken.client(peer, **options) as client:
            yield client, peer
            assert client.statistics() == {"open": 0}
        await eventually(lambda: peer.streams == 0, "no stream is left at the server")
    await eventually(lambda: asyncio.all_tasks() == before, "no task is left")


__all__ = [
    "LIMIT",
    "PATH",
    "SPOKEN",
    "BytesValue",
    "Spoken",
    "StringValue",
    "at_its_deadline",
    "each_early",
    "each_way",
    "eventually",
    "served",
    "sockets",
    "text",
    "told",
    "within",
]
