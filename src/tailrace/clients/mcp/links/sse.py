"""HTTP+SSE (2024-11-05): one stream of events for all that the server says, a POST for each message to it.

A stream that breaks is opened again with `Last-Event-ID`. A server that knows how to resume repeats the
address of the same session in its `endpoint` event; any other gives a new one, and then the calls in
flight fail, because their answers cannot be had.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urljoin, urlsplit

from tailrace.clients.mcp.links.http import (
    Http,
    HttpRefused,
    Patience,
    Place,
    Unreachable,
    bear_outage,
    is_stream,
    same_origin,
)
from tailrace.errors import TransportError

if TYPE_CHECKING:
    from tailrace.clients.mcp.links.link import Outgoing, Receiver
    from tailrace.core.tasks import Tasks
    from tailrace.wire import sse
    from tailrace.wire.jsonrpc import RequestId

__all__ = ["SseLink"]


class SseLink:
    """The stream and the endpoint of one session. Only its own client uses it, on one loop.

    Args:
        url: The stream's address, e.g. ``http://127.0.0.1:8000/sse``.
        headers: Sent with every request.
        connect_timeout: Seconds for a connection to be made, and for the `endpoint` event to come.
        max_message: Bytes of one message, at most.
        reconnect: Seconds for which a server that is away is tried again: to resume the stream, or to send what could
            not be sent at all; 0: never.
        bearer: Gives the bearer token of each request, or None.
    """

    legacy_only = True

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
        self._connect_timeout = connect_timeout
        self._reconnect = reconnect
        self._endpoint: str | None = None
        self._connected = asyncio.Event()  # the stream is open, or there will be none
        self._error: Exception | None = None
        self._closed = False
        self._version: str | None = None
        self._place = Place()
        self._patience = Patience(reconnect)
        self._receiver: Receiver

    @property
    def session_id(self) -> str | None:
        """The id in the endpoint's address, where there is one under a usual name."""
        query = parse_qs(urlsplit(self._endpoint or "").query)
        return next((query[name][0] for name in ("session_id", "sessionId") if name in query), None)

    async def open(self, receiver: Receiver, tasks: Tasks) -> None:
        """Open the stream and wait for its `endpoint` event."""
        self._receiver = receiver
        self._error = None  # of an attempt before, with another token
        self._connected.clear()
        tasks.start(self._read(), name="tailrace-client-sse")
        try:
            async with asyncio.timeout(self._connect_timeout):
                await self._connected.wait()
        except TimeoutError:
            raise TransportError(
                f"{self._url} sent no endpoint event within {self._connect_timeout:g} s: is it an HTTP+SSE server?"
            ) from None
        if self._error is not None:
            raise self._error

    def establish(self, version: str) -> None:
        """The version goes into a header from now on."""
        self._version = version

    async def send(self, message: Outgoing) -> None:
        """Post it, once the stream on which the answer will come is open."""
        await bear_outage(self._reconnect, self._place, lambda: self._post(message))

    async def cancel(self, id: RequestId, notice: Outgoing) -> None:
        """By the notice."""
        await self.send(notice)

    async def close(self, limit: float) -> None:
        """Nothing to say to the server: the stream's task ends with the client's tasks."""
        self._closed = True
        self._connected.set()
        await self._http.aclose()

    async def _post(self, message: Outgoing) -> None:
        await self._connected.wait()
        if self._error is not None or self._endpoint is None or self._closed:
            raise TransportError(f"the connection is lost: {self._error or 'the client is closed'}")
        headers = {"content-type": "application/json", "accept": "application/json"}
        if message.version is not None:
            headers["mcp-protocol-version"] = message.version
        try:
            async with self._http.stream("POST", self._endpoint, headers, message.data) as response:
                if response.status == 404 and self._version is not None:
                    raise HttpRefused(404, "the server does not know this session any more: connect again")
                if response.status >= 300:
                    raise await self._http.refusal(response, message.method or "a response")
        except (HttpRefused, Unreachable):
            raise
        except TransportError as error:
            raise TransportError(f"{message.method} was not confirmed, and it may have run: {error}") from error

    # --- the stream ---

    async def _read(self) -> None:
        try:
            while self._is_open():
                try:
                    await self._read_once()
                except HttpRefused as error:
                    if self._endpoint is None or not error.may_pass:
                        raise
                except TransportError:
                    if self._endpoint is None:
                        raise
                await self._prepare_to_resume()
        except Exception as error:  # whatever it is: those who wait for answers hear it
            self._lose(error)

    async def _read_once(self) -> None:
        headers = {"accept": "text/event-stream"}
        if self._version is not None:
            headers["mcp-protocol-version"] = self._version
        if self._place.id is not None:
            headers["last-event-id"] = self._place.id
        async with self._http.stream("GET", self._url, headers) as response:
            if response.status != 200 or not is_stream(response):
                raise await self._http.refusal(response, "the stream")
            if self._place.id is not None and response.headers.get("tailrace-resume") == "gap":
                self._receiver.report_gap("the session's stream was resumed")
            await self._http.read_events(response, self._place, self._receive, self._is_open)

    async def _prepare_to_resume(self) -> None:
        """The stream has ended: wait for the next attempt.

        Raises:
            TransportError: There is to be none.
        """
        self._connected.clear()
        if not self._is_open():
            return
        if self._endpoint is None:
            raise TransportError(f"{self._url} ended its stream before the endpoint event: is it an HTTP+SSE server?")
        if self._place.id is None:
            raise TransportError("the stream ended, and its events had no ids, so this server cannot resume it")
        if not await self._patience.wait(self._place):
            raise TransportError(f"the stream broke and {self._url} did not come back within {self._reconnect:g} s")

    def _receive(self, event: sse.Event) -> None:
        if event.event == "endpoint":
            self._meet(urljoin(self._url, event.data.strip()))
        elif event.event == "message" and event.data:
            self._receiver.receive(event.data.encode())

    def _meet(self, endpoint: str) -> None:
        if not same_origin(endpoint, self._url):
            raise HttpRefused(200, f"{self._url} names an endpoint on another server, {endpoint[:200]}: refused")
        if self._endpoint is not None and self._endpoint != endpoint:
            raise HttpRefused(
                200,
                "the stream broke and the server began a new session instead of resuming this one; "
                "the answers of the calls in flight cannot be had",
            )
        self._endpoint = endpoint
        self._patience.renew()
        self._connected.set()

    def _lose(self, error: Exception) -> None:
        if self._endpoint is not None and self._is_open():
            self._receiver.lose(error)
        self._error = error
        self._connected.set()

    def _is_open(self) -> bool:
        return not self._closed
