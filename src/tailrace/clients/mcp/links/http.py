"""What the two HTTP links share: requests and streams through pyqwest, and its errors turned into ours.

Leaving a stream's block closes its connection at once, also when it is left by a cancellation. How
long a broken stream is tried again, and from where, is here as well; what is read on the streams is not.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from urllib.parse import urljoin, urlsplit

import msgspec
import pyqwest

from tailrace.clients import idle
from tailrace.clients.causes import short_cause
from tailrace.clients.exit import settle_at_exit
from tailrace.errors import DefinitionError, LimitError, ProtocolError, TransportError
from tailrace.wire import jsonrpc, sse
from tailrace.wire.challenge import Challenge, read_challenge

__all__ = [
    "Http",
    "HttpRefused",
    "Patience",
    "Place",
    "Unreachable",
    "bear_outage",
    "is_json",
    "is_stream",
    "same_origin",
]

_MAX_REDIRECTS = 3
_MAX_SOME = 65_536  # bytes read of what is no message: the body of an error, the tail of a stream
_REFUSAL_LIMIT = 5.0  # seconds for the body of an error
_TAIL_LIMIT = 1.0  # seconds for a stream to end after the last event that is wanted
_FIRST_DELAY = 1.0  # seconds before a reconnect where the server asked for nothing else
_LEAST_DELAY = 0.05  # seconds, whatever the server asked for
_RETRYABLE = frozenset({408, 425, 429, 500, 502, 503, 504})  # a server that restarts, or a gateway that waits for it


class HttpRefused(TransportError):
    """The server answered with a status that ends the matter.

    Args:
        status: The HTTP status.
        message: What to do about it.
        error: The JSON-RPC error in the body, where there is one.
        challenge: What the server wants to see of who asks, where it says so.
    """

    def __init__(
        self, status: int, message: str, error: ProtocolError | None = None, challenge: Challenge | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error = error
        self.challenge = challenge

    @property
    def may_pass(self) -> bool:
        """Whether the same request may succeed a little later."""
        return self.status in _RETRYABLE


class Unreachable(TransportError):
    """No connection could be made, so nothing was sent."""


class Place:
    """Where one stream of events stands.

    Attributes:
        id: The last event's id, to resume from; None: nothing to resume from.
        retry: Milliseconds that the server asked to wait before reconnecting, or None.
    """

    __slots__ = ("id", "retry")

    def __init__(self) -> None:
        self.id: str | None = None
        self.retry: int | None = None


class Patience:
    """How long one outage is borne.

    Args:
        limit: Seconds from the cut to the last attempt; 0: no attempt. The first attempt is always made.
    """

    __slots__ = ("_limit", "_until")

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._until: float | None = None

    def renew(self) -> None:
        """The outage is over."""
        self._until = None

    async def wait(self, place: Place) -> bool:
        """Wait as long as the server asked for before the next attempt; False: there is to be none."""
        now = asyncio.get_running_loop().time()
        delay = _FIRST_DELAY if place.retry is None else max(place.retry / 1000, _LEAST_DELAY)
        if self._limit <= 0 or (self._until is not None and now + delay > self._until):
            return False
        if self._until is None:
            self._until = now + max(self._limit, delay)
        await asyncio.sleep(delay)
        return True


async def bear_outage(limit: float, place: Place, attempt: Callable[[], Awaitable[None]]) -> None:
    """Make an attempt; where nothing could be sent, because the server is away, make it again, for `limit` seconds."""
    patience = Patience(limit)
    while True:
        try:
            return await attempt()
        except Unreachable:
            if not await patience.wait(place):
                raise


class Http:
    """The connections to one server.

    Args:
        headers: Sent with every request; never to another origin.
        connect_timeout: Seconds for one connection to be made.
        max_message: Bytes of one message, at most.
        bearer: Gives the bearer token of each request, or None; never sent to another origin either.

    Raises:
        DefinitionError: A header cannot be sent.
    """

    def __init__(
        self,
        headers: Mapping[str, str],
        *,
        connect_timeout: float,
        max_message: int,
        bearer: Callable[[], Awaitable[str | None]] | None = None,
    ) -> None:
        self._bearer = bearer
        try:
            self._headers = pyqwest.Headers(headers.items())
        except ValueError as error:
            raise DefinitionError(f"headers cannot be sent: {error}") from None
        self._max_message = max_message
        self._transport = pyqwest.HTTPTransport(
            connect_timeout=connect_timeout,
            pool_idle_timeout=idle.IDLE,
            tls_include_system_certs=True,
            enable_cookie_store=True,  # some load balancers keep a session at its server by a cookie
            follow_redirects=False,  # followed below, within the origin: headers may be secrets
        )
        self._client = pyqwest.Client(self._transport)
        settle_at_exit()

    @contextlib.asynccontextmanager
    async def stream(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> AsyncGenerator[pyqwest.Response]:
        """One request; inside the block its answer can be read, and leaving it closes the answer.

        Raises:
            TransportError: The server is not there, or the connection broke, also while reading inside the block.
        """
        sent = pyqwest.Headers(self._headers.items())
        for name, value in headers.items():
            sent[name] = value
        token = await self._bearer() if self._bearer is not None else None
        if token is not None:
            sent["authorization"] = f"Bearer {token}"
        with _broken_connections(url):
            for _ in range(_MAX_REDIRECTS + 1):
                async with self._client.stream(method, url, sent, body) as response:
                    target = _redirect(response, url)
                    if target is None:
                        yield response
                        return
                    url = target
            raise TransportError(
                f"{url} redirects more than {_MAX_REDIRECTS} times; use the address of the server itself"
            )

    async def read_all(self, response: pyqwest.Response) -> bytes:
        """The whole body.

        Raises:
            LimitError: It is longer than a message may be.
        """
        parts: list[bytes] = []
        size = 0
        async for part in response.content:
            parts.append(bytes(part))
            size += len(part)
            if size > self._max_message:
                raise _too_large(self._max_message)
        return b"".join(parts)

    async def read_events(
        self, response: pyqwest.Response, place: Place, receive: Callable[[sse.Event], None], wanted: Callable[[], bool]
    ) -> None:
        """Read events until the stream ends or is no longer `wanted`; `place` moves past each one that was received.

        Raises:
            LimitError: An event is longer than a message may be.
        """
        parser = sse.Parser(max_event=self._max_message, empty=True)
        async for chunk in response.content:
            try:
                events = parser.feed(bytes(chunk))
            except sse.SseOverflow:
                raise _too_large(self._max_message) from None
            for event in events:
                receive(event)
                place.id = event.id or place.id
            place.id = parser.last_event_id or place.id  # of an event that has an id and no data
            place.retry = place.retry if parser.retry is None else parser.retry
            if not wanted():
                # What follows the last event is nothing but the end of the reply, after which the
                # connection can be used again; a server that does not end it there loses the connection.
                await _read_some(response, _TAIL_LIMIT)
                return

    async def refusal(self, response: pyqwest.Response, what: str) -> HttpRefused:
        """What to raise for an answer that is neither a message nor a stream; reads some of its body."""
        body = await _read_some(response)
        error = _read_error(body) if is_json(response) else None
        text = error.message if error is not None else body.decode("utf-8", "replace").strip()
        said = f" ({text[:200]})" if text and _media_type(response) != "text/html" else ""
        message = f"{what} was refused with HTTP {response.status}{said}; {_advice(response)}"
        return HttpRefused(response.status, message, error, read_challenge(response.headers.getall("www-authenticate")))

    async def aclose(self) -> None:
        """Close the idle connections; those in use close when their blocks are left."""
        await self._transport.aclose()


def is_json(response: pyqwest.Response) -> bool:
    """Whether the body is one JSON message."""
    return _media_type(response) == "application/json"


def is_stream(response: pyqwest.Response) -> bool:
    """Whether the body is a stream of events."""
    return _media_type(response) == "text/event-stream"


def same_origin(one: str, other: str) -> bool:
    """Whether two addresses share scheme, host and port."""
    return _origin(one) == _origin(other)


# --- inside -------------------------------------------------------------------------------------


@contextlib.contextmanager
def _broken_connections(url: str) -> Generator[None]:
    """The one border at which pyqwest's exceptions become ours."""
    try:
        yield
    except (ConnectionError, TimeoutError) as error:
        raise Unreachable(
            f"cannot connect to {url}: {short_cause(error)}; is the server running there? Nothing was sent"
        ) from error
    except (pyqwest.RemoteProtocolError, pyqwest.ReadError, pyqwest.WriteError) as error:
        raise TransportError(f"the connection to {url} broke: {short_cause(error)}") from error


