"""The client of Connect, gRPC and gRPC-Web services: calls, streams, and an end that never hangs."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from tailrace.clients.address import read_address
from tailrace.clients.connect.call import Call, Interceptor, Kind, Messages, Opens, Sends
from tailrace.clients.connect.http import Version, open_http
from tailrace.clients.connect.options import Options, Retries
from tailrace.clients.connect.rawstream import RawStream, Way
from tailrace.clients.connect.requests import decoder_of, trace_headers
from tailrace.clients.connect.streams import BidiStream, ClientStream, ServerStream
from tailrace.clients.observing import Observer, current_trace
from tailrace.core.context import current
from tailrace.core.meter import Operation
from tailrace.errors import CallCancelled, Code, DefinitionError, RpcError
from tailrace.wire.compression import CODECS, IDENTITY
from tailrace.wire.metadata import Metadata

if TYPE_CHECKING:
    from typing import Unpack

    from tailrace.clients.connect.options import CallOptions
    from tailrace.clients.observing import Observed
    from tailrace.wire.rpc import Protocol

__all__ = ["Client"]

_RETRIES = Retries()

Request = TypeVar("Request")
Response = TypeVar("Response")


class Client:
    """A client of one server's RPC services, on one event loop. Calls and streams may run at the same time.

    Use it as ``async with Client(url) as c:``, or end it with `aclose`: what is open then is ended.

    Args:
        base_url: What is before a call's path, e.g. ``http://127.0.0.1:8000``.
        protocol: ``connect``, ``grpc`` or ``grpc-web``.
        codec: How messages are written: ``proto`` or ``json``.
        headers: Sent with every call; ``-bin`` names take bytes.
        timeout: Seconds that a unary call may take, retries counted, unless it says otherwise; default 60, `math.inf`:
            no limit. Streams have no limit unless they are given one. The deadline of the call in which a call is
            made (`tailrace.current`) holds for all of them.
        close_timeout: Seconds that a graceful close may take, and an answer's end after the message of a unary call.
        close_max_bytes: Bytes that a graceful close may read.
        read_max_bytes: Of one message that is received, decompressed; default 4 MiB.
        send_max_bytes: Of one message that is sent, uncompressed; by default no limit.
        send_compression: ``identity``, ``gzip``, ``br`` or ``zstd``.
        accept_compression: What the server may answer with; by default all that is installed.
        compress_min_bytes: Shorter messages are sent as they are.
        get_max_url_bytes: A call with `get=True` whose URL is longer is sent by POST.
        retries: How calls that may run twice are tried again.
        interceptors: The first is the outermost.
        http_version: ``auto``: 2 for gRPC; else 1.1 without TLS, and what the server prefers with it. ``2`` without TLS
            is h2c with prior knowledge.
        connect_timeout: Seconds for one connection to be made.
        ca_cert: PEM, or a file with it, of what signed the server's certificate; by default the system's.
        client_cert: PEM, or a file, that tells the server who we are.
        client_key: The same of its key.

    Raises:
        DefinitionError: An option cannot work.
    """

    def __init__(
        self,
        base_url: str,
        *,
        protocol: Protocol = "connect",
        codec: Literal["proto", "json"] = "proto",
        headers: Mapping[str, str | bytes | Sequence[str | bytes]] | None = None,
        timeout: float = 60.0,
        close_timeout: float = 30.0,
        close_max_bytes: int = 1_048_576,
        read_max_bytes: int = 4_194_304,
        send_max_bytes: int | None = None,
        send_compression: str = IDENTITY,
        accept_compression: Sequence[str] = tuple(CODECS),
        compress_min_bytes: int = 1024,
        get_max_url_bytes: int = 8192,
        retries: Retries = _RETRIES,
        interceptors: Sequence[Interceptor] = (),
        http_version: Version = "auto",
        connect_timeout: float = 10.0,
        ca_cert: bytes | str | Path | None = None,
        client_cert: bytes | str | Path | None = None,
        client_key: bytes | str | Path | None = None,
    ) -> None:
        if protocol not in ("connect", "grpc", "grpc-web"):
            raise DefinitionError(f"protocol {protocol!r} is none of connect, grpc, grpc-web")
        if codec not in ("proto", "json"):
            raise DefinitionError(f"codec {codec!r} is neither proto nor json")
        if protocol == "grpc" and http_version == "1.1":
            raise DefinitionError("gRPC needs HTTP/2: leave http_version out, or use grpc-web")
        self._options = Options(
            timeout,
            close_timeout,
            close_max_bytes,
            read_max_bytes,
            send_max_bytes,
            send_compression,
            compress_min_bytes,
            tuple(accept_compression),
            get_max_url_bytes,
            retries,
        )
        self._headers = Metadata(headers)
        self._interceptors = tuple(interceptors)
        base_url = _check_url(base_url)
        http = open_http(
            base_url,
            version="2" if protocol == "grpc" else http_version,
            connect_timeout=connect_timeout,
            ca_cert=ca_cert,
            client_cert=client_cert,
            client_key=client_key,
        )
        self._way = Way(http, base_url, protocol, codec)
        self._observer = Observer(base_url)
        self._send: Sends = self._retried
        for interceptor in reversed(self._interceptors):
            self._send = partial(_send_through, interceptor, self._send)
        self._closed = False

    # --- life ---

    async def __aenter__(self) -> Self:
        """Nothing is sent yet."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End it, and what is open."""
        await self.aclose()

    def close_nowait(self) -> None:
        """End all calls and streams that are open, at once: they raise `RpcError` with CANCELED, and their servers
        learn of it. Never waits; idempotent."""
        self._closed = True
        for stream in list(self._way.open):
            stream.close_nowait(CallCancelled("the client was closed"))

    async def aclose(self) -> None:
        """End all calls and streams that are open, as `close_nowait`, and close the connections."""
        self.close_nowait()
        await self._way.http.aclose()

    async def close(self) -> None:
        """As `aclose`."""
        await self.aclose()

    # --- calls ---

    async def unary(
        self,
        path: str,
        message: Any,
        *,
        response: type[Response],
        request: Any = None,
        idempotency_key: str | None = None,
        idempotent: bool = False,
        get: bool = False,
        **options: Unpack[CallOptions],
    ) -> Response:
        """Send one message and give the server's.

        Args:
            path: ``package.Service/Method``.
            message: A protobuf message, or a value of a type that has one (dataclass, msgspec.Struct, pydantic model).
                With ``codec="json"`` also a dict, as JSON writes the message.
            response: The answer's type; ``bytes``: as it came; with ``codec="json"``, ``dict``: as JSON has it.
            request: The message's type, where that is not its own (``list[Order]``, or a dict for a dataclass).
            idempotency_key: The call runs once, however often it is sent (``Idempotency-Key``); it is retried.
            idempotent: It may run twice; it is retried.
            get: It has no side effects; it is retried, and a Connect call is sent by GET, which caches understand.
            options: See `CallOptions`.

        Raises:
            RpcError: How it ended, if not well; with the code DEADLINE_EXCEEDED it is a `TimeoutError` as well.
            DefinitionError: A type has no protobuf form, or an option cannot work.
            ValueError: A value does not fit its type, or a header cannot be sent.
        """
        call = self._call("unary", path, request, response, options)
        if idempotency_key is not None:
            call.headers["idempotency-key"] = idempotency_key
        call.get = get and self._way.protocol == "connect"
        call.repeatable = idempotent or get or idempotency_key is not None
        observed = self._observe(call)
        if observed is None:
            return await self._send(call, message)
        error: BaseException | None = None
        try:
            return await self._send(call, message)
        except BaseException as failure:
            error = failure
            raise
        finally:
            observed.end(error)

    def server_stream(
        self,
        path: str,
        message: Request,
        *,
        response: type[Response],
        request: Any = None,
        **options: Unpack[CallOptions],
    ) -> ServerStream[Request, Response]:
        """Send one message; give a stream of the server's, to be used as ``async with``. Arguments as of `unary`."""
        call = self._call("server_stream", path, request, response, options)
        return ServerStream(call, partial(self._opened, message))

    def client_stream(
        self,
        path: str,
        *,
        response: type[Response],
        request: type[Request] | None = None,
        **options: Unpack[CallOptions],
    ) -> ClientStream[Request, Response]:
        """A stream to send messages on, to be used as ``async with``; the server answers with one.

        Args:
            path: ``package.Service/Method``.
            response: The answer's type; ``bytes``: as it came.
            request: The type of what is sent; by default each value's own.
            options: See `CallOptions`.
        """
        return ClientStream(self._call("client_stream", path, request, response, options), partial(self._opened, None))

    def bidi(
        self,
        path: str,
        *,
        response: type[Response],
        request: type[Request] | None = None,
        **options: Unpack[CallOptions],
    ) -> BidiStream[Request, Response]:
        """A stream to send and receive on, to be used as ``async with``. Arguments as of `client_stream`."""
        return BidiStream(self._call("bidi", path, request, response, options), partial(self._opened, None))

    def statistics(self) -> dict[str, int]:
        """How many calls and streams are open."""
        return {"open": len(self._way.open)}

    # --- inside ---

    def _call(self, kind: Kind, path: str, request: Any, response: Any, given: CallOptions) -> Call:
        call = given.get("call") or Call()
        call.kind = kind
        call.path = path.lstrip("/")
        call.request = request
        call.response = response
        call.options = self._options.over(given)
        context = current()
        call.headers = Metadata()
        call.headers.update_all(self._headers)
        for name, value in trace_headers(context).items():
            call.headers.setdefault(name, value)
        own = Metadata(given.get("headers"))
        for name in own:
            call.headers.pop(name, None)
        call.headers.update_all(own)
        timeout = given.get("timeout")
        if timeout is None:
            timeout = call.options.timeout if kind == "unary" else math.inf
        deadline = math.inf if timeout == math.inf else asyncio.get_running_loop().time() + timeout
        deadline = min(deadline, math.inf if context.deadline is None else context.deadline)
        call.deadline = None if deadline == math.inf else deadline
        return call

    def _observe(self, call: Call) -> Observed | None:
        """Begin its span, if anybody wants it, and let the server know; a trace that the program names itself stays."""
        system = "connectrpc" if self._way.protocol == "connect" else "grpc"
        attributes = {"rpc.system.name": system, "rpc.method": call.path}
        observed = self._observer.begin(call.path, Operation(system, call.path, ""), attributes)
        if observed is not None and call.headers.get("traceparent") == current_trace().get("traceparent"):
            for name, value in observed.values.items():
                call.headers[name] = value
            call.headers.pop("x-correlation-id", None)
        return observed

    async def _retried(self, call: Call, message: Any) -> Any:
        retries = call.options.retries
        failed = 0
        while True:
            try:
                return await self._try_unary(call, message)
            except RpcError as error:
                failed += 1
                pause = retries.pause(failed, _retry_after(error))
                if not call.repeatable or failed >= retries.attempts or error.code not in retries.codes:
                    raise
                if pause is None or self._closed:
                    raise
                if call.deadline is not None and asyncio.get_running_loop().time() + pause >= call.deadline:
                    raise
            await asyncio.sleep(pause)

    async def _try_unary(self, call: Call, message: Any) -> Any:
        raw = self._make(call)
        try:
            await raw.send(message)
            answer = await raw.receive_only()
        except BaseException as error:
            await raw.leave(error)
            raise
        if not raw.closed:
            await raw.leave(None)
        return answer

    async def _opened(self, message: Any, call: Call) -> tuple[Messages, RawStream]:
        made: list[RawStream] = []
        call.observed = self._observe(call)

        async def start(call: Call) -> Messages:
            raw = self._make(call)
            made.append(raw)
            raw.start()
            return raw

        opens: Opens = start
        for interceptor in reversed(self._interceptors):
            opens = partial(_open_through, interceptor, opens)
        try:
            messages = await opens(call)
            if not made:
                raise DefinitionError("an interceptor opened no stream: it has to go on with `proceed`")
            if call.kind == "server_stream":
                await messages.send(message)
                await messages.close_send()
        except BaseException as error:
            for raw in made:
                raw.close_nowait()
            if call.observed is not None:
                call.observed.end(error)
            raise
        for raw in made[:-1]:  # of an interceptor that opened twice
            raw.close_nowait()
        return messages, made[-1]

    def _make(self, call: Call) -> RawStream:
        if self._closed:
            raise RpcError(Code.CANCELED, "the client is closed")
        return RawStream(self._way, call, decoder_of(call.response, self._way.codec))


async def _send_through(interceptor: Interceptor, proceed: Sends, call: Call, message: Any) -> Any:
    return await interceptor.unary(call, message, proceed)


async def _open_through(interceptor: Interceptor, proceed: Opens, call: Call) -> Messages:
    return await interceptor.stream(call, proceed)


def _check_url(url: str) -> str:
    parts = read_address(url) if isinstance(url, str) else None  # pyright: ignore[reportUnnecessaryIsInstance]
    if parts is None or parts.query or parts.fragment:
        raise DefinitionError(
            f"{url!r} is no address of a server: http://HOST:PORT or https://…, with a path or without"
        )
    return url.rstrip("/")


def _retry_after(error: RpcError) -> float | None:
    """Seconds that the server asked for."""
    values = error.metadata.get("retry-after", ())
    value = values if isinstance(values, str | bytes) else next(iter(values), None)
    return float(value) if isinstance(value, str) and value.isascii() and value.isdigit() else None
