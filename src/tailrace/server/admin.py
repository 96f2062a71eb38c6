"""The admin door: a second listener, on an address of its own, for who runs the server (`--admin`).

What it shows is not for the server's clients, so it never shares their port. It is off until asked for, on loopback
or a Unix socket unless a token was given, and closed to other sites' pages: Host as the public port has it, an Origin
only its own to the port, nothing that a browser says came from elsewhere. The token is sent as a bearer token,
never in a query or a cookie: queries get into logs, and a browser sends cookies to every port of the machine.

It opens once the server has started, and is the last to close: a drain can be watched to its end.
"""

from __future__ import annotations

import hmac
import logging
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

from tailrace.core.pages import Page, Readers
from tailrace.errors import DefinitionError
from tailrace.server.pages import pages_of
from tailrace.transports.guard import Guard, is_loopback

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from tailrace.core.exchange import Exchange, Headers
    from tailrace.core.settings import Settings
    from tailrace.core.tasks import Tasks
    from tailrace.server import Server

__all__ = ["Address", "Admin", "Shown", "read_address"]

logger = logging.getLogger("tailrace.server")

_CONNECTIONS = 100
_BODY = 64 * 1024  # bytes of a request
_CLOSE = 0.1  # seconds for replies at the end
_TEXT = ((b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store"))
_ASK = (*_TEXT, (b"www-authenticate", b"Bearer"))
_OWN = frozenset({"same-origin", "none"})  # Sec-Fetch-Site: by its own page, or by the person
_CONSOLE = "/console"


class Address(NamedTuple):
    """Where the door is: host and port, or the path of a Unix socket."""

    host: str
    port: int
    uds: str | None


def read_address(text: str, *, token: str | None) -> Address:
    """``HOST:PORT`` (``:PORT`` and ``PORT``: on 127.0.0.1), or the path of a Unix socket, which has a slash.

    Args:
        text: As `--admin` has it.
        token: The operator's own; without it, only loopback and sockets are taken.

    Raises:
        DefinitionError: It is none of these, or others can reach it and there is no token.
    """
    if "/" in text:
        return Address("", 0, text.removeprefix("unix:"))
    host, _, port = text.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise DefinitionError(f"--admin {text!r} is no address: give HOST:PORT, PORT, or the path of a Unix socket")
    if token is None and not is_loopback(host):
        raise DefinitionError(f"the admin address {host} can be reached by others: give --admin-token, or 127.0.0.1")
    return Address(host, int(port), None)


class Shown(Protocol):
    """What the pages are about: a server, or several workers."""

    settings: Settings

    @property
    def tasks(self) -> Tasks:
        """Where tasks are started."""
        ...


class Admin:
    """Serves pages about a server (fulfils `transports.asgi.Served`).

    Args:
        running: The server. It has started when `open` is called.
        listening: A bound socket, which is the door's from `open` on.
        url: The address as people write it.
        token: The operator's own; None: one is made up, and is part of `front`.
        pages: Makes the pages when it opens; None: those of one server.

    Raises:
        DefinitionError: The token cannot be sent in a header.
    """

    def __init__(
        self,
        running: Shown,
        listening: socket.socket,
        url: str,
        token: str | None = None,
        pages: Callable[[], Sequence[Page]] | None = None,
    ) -> None:
        if token is not None and not (token.isascii() and token.isprintable() and token and " " not in token):
            raise DefinitionError("an admin token is visible ASCII without spaces, and not empty")
        self.settings = replace(running.settings, max_connections=_CONNECTIONS, max_body=_BODY)
        self._running = running
        self._pages = pages or (lambda: pages_of(cast("Server", running)))
        self._listening = listening
        self._url = url
        self._asks_all = token is not None
        self._token = token or secrets.token_urlsafe(24)
        self._guard = Guard()  # the public port's names are not this one's: elsewhere than on loopback there is a token
        self._exact: dict[str, Page] = {}
        self._below: list[Page] = []

    @property
    def front(self) -> str:
        """The address for the ready line: that of the console, where there is one. A token that was made up stands
        behind the ``#``, which no browser sends to any server; one that was given is known already."""
        if _CONSOLE not in self._exact:
            return self._url
        return self._url + _CONSOLE + ("" if self._asks_all else f"#token={self._token}")

    # --- its life ---

    async def open(self) -> None:
        """Listen."""
        from tailrace.transports.http import Listener

        pages = self._pages()
        self._exact = {page.path: page for page in pages}
        self._below = sorted((page for page in pages if page.path.endswith("/")), key=lambda page: -len(page.path))
        self._listener = Listener(self, [self._listening])
        await self._listener.start()

    async def close(self) -> None:
        """Stop to listen, and cut what is still read."""
        await self._listener.close(_CLOSE)

    @property
    def tasks(self) -> Tasks:
        """The server's."""
        return self._running.tasks

    async def start(self) -> None:
        """The server is started by who runs it."""

    async def stop(self) -> None:
        """The server is stopped by who runs it."""

    # --- requests ---

    def streams(self, exchange: Exchange) -> bool:
        """All bodies are read whole."""
        return False

    def handle(self, exchange: Exchange) -> None:
        """Reply with a page, or say why not."""
        verdict = self._guard.check(exchange)
        if verdict is not None:
            return self.refuse(exchange, *verdict)
        page = self._find(exchange.path)
        readers = Readers.LOCAL if page is None else page.readers
        if not self._is_own(exchange, readers):
            return self.refuse(exchange, 403, "only this server's own pages may ask for this")
        if (readers is Readers.OPERATOR or (readers is Readers.LOCAL and self._asks_all)) and not self._knows(exchange):
            text = b"send the header Authorization: Bearer TOKEN, with the token of --admin-token or the ready line\n"
            return exchange.respond(401, _ASK, text)
        if page is None:
            return self.refuse(exchange, 404, "nothing is here; metrics are at /metrics")
        try:
            return page.handle(exchange)
        except Exception:
            logger.exception("an admin page failed path=%s", page.path)
            if not exchange.replied:
                self.refuse(exchange, 500, "internal error")

    def refuse(self, exchange: Exchange, status: int, message: str) -> None:
        """Reply with an error."""
        headers: Headers = (*_TEXT, (b"retry-after", b"1")) if status == 503 else _TEXT
        exchange.respond(status, headers, f"{message}\n".encode())

    def _find(self, path: str) -> Page | None:
        page = self._exact.get(path)
        if page is None:
            page = next((page for page in self._below if path.startswith(page.path)), None)
        return page

    def _is_own(self, exchange: Exchange, readers: Readers) -> bool:
        origin = exchange.header(b"origin")
        if origin is not None and origin.partition("://")[2].lower() != (exchange.header(b"host") or "").lower():
            return False
        return readers is Readers.ANYBODY or exchange.header(b"sec-fetch-site") in (None, *_OWN)

    def _knows(self, exchange: Exchange) -> bool:
        scheme, _, given = (exchange.header(b"authorization") or "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token.encode())
