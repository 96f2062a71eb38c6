"""Streamable HTTP, both eras: a POST for each message, its answer on the same exchange.

Each request's exchange is read by a task of its own. In the legacy era a stream that breaks after an
event with an id is resumed by GET with `Last-Event-ID`, and a stream of its own carries what belongs
to no request. In the modern era a broken exchange is lost, and leaving one cancels its request.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from tailrace.clients.mcp.links.http import (
    Http,
    HttpRefused,
    Patience,
    Place,
    Unreachable,
    bear_outage,
    is_json,
    is_stream,
)
from tailrace.errors import ProtocolError, TransportError
from tailrace.wire import mcp, sse
from tailrace.wire.jsonrpc import INVALID_REQUEST

if TYPE_CHECKING:
    import pyqwest

    from tailrace.clients.mcp.links.link import Outgoing, Receiver
    from tailrace.core.tasks import Tasks
    from tailrace.wire.jsonrpc import RequestId

__all__ = ["StreamableLink"]

_OF_THE_WAY = frozenset({502, 504})
_ACCEPT = "application/json, text/event-stream"


class StreamableLink:
    """The connections to one endpoint. Only its own client uses it, on one loop.

    Args:
        url: The endpoint, e.g. ``http://127.0.0.1:8000/mcp``.
        headers: Sent with every request.
        connect_timeout: Seconds for a connection to be made.
        max_message: Bytes of one message, at most.
        reconnect: Seconds for which a server that is away is tried again: to resume a broken legacy stream, or to
            send what could not be sent at all; 0: never.
        bearer: Gives the bearer token of each request, or None.
    """

    legacy_only = False

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        *,
        connect_timeout: float,
        max_message: int,
        reconnect: float,
        bearer: Callable[[], Awaitable[str | None]] | None = None,
    ) -> None:
        self._url = url
        self._http = Http(headers, connect_timeout=connect_timeout, max_message=max_message, bearer=bearer)
        self._reconnect = reconnect
        self._version: str | None = None
        self._session: str | None = None
        self._exchanges: dict[RequestId, asyncio.Task[None]] = {}
        self._closed = False
        self._listening = asyncio.Event()  # the stream of what belongs to no request is open, or not offered
        self._receiver: Receiver
        self._tasks: Tasks

    @property
    def session_id(self) -> str | None:
        """The value of `Mcp-Session-Id`, where the server gave one."""
        return self._session

    async def open(self, receiver: Receiver, tasks: Tasks) -> None:
        """Nothing to connect: each request has its own exchange."""
        self._receiver = receiver
        self._tasks = tasks

    def establish(self, version: str) -> None:
        """Legacy: open the stream of what belongs to no request."""
        self._version = version
        if version in mcp.LEGACY_VERSIONS:
            self._tasks.start(self._listen(), name="tailrace-client-listen")

    async def wait_listening(self, limit: float) -> None:
        """Wait, `limit` seconds at most, until what the server sends of its own accord can arrive.

        Some servers drop what they ask of their client as long as nobody listens there.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await self._listening.wait()

    async def send(self, message: Outgoing) -> None:
        """Start a request's exchange; post anything else, and wait until the server has taken it."""
        if self._closed:
            raise TransportError("the client is closed")
        if message.id is not None and message.method is not None:
            task = self._tasks.start(self._exchange(message, message.id), name="tailrace-client-exchange")
            self._exchanges[message.id] = task
            return
        async with self._http.stream("POST", self._url, self._headers(message), message.data) as response:
            if response.status >= 300:
                raise await self._refusal(response, message)

    async def cancel(self, id: RequestId, notice: Outgoing) -> None:
        """Leave the exchange, which is all that the modern era asks for; the legacy one wants the notice as well."""
        task = self._exchanges.pop(id, None)
        if task is not None:
            task.cancel()
        if notice.version in mcp.LEGACY_VERSIONS:
            await self.send(notice)

    async def close(self, limit: float) -> None:
        """Leave all exchanges, and end the session by DELETE."""
        if self._closed:
            return
        self._closed = True
        for task in self._exchanges.values():
            task.cancel()
        self._exchanges.clear()
        if self._session is not None:
            with contextlib.suppress(TransportError, TimeoutError):  # 405 is a server's right; it is over either way
                async with asyncio.timeout(limit), self._http.stream("DELETE", self._url, self._headers()):
                    pass
        await self._http.aclose()

    # --- one request ---

    async def _exchange(self, message: Outgoing, id: RequestId) -> None:
        try:
            await self._ask(message, id)
            if self._receiver.waits_for(id):
                raise TransportError(f"{message.method}: the reply ended without an answer; it may have run")
        except Exception as error:  # whatever it is: the caller is the one who hears it
            self._receiver.fail(id, error)
        finally:
            self._exchanges.pop(id, None)

    async def _ask(self, message: Outgoing, id: RequestId) -> None:
        place = Place()

        async def post() -> None:
            async with self._http.stream("POST", self._url, self._headers(message), message.data) as response:
                if response.status != 200:
                    raise await self._refusal(response, message)
                if message.method == "initialize":
                    self._session = response.headers.get("mcp-session-id")
                await self._read(response, place, lambda: self._receiver.waits_for(id))

        try:
            # A server that was never met is not waited for.
            await bear_outage(0 if self._version is None else self._reconnect, place, post)
        except (HttpRefused, Unreachable):
            raise
        except TransportError as error:
            if not self._can_resume(message, place):
                raise TransportError(f"{message.method} had no answer, and it may have run: {error}") from error
        if self._can_resume(message, place):
            await self._follow(place, Patience(self._reconnect), lambda: self._receiver.waits_for(id))

    async def _read(self, response: pyqwest.Response, place: Place, wanted: Callable[[], bool]) -> None:
        if is_stream(response):
            await self._http.read_events(response, place, self._receive, wanted)
        elif is_json(response):
            self._receiver.receive(await self._http.read_all(response))
        else:
            kind = response.headers.get("content-type")
            raise HttpRefused(response.status, f"{self._url} answered with {kind}: is it an MCP server's address?")

    def _receive(self, event: sse.Event) -> None:
        if event.data and event.event == "message":  # a priming event has an id and no data
            self._receiver.receive(event.data.encode())

    # --- streams that outlive their connections (legacy) ---

    async def _follow(self, place: Place, patience: Patience, wanted: Callable[[], bool]) -> None:
        """Read on from `place`, over as many connections as it takes.

        Raises:
            TransportError: The server does not resume, or was away for too long.
        """
        while wanted():
            if not await patience.wait(place):
                raise TransportError(f"the stream broke and {self._url} did not come back within {self._reconnect:g} s")
            try:
                await self._listen_once(place, patience, wanted)
            except HttpRefused as error:
                if not error.may_pass:
                    raise
            except TransportError:
                pass  # still away, or cut again

    async def _listen_once(self, place: Place, patience: Patience, wanted: Callable[[], bool]) -> None:
        headers = {"accept": "text/event-stream", **self._headers()}
        if place.id is not None:
            headers["last-event-id"] = place.id
        async with self._http.stream("GET", self._url, headers) as response:
            if response.status != 200 or not is_stream(response):
                raise await self._refusal(response, None)
            patience.renew()
            self._listening.set()
            if place.id is not None and response.headers.get("tailrace-resume") == "gap":
                self._receiver.report_gap("a stream was resumed")
            await self._http.read_events(response, place, self._receive, wanted)

    async def _listen(self) -> None:
        """The stream of what belongs to no request, as long as the server offers one."""
        place, patience = Place(), Patience(self._reconnect)
        try:
            with contextlib.suppress(TransportError):
                try:
                    await self._listen_once(place, patience, self._is_open)
                except HttpRefused as error:
                    if not error.may_pass:
                        return  # 405: not offered
            await self._follow(place, patience, self._is_open)
        except Exception as error:
            if self._is_open():
                self._receiver.warn(f"no more notifications outside of calls: {error}")
        finally:
            self._listening.set()

    def _is_open(self) -> bool:
        return not self._closed

    # --- headers and refusals ---

    def _can_resume(self, message: Outgoing, place: Place) -> bool:
        return place.id is not None and message.version not in mcp.MODERN_VERSIONS

    def _headers(self, message: Outgoing | None = None) -> dict[str, str]:
        headers = {"accept": _ACCEPT, "content-type": "application/json"} if message is not None else {}
        version = message.version if message is not None else self._version
        if version is not None:
            headers["mcp-protocol-version"] = version
        if self._session is not None:
            headers["mcp-session-id"] = self._session
        if message is not None and version in mcp.MODERN_VERSIONS:
            if message.method is not None:
                headers["mcp-method"] = message.method
            if message.name is not None:
                headers["mcp-name"] = mcp.encode_header_value(message.name)
            headers.update(message.headers or {})
        return headers

    async def _refusal(self, response: pyqwest.Response, message: Outgoing | None) -> TransportError | ProtocolError:
        refused = await self._http.refusal(response, (message and message.method) or "a stream")
        if refused.status == 404 and self._session is not None:
            said = refused.error.message if refused.error is not None else "HTTP 404"
            return HttpRefused(404, f"the server does not know this session any more ({said}): connect again")
        if refused.error is None or message is None or refused.status == 401 or refused.challenge is not None:
            return refused  # who asks is no matter of the request
        if refused.status in _OF_THE_WAY or (refused.status == 503 and refused.error.code == INVALID_REQUEST):
            return refused  # nor is what became of the worker that had it, or whether it can be reached
        return refused.error
