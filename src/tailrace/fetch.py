"""Small documents from authorization servers: metadata, keys, tokens; with limits on size and time, and no redirects.

Clients and servers both need it. What the documents mean is left to them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from ipaddress import ip_address
from typing import TypeVar
from urllib.parse import urlencode, urlsplit

import msgspec
import pyqwest
from msgspec import Struct

from tailrace.errors import LimitError, TransportError

__all__ = ["Fetch", "Fetched", "check_address", "is_loopback_url"]

T = TypeVar("T")

_ACCEPT = {"accept": "application/json"}
_FORM = {"content-type": "application/x-www-form-urlencoded"}
_JSON = {"content-type": "application/json"}


class Fetched(Struct, frozen=True):
    """An answer, whatever its status.

    Attributes:
        url: What was asked.
        status: The HTTP status.
        body: All of it.
    """

    url: str
    status: int
    body: bytes

    def decode(self, kind: type[T]) -> T:
        """The JSON as a `kind`.

        Raises:
            TransportError: It is something else.
        """
        try:
            return msgspec.json.decode(self.body, type=kind)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise TransportError(f"{self.url} answered HTTP {self.status} with what is not valid: {error}") from None


class Fetch:
    """One HTTP client; used on one loop.

    Args:
        loopback: Allow ``http://`` to addresses of this machine. Elsewhere it is ``https://`` only.
        seconds: For one document.
        max_bytes: Of one document.
    """

    def __init__(self, *, loopback: bool, seconds: float = 10.0, max_bytes: int = 1_048_576) -> None:
        self._loopback = loopback
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._transport = pyqwest.HTTPTransport(
            connect_timeout=seconds,
            tls_include_system_certs=True,
            follow_redirects=False,  # what is sent is meant for one server, and what it says stands for itself
        )
        self._client = pyqwest.Client(self._transport)

    async def get(self, url: str) -> Fetched:
        """Ask for a document.

        Raises:
            TransportError: The address is not safe, the server is not there, or it took too long.
            LimitError: The document is too large.
        """
        return await self._fetch("GET", url, _ACCEPT, None)

    async def post_form(self, url: str, form: Mapping[str, str], headers: Mapping[str, str] | None = None) -> Fetched:
        """Post a form. Raises as `get` does."""
        return await self._fetch("POST", url, {**_ACCEPT, **_FORM, **(headers or {})}, urlencode(form).encode())

    async def post_json(self, url: str, body: object) -> Fetched:
        """Post JSON. Raises as `get` does."""
        return await self._fetch("POST", url, {**_ACCEPT, **_JSON}, msgspec.json.encode(body))

    async def aclose(self) -> None:
        """Close the idle connections."""
        await self._transport.aclose()

    async def _fetch(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Fetched:
        check_address(url, loopback=self._loopback)
        whole = bytearray()
        try:
            async with (
                asyncio.timeout(self._seconds),
                self._client.stream(method, url, headers, body) as response,
            ):
                async for part in response.content:
                    whole += part
                    if len(whole) > self._max_bytes:
                        raise LimitError("fetch", f"{url} answered with more than {self._max_bytes} bytes")
                return Fetched(url, response.status, bytes(whole))
        except TimeoutError:
            raise TransportError(f"{url} did not answer within {self._seconds:g} s") from None
        except (ConnectionError, pyqwest.RemoteProtocolError, pyqwest.ReadError, pyqwest.WriteError) as error:
            raise TransportError(f"{url} cannot be reached: {str(error)[:200]}") from error


def check_address(url: str, *, loopback: bool) -> None:
    """Refuse an address to which no secret may be sent.

    Args:
        loopback: Allow ``http://`` to addresses of this machine.

    Raises:
        TransportError: It is neither https nor an allowed loopback address, or names a user.
    """
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        if parts.hostname and "@" not in parts.netloc and url.isprintable() and " " not in url:
            if parts.scheme == "https":
                return
            if parts.scheme == "http" and loopback and is_loopback_url(url):
                return
    raise TransportError(f"{url[:200]!r} is not used: an authorization server's addresses are https://")


def is_loopback_url(url: str) -> bool:
    """Whether the address is on this machine, by name or number."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
