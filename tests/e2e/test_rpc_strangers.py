"""Other people's RPC clients against `tailrace run`: grpcio, connectrpc and curl; calls, ends and errors of each."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NoReturn

import grpc
import grpc.aio
import pytest
from connectrpc.client import ConnectClient
from connectrpc.compat import google_protobuf_codecs
from connectrpc.compression.gzip import GzipCompression
from connectrpc.errors import ConnectError
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.protocol import ProtocolType
from google.protobuf.wrappers_pb2 import Int32Value, StringValue
from pyqwest import Client as HTTPClient
from pyqwest import HTTPTransport, HTTPVersion

from tailrace.wire.grpc import decode_status
from tests.e2e.conftest import FIXTURES
from tests.rigs.server import ServerProcess, running_async, tailrace_command

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]
SERVICE = "echoes.v1.Echoes"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    async with running_async(tailrace_command(FIXTURES / "echoes.py"), tmp_path / "log") as server:
        yield server
        assert server.records() == [], server.stderr_tail()


async def texts(*items: str) -> AsyncIterator[StringValue]:
    for item in items:
        yield StringValue(value=item)


# --- grpcio ---------------------------------------------------------------------------------------


class Stubs:
    """What generated code would be."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        def call(make: Any, name: str, request: Any, response: Any) -> Any:
            return make(
                f"/{SERVICE}/{name}",
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )

        self.echo = call(channel.unary_unary, "Echo", StringValue, StringValue)
        self.count = call(channel.unary_stream, "Count", Int32Value, Int32Value)
        self.join = call(channel.stream_unary, "Join", StringValue, StringValue)
        self.chat = call(channel.stream_stream, "Chat", StringValue, StringValue)
        self.fail = call(channel.unary_unary, "Fail", StringValue, StringValue)
        self.hang = call(channel.unary_unary, "Hang", StringValue, StringValue)
        self.look = call(channel.unary_unary, "Look", StringValue, StringValue)
        self.missing = call(channel.unary_unary, "Missing", StringValue, StringValue)


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
async def test_grpcio_calls_all_kinds(server: ServerProcess, compression: grpc.Compression) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", compression=compression) as channel:
        stubs = Stubs(channel)
        echo = stubs.echo(StringValue(value="tea" * 1000), timeout=30, metadata=[("x-ask", "tea?")])
        assert (await echo).value == "tea" * 1000
        assert ("x-asked", "tea?") in list(await echo.initial_metadata())
        assert ("x-raw-bin", b"\0\1") in list(await echo.trailing_metadata())
        counted = [message.value async for message in stubs.count(Int32Value(value=1000), timeout=30)]
        assert counted == list(range(1000))
        assert (await stubs.join(texts("a", "b"), timeout=30)).value == "a,b"
        chat = stubs.chat(timeout=30)
        for item in ("tea", "milk"):
            await chat.write(StringValue(value=item))
            assert (await chat.read()).value == item.upper()
        await chat.done_writing()
        assert await chat.read() is grpc.aio.EOF
        assert await chat.code() is grpc.StatusCode.OK


async def test_grpcio_gets_errors_with_their_details(server: ServerProcess) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stubs = Stubs(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stubs.fail(StringValue(value="rum"), timeout=30)
        error = caught.value
        assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "no rum: \u2615")
        trailers: Any = dict(error.trailing_metadata())
        assert trailers["x-hint"] == "try tea"
        (detail,) = decode_status(trailers["grpc-status-details-bin"]).details
        assert (detail.type, StringValue.FromString(detail.value).value) == ("google.protobuf.StringValue", "why")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stubs.missing(StringValue(), timeout=30)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_grpcio_that_gives_up_is_noticed(server: ServerProcess) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stubs = Stubs(channel)
        for deadline in (0.2, 1.0, 5.0, 25.0):  # on a busy machine the first may be over before it is heard of
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stubs.hang(StringValue(value="late"), timeout=deadline)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            if "late begins" in (await stubs.look(StringValue(), timeout=30)).value:
                break
        await until_seen(stubs, "late: ")
        call = stubs.hang(StringValue(value="cancelled"))
        said = await until_seen(stubs, "cancelled begins")
        assert "late: DeadlineExceeded" in said or "late: StreamReset" in said
        call.cancel()
        await until_seen(stubs, "cancelled: StreamReset")


