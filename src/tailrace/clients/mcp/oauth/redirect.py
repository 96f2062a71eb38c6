"""The user's part: a browser is sent to the authorization server, and comes back with its answer (RFC 8252).

`Loopback` listens on this machine for it. A program that has its own way gives a function instead.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import webbrowser
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias
from urllib.parse import parse_qs, urlsplit

from tailrace.errors import AuthorizationError

__all__ = ["Ask", "Function", "Loopback", "Redirect"]

logger = logging.getLogger("tailrace.client")

Ask: TypeAlias = Callable[[str], Awaitable[str]]

_MAX_HEAD = 16_384  # bytes of a request's head
_HEAD_LIMIT = 10.0  # seconds for it
_MAX_OPEN = 8  # connections at once
_PAGE = (
    b"<!doctype html><title>Tailrace</title><p>That was it. You can close this page and return to the program.</p>\n"
)


class Redirect(Protocol):
    """One way to have a user authorize; opened and closed for each authorization."""

    async def open(self, wanted: str | None) -> str:
        """Begin to listen; gives the redirect URI.

        Args:
            wanted: The one that was registered last, to be used again where that can be.
        """
        ...

    async def ask(self, url: str, state: str) -> str:
        """Send the user to `url`; gives the address to which the authorization server sent the user back.

        Args:
            state: What the address repeats; one that does not is somebody else's.
        """
        ...

    async def close(self) -> None:
        """Listen no more. Idempotent."""
        ...


class Function:
    """A function of the program's.

    Args:
        ask: ``async (url) -> address``: sends the user there, and gives the address they were sent back to.
        redirect_uri: Where that is.
    """

    def __init__(self, ask: Ask, redirect_uri: str) -> None:
        self._ask = ask
        self._redirect_uri = redirect_uri

    async def open(self, wanted: str | None) -> str:
        """Nothing to begin."""
        return self._redirect_uri

    async def ask(self, url: str, state: str) -> str:
        """Call it."""
        return await self._ask(url)

    async def close(self) -> None:
        """Nothing to end."""


class Loopback:
    """Listens on 127.0.0.1 for the browser's return, which it opens; the address is printed on stderr as well.

    Args:
        port: 0: any that is free, and the same again as long as it is.
        browser: Opens the address; returns False where it cannot.
    """

    def __init__(self, port: int = 0, *, browser: Callable[[str], object] = webbrowser.open) -> None:
        self._port = port
        self._browser = browser
        self._server: asyncio.Server | None = None
        self._returned: asyncio.Future[str]
        self._state = ""
        self._base = ""
        self._open = 0

    async def open(self, wanted: str | None) -> str:
        """Listen.

        Raises:
            AuthorizationError: The port is taken.
        """
        await self.close()
        self._returned = asyncio.get_running_loop().create_future()
        port = self._port or _port_of(wanted)
        try:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, limit=_MAX_HEAD)
        except OSError as error:
            if self._port:
                raise AuthorizationError(
                    f"the redirect port {port} cannot be had: {error.strerror or error}"
                ) from error
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_MAX_HEAD)
        self._base = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return f"{self._base}/callback"

    async def ask(self, url: str, state: str) -> str:
        """Open the browser, and wait until it returns."""
        self._state = state
        print(f"To authorize, open this address in a browser:\n{url}", file=sys.stderr, flush=True)
        try:
            await asyncio.to_thread(self._browser, url)
        except Exception as error:  # the address was printed: the user can go there without us
            logger.warning("no browser could be opened: %s", error)
        return await self._returned

    async def close(self) -> None:
        """Stop listening."""
        server, self._server = self._server, None
        if server is not None:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request of a browser: the one that is waited for, or one for an icon."""
        self._open += 1
        try:
            if self._open <= _MAX_OPEN:
                async with asyncio.timeout(_HEAD_LIMIT):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self._answer(head))
                    await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever it was, it was not the browser's return
        finally:
            self._open -= 1
            writer.close()

    def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.split(b"\r\n", 1)[0].decode("latin-1").partition(" ")
        target = rest.partition(" ")[0]
        parts = urlsplit(target) if target.startswith("/") else None
        states = parse_qs(parts.query).get("state") if parts is not None and parts.path == "/callback" else None
        if method != "GET" or states != [self._state] or not self._state:
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        if not self._returned.done():
            self._returned.set_result(self._base + target)
        return (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nCache-Control: no-store\r\n"
            b"Referrer-Policy: no-referrer\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(_PAGE), _PAGE)
        )


def _port_of(wanted: str | None) -> int:
    parts = urlsplit(wanted or "")
    return parts.port or 0 if parts.hostname == "127.0.0.1" else 0
