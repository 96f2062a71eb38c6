"""The client under test of Connect's conformance runner: requests on stdin, what our client made of them on stdout.

Calls run at the same time; answers may come in any order.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections.abc import Awaitable
from typing import Any

from tailrace.connect import Call, Client, Metadata, Retries, RpcError, StreamEnded
from tests.conformance.rpc.messages import PACKAGE, message, read_message, write_message

AT_ONCE = 16
VERSIONS = {1: "1.1", 2: "2"}
PROTOCOLS = {1: "connect", 2: "grpc", 3: "grpc-web"}
CODECS = {1: "proto", 2: "json"}
COMPRESSIONS = {0: "identity", 1: "identity", 2: "gzip", 3: "br", 4: "zstd"}


ClientCompatRequest, ClientCompatResponse = message("ClientCompatRequest"), message("ClientCompatResponse")


class Run:
    """One request of the runner's."""

    def __init__(self, request: Any) -> None:
        self.request = request
        self.response = ClientCompatResponse(test_name=request.test_name)
        self.result = self.response.response
        self.call = Call()
        timing = request.cancel.WhichOneof("cancel_timing") if request.HasField("cancel") else None
        self.before_close = timing == "before_close_send"
        self.after_close: int | None = request.cancel.after_close_send_ms if request.HasField("cancel") else None
        if timing in ("before_close_send", "after_num_responses"):
            self.after_close = None
        self.after_responses = request.cancel.after_num_responses if timing == "after_num_responses" else -1

    async def run(self) -> Any:
        request = self.request
        try:
            async with Client(**self.client_options()) as client:
                self.result.SetInParent()
                try:
                    await self.make(client)
                except RpcError as error:
                    self.fail(error)
                except asyncio.CancelledError:  # what the program itself did: it stays what it is
                    self.result.error.code = 1
                _put(self.result.response_headers, self.call.answer_headers)
                if not self.result.response_trailers:
                    _put(self.result.response_trailers, self.call.answer_trailers)
        except Exception:
            self.response.ClearField("response")
            self.response.error.message = traceback.format_exc()
            print(request.test_name, traceback.format_exc(), file=sys.stderr)
        return self.response

    def client_options(self) -> dict[str, Any]:
        request = self.request
        tls = bool(request.server_tls_cert)
        options: dict[str, Any] = {
            "base_url": f"{'https' if tls else 'http'}://{request.host}:{request.port}",
            "protocol": PROTOCOLS[request.protocol],
            "codec": CODECS[request.codec],
            "http_version": VERSIONS[request.http_version],
            "send_compression": COMPRESSIONS[request.compression],
            "compress_min_bytes": 0,
            "accept_compression": [COMPRESSIONS[request.compression]] if request.compression > 1 else [],
            "retries": Retries(attempts=1),
        }
        if request.message_receive_limit:
            options["read_max_bytes"] = request.message_receive_limit
        if tls:
            options["ca_cert"] = request.server_tls_cert
        if request.HasField("client_tls_creds"):
            options |= {"client_cert": request.client_tls_creds.cert, "client_key": request.client_tls_creds.key}
        return options

    async def make(self, client: Client) -> None:
        request = self.request
        name = request.method
        path = f"{request.service or PACKAGE + '.ConformanceService'}/{name}"
        headers: dict[str, list[Any]] = {}
        for header in request.request_headers:
            headers.setdefault(header.name.lower(), []).extend(header.value)
        options: dict[str, Any] = {
            "headers": headers,
            "call": self.call,
            "response": message(f"{name}Response"),
            "timeout": request.timeout_ms / 1000 if request.HasField("timeout_ms") else float("inf"),
        }
        messages = [_unpack(one, message(f"{name}Request")) for one in request.request_messages]
        match name:
            case "ServerStream":
                await self.server_stream(client, path, messages[0], options)
            case "ClientStream":
                await self.client_stream(client, path, messages, options)
            case "BidiStream":
                await self.bidi(client, path, messages, options)
            case _:
                await self.unary(client, path, messages[0], options)

    async def unary(self, client: Client, path: str, one: Any, options: dict[str, Any]) -> None:
        if self.request.request_delay_ms:
            await asyncio.sleep(self.request.request_delay_ms / 1000)
        work = client.unary(path, one, get=self.request.use_get_http_method, **options)
        answer = await self.cancelled_after(work)
        if hasattr(answer, "payload"):
            self.result.payloads.append(answer.payload)

    async def server_stream(self, client: Client, path: str, one: Any, options: dict[str, Any]) -> None:
        if self.request.request_delay_ms:
            await asyncio.sleep(self.request.request_delay_ms / 1000)
        async with client.server_stream(path, one, **options) as stream:
            await self.cancelled_after(self.receive(stream))

    async def client_stream(self, client: Client, path: str, messages: list[Any], options: dict[str, Any]) -> None:
        async with client.client_stream(path, **options) as stream:
            await self.send(stream, messages)
            if self.before_close:
                stream.close_nowait()
            answer = await self.cancelled_after(stream.close_and_receive())
            self.result.payloads.append(answer.payload)

    async def bidi(self, client: Client, path: str, messages: list[Any], options: dict[str, Any]) -> None:
        async with client.bidi(path, **options) as stream:
            await self.send(stream, messages, each=self.request.stream_type == 5)
            if self.before_close:
                stream.close_nowait()
                await stream.receive()
            await stream.close_send()
            await self.cancelled_after(self.receive(stream))

    async def send(self, stream: Any, messages: list[Any], *, each: bool = False) -> None:
        for number, one in enumerate(messages):
            if self.request.request_delay_ms:
                await asyncio.sleep(self.request.request_delay_ms / 1000)
            try:
                await stream.send(one)
            except (StreamEnded, RpcError) as error:
                self.result.num_unsent_requests = len(messages) - number
                if isinstance(error, RpcError):
                    raise
                return
            if each and not await self.receive_one(stream):
                return

    async def receive(self, stream: Any) -> None:
        while await self.receive_one(stream):
            pass

    async def receive_one(self, stream: Any) -> bool:
        answer = await stream.receive()
        if answer is None:
            return False
        self.result.payloads.append(answer.payload)
        if len(self.result.payloads) == self.after_responses:
            stream.close_nowait()
        return True

    async def cancelled_after(self, work: Awaitable[Any]) -> Any:
        if self.after_close is None:
            return await work
        task = asyncio.ensure_future(work)
        asyncio.get_running_loop().call_later(self.after_close / 1000, task.cancel)
        return await task

    def fail(self, error: RpcError) -> None:
        self.result.error.code = int(error.code)
        self.result.error.message = str(error.message)
        self.result.error.details.extend(error.details)
        if self.request.stream_type in (1, 2) or not self.call.answer_trailers:
            _put(self.result.response_trailers, Metadata(error.metadata))


def _put(headers: Any, metadata: Metadata) -> None:
    named: dict[str, list[str]] = {}
    for name, value in metadata.texts():
        named.setdefault(name, []).append(value)
    for name, values in named.items():
        headers.add(name=name, value=values)


def _unpack(packed: Any, kind: Any) -> Any:
    one = kind()
    assert packed.Unpack(one), packed.type_url
    return one


def _read(loop: asyncio.AbstractEventLoop, queue: asyncio.Queue[Any]) -> None:
    request = True
    while request is not None:
        request = read_message(sys.stdin.buffer, ClientCompatRequest)
        loop.call_soon_threadsafe(queue.put_nowait, request)


async def main() -> None:
    queue: asyncio.Queue[Any] = asyncio.Queue()
    threading.Thread(target=_read, args=(asyncio.get_running_loop(), queue), daemon=True).start()
    room = asyncio.Semaphore(AT_ONCE)

    async def answer(request: Any) -> None:
        try:
            write_message(sys.stdout.buffer, await Run(request).run())
        finally:
            room.release()

    async with asyncio.TaskGroup() as group:
        while (request := await queue.get()) is not None:
            await room.acquire()
            group.create_task(answer(request))


if __name__ == "__main__":
    asyncio.run(main())
