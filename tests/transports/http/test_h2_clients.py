"""HTTP/2 as real clients speak it: pyqwest (Rust), grpcio (C), and curl where there is one."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from pyqwest import Client, Headers, HTTPTransport, HTTPVersion

from tailrace.core.exchange import Exchange, Sink
from tailrace.errors import StreamReset, TransportError
from tests.transports.http.rig import Served, serving

GRPC = ((b"content-type", b"application/grpc"),)
OK = [(b"grpc-status", b"0")]
MIB = 1024 * 1024


def answering(exchange: Exchange) -> None:
    """Gives every byte of the body back as it comes; gRPC's framing is passed through."""
    source = exchange.source
    assert source is not None

    async def echo(sink: Sink) -> None:
        while data := await source.read():
            await sink.write(data)
        await sink.end(OK)

    exchange.stream(200, GRPC, echo)


def endless(exchange: Exchange) -> None:
    async def run(sink: Sink) -> None:
        while True:
            await sink.write(b"\0\0\0\0\1x")

    exchange.stream(200, GRPC, run)


def url(served: Served, path: str) -> str:
    return f"http://127.0.0.1:{served.address[1]}{path}"


async def test_pyqwest_unary_large_and_full_duplex() -> None:
    async with serving() as served:
        served.rig.other = answering
        client = Client(HTTPTransport(http_version=HTTPVersion.HTTP2))
        body = bytes(range(256)) * 8 * 1024
        replies = await asyncio.gather(*(client.post(url(served, "/echo"), Headers(), body) for _ in range(4)))
        assert [bytes(reply.content) == body for reply in replies] == [True] * 4
        parts: asyncio.Queue[bytes | None] = asyncio.Queue()

        async def send() -> AsyncIterator[bytes]:
            while (part := await parts.get()) is not None:
                yield part

        async with client.stream("POST", url(served, "/open"), Headers(), send()) as reply:
            received = aiter(reply.content)
            for part in (b"one", b"two", b"three"):
                parts.put_nowait(part)
                assert bytes(await anext(received)) == part
            parts.put_nowait(None)
            assert [bytes(part) async for part in received] == []
            assert dict(reply.trailers.items()) == {"grpc-status": "0"}


async def test_pyqwest_that_leaves_a_stream_resets_it() -> None:
    async with serving() as served:
        served.rig.other = endless
        client = Client(HTTPTransport(http_version=HTTPVersion.HTTP2))
        async with client.stream("POST", url(served, "/open"), Headers(), b"") as reply:
            await anext(aiter(reply.content))
        await served.until(lambda: served.rig.gone)
        assert isinstance(served.rig.gone[0].gone_by, StreamReset)
        assert (await client.post(url(served, "/echo"), Headers(), b"next")).status == 200
        assert served.listener.statistics()["accepted"] == 1


def message(data: bytes) -> bytes:
    return b"\0" + len(data).to_bytes(4, "big") + data


async def test_grpcio_in_all_four_kinds() -> None:
    async with (
        serving() as served,
        grpc.aio.insecure_channel(
            f"127.0.0.1:{served.address[1]}", [("grpc.max_receive_message_length", -1)]
        ) as channel,
    ):
        served.rig.other = answering
        unary: Any = channel.unary_unary("/open/Unary")
        assert await unary(b"hello", timeout=60) == b"hello"
        large = b"x" * 3 * MIB
        assert await unary(large, timeout=60) == large
        replies = await asyncio.gather(*(unary(b"%d" % number, timeout=60) for number in range(200)))
        assert replies == [b"%d" % number for number in range(200)]
        bidi: Any = channel.stream_stream("/open/Bidi")
        call = bidi(timeout=60)
        for number in range(50):
            await call.write(b"%d" % number)
            assert await call.read() == b"%d" % number
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() == grpc.StatusCode.OK

        def three(exchange: Exchange) -> None:
            exchange.respond(200, GRPC, message(b"a") + message(b"b") + message(b"c"), OK)

        served.rig.other = three
        stream: Any = channel.unary_stream("/Stream")
        assert [part async for part in stream(b"", timeout=60)] == [b"a", b"b", b"c"]
        served.rig.other = lambda exchange: exchange.respond(200, [*GRPC, (b"grpc-status", b"5")])
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await unary(b"", timeout=60)
        assert failure.value.code() == grpc.StatusCode.NOT_FOUND


async def test_grpcio_that_cancels_is_told_to_the_call() -> None:
    seen: list[str] = []

    def reading(exchange: Exchange) -> None:
        async def run(sink: Sink) -> None:
            assert exchange.source is not None
            try:
                while await exchange.source.read():
                    await sink.write(message(b"got it"))
            except (TransportError, asyncio.CancelledError) as error:
                seen.append(type(error).__name__)
                raise

        exchange.stream(200, GRPC, run)

    async with serving() as served, grpc.aio.insecure_channel(f"127.0.0.1:{served.address[1]}") as channel:
        served.rig.other = reading
        bidi: Any = channel.stream_stream("/open/Bidi")
        call = bidi(timeout=60)
        await call.write(b"a")
        assert await call.read() == b"got it"
        call.cancel()
        await served.until(lambda: seen)
        assert isinstance(served.rig.exchanges[0].gone_by, StreamReset)


@pytest.mark.skipif(
    "HTTP2"
    not in (subprocess.run(["curl", "-V"], capture_output=True, text=True).stdout if shutil.which("curl") else ""),
    reason="no curl with HTTP/2 here",
)
async def test_curl(tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(b"y" * 6 * MIB)

    async def curl(*arguments: str) -> bytes:
        command = ["curl", "-sS", "--max-time", "60", "--http2-prior-knowledge", *arguments]
        return (await asyncio.to_thread(subprocess.run, command, capture_output=True, check=True)).stdout

    async with serving() as served:
        served.rig.other = answering
        assert await curl(url(served, "/echo"), "-d", "hello", "-w", " %{http_version}") == b"hello 2"
        assert len(await curl(url(served, "/open"), "--data-binary", f"@{large}")) == 6 * MIB
        early = await curl(url(served, "/echo"), "--data-binary", f"@{large}", "-w", " %{http_code}")
        assert early == b"the body is over 4194304 bytes 413"
