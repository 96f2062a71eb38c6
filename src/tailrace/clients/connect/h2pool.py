"""The HTTP/2 connections of one client: made when they are needed, shared, ended when idle; with and without TLS."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tailrace.clients.connect.h2 import H2Link
from tailrace.clients.connect.h2_pipe import Broken, H2Pipe
from tailrace.core.tasks import Tasks
from tailrace.core.threads import Threads
from tailrace.errors import DefinitionError

if TYPE_CHECKING:
    from tailrace.clients.connect.upload import Upload

__all__ = ["H2Pool"]

_MAX_LINKS = 16  # connections at once; more streams than they take wait
_IDLE = 90.0  # seconds after which a connection without streams is closed (why not less: see `idle`)
_PAUSE = 1.0  # seconds from a connection that could not be made to the next attempt, while there is another one
_ATTEMPTS = 3  # of a request that servers refuse without looking at it
_LAST = 1.5  # seconds for the sockets of a closed client to be closed: what hangs is cut off after one
_KEEPALIVE = 30  # seconds of silence before the system asks whether the server is there


class H2Pool:
    """Connections to one server.

    Args:
        base_url: Where it is.
        connect_timeout: Seconds for one connection to be made, TLS included.
        ca_cert: PEM of what signed the server's certificate, or None for the system's.
        client_cert: PEM that tells the server who we are, or None.
        client_key: Its key.

    Raises:
        DefinitionError: A certificate or key is none.
    """

    def __init__(
        self,
        base_url: str,
        *,
        connect_timeout: float,
        ca_cert: bytes | None,
        client_cert: bytes | None,
        client_key: bytes | None,
    ) -> None:
        parts = urlsplit(base_url)
        assert parts.hostname is not None, "checked by the client"
        self._host = parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = _context(ca_cert, client_cert, client_key) if parts.scheme == "https" else None
        self._connect_timeout = connect_timeout
        self._links: dict[H2Link, asyncio.TimerHandle | None] = {}
        self._ending: dict[H2Link, None] = {}  # take no more streams; their sockets are open
        self._waiting: dict[H2Pipe, None] = {}  # for a connection; each ends with its call
        self._connecting = 0
        self._pausing: asyncio.TimerHandle | None = None  # until the next attempt: the last one failed
        self._tasks: Tasks | None = None
        self._closed = False

    def request(
        self, method: str, url: str, headers: Iterable[tuple[str, str]], body: bytes | AsyncIterator[bytes] | None
    ) -> H2Pipe:
        """One request; it goes out when the pipe is opened."""
        parts = urlsplit(url)
        head = [
            (":method", method),
            (":scheme", parts.scheme),
            (":authority", parts.netloc.rpartition("@")[2]),
            (":path", f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"),
            *headers,
        ]
        if isinstance(body, bytes):
            head.append(("content-length", str(len(body))))
        upload: Upload | bytes | None = body  # pyright: ignore[reportAssignmentType]  # bodies that come are Uploads
        return H2Pipe(self._submit, self._withdraw, head, upload)

    async def aclose(self) -> None:
        """End all connections, and what is on them. Their sockets are closed then, or are `_LAST` seconds later: a loop
        that ends right behind it leaves nothing open."""
        self._closed = True
        self._end_pause()
        for link in list(self._links):
            link.close()
        for pipe in list(self._waiting):
            pipe.fail(Broken("the client was closed"))
        self._waiting.clear()
        if self._ending:  # TLS takes its leave, and what was written goes out
            await asyncio.wait([link.lost for link in self._ending], timeout=_LAST)
        if self._tasks is not None:
            await self._tasks.close(1.0)

    # --- inside ---

    def _submit(self, pipe: H2Pipe) -> None:
        if self._closed:
            return pipe.fail(Broken("the client was closed"))
        if not pipe.dropped:
            self._waiting[pipe] = None
            self._serve()
        return None

    def _withdraw(self, pipe: H2Pipe) -> None:
        self._waiting.pop(pipe, None)

    def _serve(self) -> None:
        """Put those that wait onto connections; make one more if that is not enough."""
        for pipe in list(self._waiting):
            link = next((link for link in self._links if link.room), None)
            if link is None:
                break
            del self._waiting[pipe]
            if (timer := self._links[link]) is not None:
                timer.cancel()
                self._links[link] = None
            link.start(pipe)
        if not self._links:
            self._end_pause()  # nothing else will give them a place
        wanted = self._waiting and not self._connecting and self._pausing is None and not self._closed
        if wanted and len(self._links) < _MAX_LINKS:
            self._connecting += 1
            if self._tasks is None:
                self._tasks = Tasks(Threads(size=1, waiting=1, name="tailrace-rpc"))
            self._tasks.start(self._connect(), name="tailrace-rpc-connect")

    async def _connect(self) -> None:
        link = H2Link(self._room, self._gone, self._again)
        try:
            error = await self._open(link)
        finally:
            self._connecting -= 1
        if error is None:
            self._links[link] = None
            return self._room()
        if self._links and not self._closed:  # those will have places: who waits goes on, within a limit of its own
            loop = asyncio.get_running_loop()
            self._pausing = loop.call_later(_PAUSE, self._attempt, context=contextvars.Context())
            return None
        waiting, self._waiting = self._waiting, {}
        for pipe in waiting:
            pipe.fail(error)
        return None

    def _attempt(self) -> None:
        """The pause is over."""
        self._pausing = None
        self._serve()

    def _end_pause(self) -> None:
        if self._pausing is not None:
            self._pausing.cancel()
            self._pausing = None

    async def _open(self, link: H2Link) -> ConnectionError | None:
        """Make a connection; why there is none, or None."""
        try:
            async with asyncio.timeout(self._connect_timeout):
                transport, _ = await asyncio.get_running_loop().create_connection(
                    lambda: link,
                    self._host,
                    self._port,
                    ssl=self._tls,
                    ssl_shutdown_timeout=None if self._tls is None else 1.0,
                )
            _keep_alive(transport)
            self._check_protocol(transport, link)
        except TimeoutError:
            return ConnectionError(f"no connection within {self._connect_timeout:g} s")
        except (OSError, UnicodeError, Broken) as failed:  # UnicodeError: no host can have this name
            return failed if isinstance(failed, ConnectionError) else ConnectionError(str(failed))
        return None if link.usable else ConnectionError("the server ended the connection at once")

    def _check_protocol(self, transport: asyncio.BaseTransport, link: H2Link) -> None:
        secured = transport.get_extra_info("ssl_object")
        if secured is not None and secured.selected_alpn_protocol() != "h2":
            link.close()
            raise Broken("the server does not speak HTTP/2")

    def _room(self) -> None:
        """A stream has ended, or there is a new connection."""
        if self._waiting:
            self._serve()
        loop = asyncio.get_running_loop()
        for link, timer in self._links.items():
            if link.idle and timer is None:
                self._links[link] = loop.call_later(_IDLE, self._retire, link, context=contextvars.Context())

    def _retire(self, link: H2Link) -> None:
        if link.idle:
            link.close()

    def _gone(self, link: H2Link) -> None:
        timer = self._links.pop(link, None)
        if timer is not None:
            timer.cancel()
        if not link.lost.done():
            self._ending[link] = None
            link.lost.add_done_callback(lambda _: self._ending.pop(link, None), context=contextvars.Context())
        if self._waiting:  # for one of its streams to end, perhaps; later: this may be inside `_serve`
            asyncio.get_running_loop().call_soon(self._serve, context=contextvars.Context())

    def _again(self, pipe: H2Pipe) -> bool:
        """A server did nothing with a request: whether it is sent once more. One that was streamed is not."""
        if self._closed or pipe.dropped or pipe.attempts >= _ATTEMPTS or pipe.upload is not None or pipe.status:
            return False
        pipe.rewind()
        asyncio.get_running_loop().call_soon(self._submit, pipe, context=contextvars.Context())
        return True


def _keep_alive(transport: asyncio.BaseTransport) -> None:
    """Have the system notice a server that is not there any more."""
    raw = transport.get_extra_info("socket")
    if raw is None:
        return
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL"):
        with contextlib.suppress(AttributeError, OSError):
            raw.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), _KEEPALIVE)


def _context(ca_cert: bytes | None, client_cert: bytes | None, client_key: bytes | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cadata=None if ca_cert is None else ca_cert.decode("ascii"))
        context.set_alpn_protocols(["h2"])
        if client_cert is not None:
            with tempfile.TemporaryDirectory(prefix="tailrace-") as folder:  # only files can be loaded; for us alone
                cert, key = Path(folder) / "cert.pem", Path(folder) / "key.pem"
                cert.write_bytes(client_cert)
                key.write_bytes(client_key or b"")
                context.load_cert_chain(cert, key if client_key else None)
    except (ssl.SSLError, ValueError, OSError) as error:
        raise DefinitionError(f"no connections can be made with this certificate or key: {error}") from None
    return context