def _redirect(response: pyqwest.Response, url: str) -> str | None:
    """Where the request is to go instead, or None."""
    location = response.headers.get("location")
    if response.status not in (307, 308) or not location:
        return None
    target = urljoin(url, location)
    if not same_origin(target, url):
        raise TransportError(f"{url} redirects to another server, {target}; if you trust it, use that address")
    return target


def _media_type(response: pyqwest.Response) -> str:
    return (response.headers.get("content-type") or "").partition(";")[0].strip().lower()


def _read_error(body: bytes) -> ProtocolError | None:
    message = jsonrpc.parse(body)
    if not isinstance(message, jsonrpc.ErrorResponse):
        return None
    return ProtocolError(message.code, message.message, msgspec.json.decode(message.data) if message.data else None)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _too_large(limit: int) -> LimitError:
    return LimitError(
        "max_message", f"the server sent a message of more than {limit} bytes; allow more by max_message="
    )


async def _read_some(response: pyqwest.Response, limit: float = _REFUSAL_LIMIT) -> bytes:
    body = bytearray()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit):
            async for part in response.content:
                body += part
                if len(body) > _MAX_SOME:
                    break
    return bytes(body[:_MAX_SOME])


def _advice(response: pyqwest.Response) -> str:
    status = response.status
    if status in _ADVICE:
        return _ADVICE[status]
    if 300 <= status < 400:
        return f"it points to {response.headers.get('location')}: use that address"
    if status in _RETRYABLE:
        after = response.headers.get("retry-after")
        return f"try again {f'after {after} s' if after and after.isdigit() else 'later'}"
    return "is this the address of an MCP server?"


_ADVICE = {
    401: 'pass valid credentials: auth="TOKEN", on the command line --token TOKEN',
    403: "these credentials, or this Origin, may not do that",
    404: "nothing is served at this address; MCP servers are mostly at /mcp or /sse",
    405: "this address does not take such requests; MCP servers are mostly at /mcp or /sse",
    413: "the server does not take messages of this size",
    421: "the server does not know this host name: see its list of allowed hosts",
}
