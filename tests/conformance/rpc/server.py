"""The server under test: the suite's service on our listener, in the configuration that the runner asks for."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import ssl
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from google.protobuf.any_pb2 import Any as ProtobufAny

from tailrace import Code, Context, RpcError, Service
from tailrace.core.settings import Settings
from tailrace.server import Server
from tailrace.stores.memory import MemoryStore
from tailrace.transports.http.listener import Listener
from tailrace.wire.metadata import encode_binary
from tests.conformance.rpc.messages import message, read_message, service, write_message

UnaryResponse = message("UnaryResponse")
IdempotentUnaryResponse = message("IdempotentUnaryResponse")
ServerStreamResponse = message("ServerStreamResponse")
ClientStreamResponse = message("ClientStreamResponse")
BidiStreamResponse = message("BidiStreamResponse")
Payload = message("ConformancePayload")
RequestInfo = Payload.RequestInfo
Header = message("Header")


class Conformance:
    """The suite's service, as `service.proto` describes it."""

    async def unary(self, request: Any, ctx: Context) -> Any:
        return UnaryResponse(payload=await answer_one(ctx, [request], request))

    async def idempotent_unary(self, request: Any, ctx: Context) -> Any:
        return IdempotentUnaryResponse(payload=await answer_one(ctx, [request], request))

    async def client_stream(self, requests: AsyncIterator[Any], ctx: Context) -> Any:
        received = [request async for request in requests]
        return ClientStreamResponse(payload=await answer_one(ctx, received, received[0] if received else None))

    async def server_stream(self, request: Any, ctx: Context) -> AsyncIterator[Any]:
        if not request.HasField("response_definition"):
            return
        definition = request.response_definition
        put_metadata(ctx, definition)
        sent = False
        if definition.response_data:
            await headers_now(ctx)
        for data in definition.response_data:
            await asyncio.sleep(definition.response_delay_ms / 1000)
            payload = Payload(data=data)
            if not sent:
                payload.request_info.CopyFrom(request_info(ctx, [request]))
            yield ServerStreamResponse(payload=payload)
            sent = True
        if definition.HasField("error"):
            raise error_of(definition.error, None if sent else request_info(ctx, [request]))

    async def bidi_stream(self, requests: AsyncIterator[Any], ctx: Context) -> AsyncIterator[Any]:
        definition: Any = None
        full_duplex = False
        received: list[Any] = []
        sent = 0
        async for request in requests:
            received.append(request)
            if definition is None:
                definition, full_duplex = request.response_definition, request.full_duplex
                put_metadata(ctx, definition)
                if full_duplex and definition.response_data:
                    await headers_now(ctx)
            if full_duplex:
                if sent >= len(definition.response_data):
                    break
                await asyncio.sleep(definition.response_delay_ms / 1000)
                payload = Payload(data=definition.response_data[sent])
                if sent == 0:
                    payload.request_info.CopyFrom(request_info(ctx, received))
                else:
                    payload.request_info.requests.extend(packed(received))
                yield BidiStreamResponse(payload=payload)
                sent += 1
                received = []
        if definition is None:
            return
        if not full_duplex and definition.response_data:
            await headers_now(ctx)
        for data in definition.response_data[sent:]:
            await asyncio.sleep(definition.response_delay_ms / 1000)
            payload = Payload(data=data)
            if sent == 0:
                payload.request_info.CopyFrom(request_info(ctx, received))
            yield BidiStreamResponse(payload=payload)
            sent += 1
        if definition.HasField("error"):
            raise error_of(definition.error, None if sent else request_info(ctx, received))


async def answer_one(ctx: Context, received: list[Any], first: Any) -> Any:
    """The payload of a single answer; raises the error that the first request asks for."""
    info = request_info(ctx, received)
    if first is None or not first.HasField("response_definition"):
        return Payload(request_info=info)
    definition = first.response_definition
    put_metadata(ctx, definition)
    await asyncio.sleep(definition.response_delay_ms / 1000)
    if definition.HasField("error"):
        raise error_of(definition.error, info)
    return Payload(data=definition.response_data, request_info=info)


async def headers_now(ctx: Context) -> None:
    assert ctx.rpc is not None
    await ctx.rpc.send_headers()


def put_metadata(ctx: Context, definition: Any) -> None:
    rpc = ctx.rpc
    assert rpc is not None
    for header in definition.response_headers:
        for value in header.value:
            rpc.response_headers.add(header.name, value)
    for header in definition.response_trailers:
        for value in header.value:
            rpc.response_trailers.add(header.name, value)


def request_info(ctx: Context, received: Iterable[Any]) -> Any:
    """What the suite wants to be told of the request."""
    rpc = ctx.rpc
    assert rpc is not None
    info = RequestInfo(requests=packed(received))
    for name in rpc.headers:
        values = [encode_binary(value) if isinstance(value, bytes) else value for value in rpc.headers.all(name)]
        info.request_headers.append(Header(name=name, value=values))
    if rpc.timeout is not None:
        info.timeout_ms = int(rpc.timeout * 1000)
    if rpc.http_method == "GET":
        for name, value in parse_qsl(rpc.query.decode("ascii"), keep_blank_values=True, errors="surrogateescape"):
            text = value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            info.connect_get_info.query_params.append(Header(name=name, value=[text]))
    return info


def packed(messages: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for one in messages:
        any_of_it = ProtobufAny()
        any_of_it.Pack(one)
        found.append(any_of_it)
    return found


def error_of(error: Any, info: Any) -> RpcError:
    details = [*error.details, *([info] if info is not None else [])]
    return RpcError(Code(error.code), error.message, details)


# --- serving ------------------------------------------------------------------------------------


def tls_context(request: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        cert, key = Path(folder) / "cert.pem", Path(folder) / "key.pem"
        cert.write_bytes(request.server_creds.cert)
        key.write_bytes(request.server_creds.key)
        context.load_cert_chain(cert, key)
    if request.client_tls_cert:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=request.client_tls_cert.decode("ascii"))
    return context


async def serve(request: Any) -> None:
    svc = Service("conformance")
    svc.implement(service(), Conformance())
    limit = request.message_receive_limit
    settings = Settings(drain=1.0, min_compress=0, **({"max_message": limit} if limit else {}))
    server = Server(svc, settings, MemoryStore())
    await server.start()
    listening = socket.create_server(("127.0.0.1", 0))
    listener = Listener(server, [listening], tls=tls_context(request) if request.use_tls else None)
    await listener.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    answer = message("ServerCompatResponse")(host="127.0.0.1", port=listening.getsockname()[1])
    if request.use_tls:
        answer.pem_cert = request.server_creds.cert
    write_message(sys.stdout.buffer, answer)
    await stop.wait()
    await server.end_sessions(0.5)
    await listener.close(0.5)
    await server.stop()


def main() -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    request = read_message(sys.stdin.buffer, message("ServerCompatRequest"))
    import uvloop

    uvloop.run(serve(request))


if __name__ == "__main__":
    main()