async def until_seen(stubs: Stubs, text: str) -> str:
    """Wait until the server's handlers have seen this; all that they saw."""
    async with asyncio.timeout(60):
        while text not in (said := (await stubs.look(StringValue(), timeout=30)).value):
            await asyncio.sleep(0.05)
    return said


# --- connectrpc -----------------------------------------------------------------------------------


def method(name: str, kind: StreamType, message: Any = StringValue) -> Any:
    level = IdempotencyLevel.NO_SIDE_EFFECTS if name == "Echo" else IdempotencyLevel.UNKNOWN
    return MethodInfo(
        name=name, service_name=SERVICE, input=message, output=message, idempotency_level=level, stream_type=kind
    )


@pytest.mark.parametrize("protocol", [ProtocolType.CONNECT, ProtocolType.GRPC, ProtocolType.GRPC_WEB])
async def test_connectrpc_calls_all_kinds(server: ServerProcess, protocol: ProtocolType) -> None:
    gzip, codec = GzipCompression(), google_protobuf_codecs()[0]
    options: Any = {"codec": codec, "send_compression": gzip, "accept_compression": [gzip], "timeout_ms": 30_000}
    version = HTTPVersion.HTTP2 if protocol is ProtocolType.GRPC else None
    async with (
        HTTPTransport(http_version=version) as transport,
        ConnectClient(server.url, protocol=protocol, http_client=HTTPClient(transport), **options) as client,
    ):
        echo, fail = method("Echo", StreamType.UNARY), method("Fail", StreamType.UNARY)
        for by_get in (False, protocol is ProtocolType.CONNECT):
            found = await client.execute_unary(request=StringValue(value="tea"), method=echo, use_get=by_get)
            assert found.value == "tea"
        count = method("Count", StreamType.SERVER_STREAM, Int32Value)
        stream = client.execute_server_stream(request=Int32Value(value=100), method=count)
        assert [message.value async for message in stream] == list(range(100))
        join = method("Join", StreamType.CLIENT_STREAM)
        assert (await client.execute_client_stream(request=texts("a", "b"), method=join)).value == "a,b"
        chat = method("Chat", StreamType.BIDI_STREAM)
        both = client.execute_bidi_stream(request=texts("a", "b"), method=chat)
        assert [message.value async for message in both] == ["A", "B"]
        with pytest.raises(ConnectError) as caught:
            await client.execute_unary(request=StringValue(value="rum"), method=fail)
        assert (caught.value.code.value, caught.value.message) == ("not_found", "no rum: \u2615")
        assert len(caught.value.details) == 1


# --- curl -----------------------------------------------------------------------------------------


async def curl(*arguments: str) -> tuple[int, Any]:
    """The status, and the body from JSON."""
    process = await asyncio.create_subprocess_exec(
        "curl", "-s", "--max-time", "30", "-w", "\n%{http_code}", *arguments, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    body, _, status = out.decode().rpartition("\n")
    return int(status), json.loads(body)


@pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge"])
async def test_curl_calls_with_plain_json(
    server: ServerProcess, version: str, needs: Callable[[str, str], NoReturn]
) -> None:
    if shutil.which("curl") is None:
        needs("curl", "it is not installed")
    url, json_type = f"{server.url}/{SERVICE}", ("-H", "content-type: application/json")
    assert await curl(version, "-d", '"tea"', *json_type, f"{url}/Echo") == (200, "tea")
    assert await curl(version, "--compressed", f"{url}/Echo?encoding=json&message=%22tea%22") == (200, "tea")
    status, error = await curl(version, "-d", '"rum"', *json_type, f"{url}/Fail")
    assert (status, error["code"], error["message"]) == (404, "not_found", "no rum: \u2615")
    status, error = await curl(version, "-d", "17", *json_type, f"{url}/Echo")
    assert (status, error["code"]) == (400, "invalid_argument")
