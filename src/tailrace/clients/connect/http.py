"""One request through pyqwest as a `Pipe`: what comes, in order, and a drop that the server learns of at once.

Leaving a pyqwest response resets its HTTP/2 stream (CANCEL), or closes its HTTP/1.1 connection, at the call itself
and without a wait; a request that has no response yet is dropped by cancelling its future.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, cast

import pyqwest

from tailrace.clients import idle
from tailrace.clients.connect.h2pool import H2Pool
from tailrace.clients.exit import settle_at_exit
from tailrace.core.stream import Pipe
from tailrace.errors import DefinitionError

__all__ = ["Answering", "Connections", "Http", "HttpPipe", "Version", "open_http"]

Version: TypeAlias = Literal["auto", "1.1", "2"]
_VERSIONS = {"1.1": pyqwest.HTTPVersion.HTTP1, "2": pyqwest.HTTPVersion.HTTP2}


class Answering(Pipe, Protocol):
    """A request and its answer, over either library."""

    @property
    def status(self) -> int:
        """Of the answer, once it has begun."""
        ...

    @property
    def headers(self) -> list[tuple[bytes, str]]:
        """Of the answer, once it has begun; names in lower case."""
        ...

    @property
    def trailers(self) -> list[tuple[bytes, str]]:
        """Of the answer, once it has been read to its end."""
        ...


class Connections(Protocol):
    """The connections of one client."""

    def request(
        self, method: str, url: str, headers: Iterable[tuple[str, str]], body: bytes | AsyncIterator[bytes] | None
    ) -> Answering:
        """One request; it goes out when the pipe is opened."""
        ...

    async def aclose(self) -> None:
        """Close them; those in use close when what uses them is dropped, or now."""
        ...


def open_http(
    base_url: str,
    *,
    version: Version,
    connect_timeout: float,
    ca_cert: bytes | str | Path | None,
    client_cert: bytes | str | Path | None,
    client_key: bytes | str | Path | None,
) -> Connections:
    """The connections of one client: HTTP/2 by our own hand, else by pyqwest.

    Args:
        base_url: Where the server is.
        version: ``auto``: HTTP/1.1 without TLS, and what ALPN says with it.
        connect_timeout: Seconds for one connection to be made.
        ca_cert: PEM, or a file with it, of what signed the server's certificate; by default the system's.
        client_cert: PEM, or a file, that tells the server who we are.
        client_key: The same of its key.

    Raises:
        DefinitionError: They cannot be made of this.
    """
    ca, cert, key = _pem(ca_cert), _pem(client_cert), _pem(client_key)
    if version == "2":
        return H2Pool(base_url, connect_timeout=connect_timeout, ca_cert=ca, client_cert=cert, client_key=key)
    return Http(version=version, connect_timeout=connect_timeout, ca_cert=ca, client_cert=cert, client_key=key)


class Http:
    """Connections through pyqwest; arguments as of `open_http`."""

    def __init__(
        self,
        *,
        version: Version,
        connect_timeout: float,
        ca_cert: bytes | None,
        client_cert: bytes | None,
        client_key: bytes | None,
    ) -> None:
        try:
            self._transport = pyqwest.HTTPTransport(
                http_version=_VERSIONS.get(version),
                connect_timeout=connect_timeout,
                pool_idle_timeout=idle.IDLE,
                tls_ca_cert=ca_cert,
                tls_include_system_certs=ca_cert is None,
                tls_cert=client_cert,
                tls_key=client_key,
                enable_gzip=False,  # what is decompressed, and how much of it, is for the RPC's limits to say
                enable_brotli=False,
                enable_zstd=False,
                enable_otel=False,
                follow_redirects=False,
            )
        except (ValueError, RuntimeError, OSError) as error:
            raise DefinitionError(f"no connections can be made with this certificate or key: {error}") from None
        settle_at_exit()

    def request(
        self, method: str, url: str, headers: Iterable[tuple[str, str]], body: bytes | AsyncIterator[bytes] | None
    ) -> HttpPipe:
        """One request; it goes out when the pipe is opened."""
        return HttpPipe(self._transport, pyqwest.Request(method, url, pyqwest.Headers(headers), body))

    async def aclose(self) -> None:
        """Close the idle connections; those in use close when what uses them is dropped."""
        await self._transport.aclose()


class HttpPipe:
    """One request and its answer; see `core.stream.Pipe`."""

    __slots__ = ("_content", "_opening", "_request", "_transport")

    def __init__(self, transport: pyqwest.HTTPTransport, request: pyqwest.Request) -> None:
        self._transport = transport
        self._request = request
        self._opening: asyncio.Future[pyqwest.Response] | None = None
        self._content: AsyncIterator[Any] | None = None

    @property
    def status(self) -> int:
        """Of the answer, once it has begun."""
        return self._begun.status

    @property
    def headers(self) -> list[tuple[bytes, str]]:
        """Of the answer, once it has begun; names in lower case."""
        return _fields(self._begun.headers)

    @property
    def trailers(self) -> list[tuple[bytes, str]]:
        """Of the answer, once it has been read to its end."""
        return _fields(self._begun.trailers)

    def open(self) -> asyncio.Future[Any]:
        """Send it; done when the answer's headers are there."""
        self._opening = cast("asyncio.Future[pyqwest.Response]", self._transport.execute(self._request))
        return self._opening

    def read(self) -> asyncio.Future[bytes]:
        """The next bytes of the body."""
        if self._content is None:
            self._content = aiter(self._begun.content)
        result: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._ask(self._content, result)
        return result

    def drop(self) -> None:
        """Let go of it, at once; idempotent."""
        opening = self._opening
        if opening is None or opening.cancelled():
            return
        if not opening.done():
            opening.cancel()
        elif opening.exception() is None:
            # The release happens in the call; what it returns is there to be awaited, and does nothing.
            opening.result().__aexit__(None, None, None)

    @property
    def _begun(self) -> pyqwest.Response:
        assert self._opening is not None, "the request was not sent"
        return self._opening.result()

    def _ask(self, content: AsyncIterator[Any], result: asyncio.Future[bytes]) -> None:
        def came(piece: asyncio.Future[Any]) -> None:
            error = None if piece.cancelled() else piece.exception()
            if result.done():
                return
            if piece.cancelled():
                result.cancel()
            elif isinstance(error, StopAsyncIteration):
                result.set_result(b"")
            elif error is not None:
                result.set_exception(error)
                result.exception()  # nobody has to ask: the loop would report it as lost
            elif data := bytes(piece.result()):
                result.set_result(data)
            else:  # a piece without bytes is no end
                self._ask(content, result)

        cast("asyncio.Future[Any]", anext(content)).add_done_callback(came)


def _fields(headers: pyqwest.Headers) -> list[tuple[bytes, str]]:
    return [(name.encode("latin-1"), value) for name, value in headers.items()]


def _pem(given: bytes | str | Path | None) -> bytes | None:
    if given is None or isinstance(given, bytes):
        return given
    if isinstance(given, str) and given.lstrip().startswith("-----BEGIN"):
        return given.encode()
    with contextlib.suppress(OSError):
        return Path(given).read_bytes()
    raise DefinitionError(f"{given!r} is neither PEM nor a file that can be read")
