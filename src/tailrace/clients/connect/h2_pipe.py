"""One request on an HTTP/2 connection, and its answer: what its reader takes, and what the connection brings.

What came and was not read is bounded by the stream's window, which only the reader opens again. Frames, and the
connection's end, are `h2`'s.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tailrace.clients.connect.h2 import H2Link
    from tailrace.clients.connect.upload import Upload

__all__ = ["Broken", "H2Pipe", "PeerReset"]


class PeerReset(Exception):
    """The server reset the stream.

    Args:
        code: HTTP/2's error code.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"the server reset the stream with code {code}")
        self.code = code


class Broken(Exception):
    """The connection ended, or what came on it was no HTTP/2."""


class H2Pipe:
    """One request and its answer; see `core.stream.Pipe`.

    Args:
        send: Puts it onto a connection, now or later; called when it is opened.
        head: Method, authority and so on, and all headers.
        body: All of it, or what gives it.
    """

    def __init__(
        self, send: Callable[[H2Pipe], None], head: Sequence[tuple[str, str]], body: bytes | Upload | None
    ) -> None:
        loop = asyncio.get_running_loop()
        self.head = head
        self.body = body if isinstance(body, bytes) else None
        self.upload = None if body is None or isinstance(body, bytes) else body
        self.unsent = body if isinstance(body, bytes) else b""  # of the body: what the window has no room for
        self.sending = body is not None  # its end has not gone out
        self.link: H2Link | None = None
        self.id = 0
        self.attempts = 0
        self.dropped = False
        self.status = 0
        self.headers: list[tuple[bytes, str]] = []
        self.trailers: list[tuple[bytes, str]] = []
        self.opened: asyncio.Future[Any] = loop.create_future()
        self._send = send
        self._held = bytearray()
        self._unread = 0  # of the window; padding counts
        self._ended = False
        self._error: Exception | None = None
        self._reading: asyncio.Future[bytes] | None = None

    # --- the reader's side ---

    def open(self) -> asyncio.Future[Any]:
        """Send it; done when the answer's headers are there."""
        self._send(self)
        return self.opened

    def read(self) -> asyncio.Future[bytes]:
        """The next bytes of the body: all that are there."""
        result = self._reading = asyncio.get_running_loop().create_future()
        self._give()
        return result

    def drop(self) -> None:
        """Let go of it, at once; idempotent."""
        if self.dropped:
            return
        self.dropped = True
        self._held.clear()
        if self.upload is not None:
            self.upload.abandon()
        if not self.opened.done():
            self.opened.cancel()
        if self.link is not None:
            self.link.forget(self)

    # --- the connection's side ---

    def begin(self, headers: Sequence[tuple[Any, Any]]) -> None:
        """The answer's headers."""
        fields = _fields(headers)
        self.status = int(next((value for name, value in fields if name == b":status"), "0"))
        self.headers = [field for field in fields if not field[0].startswith(b":")]
        if not self.opened.done():
            self.opened.set_result(None)

    def came(self, data: bytes, size: int) -> None:
        """Some of the answer's body; `size` of the window."""
        self._held += data
        self._unread += size
        self._give()

    def end(self, trailers: Sequence[tuple[Any, Any]] | None = None) -> None:
        """The answer's trailers, or its end."""
        if trailers is not None:
            self.trailers = _fields(trailers)
            return
        self._ended = True
        self._give()

    def fail(self, error: Exception) -> None:
        """There is no more, and this is why. What came is read first."""
        if self._ended or self._error is not None:
            return
        self._error = error
        if self.upload is not None:
            self.upload.abandon()
        if not self.opened.done():
            self.opened.set_exception(error)
        self._give()

    @property
    def complete(self) -> bool:
        """Both sides have said all that they have to."""
        return self._ended and not self.sending

    def _give(self) -> None:
        reading = self._reading
        if reading is None or reading.done():
            return
        if self._held:
            data, size = bytes(self._held), self._unread
            self._held.clear()
            self._unread = 0
            reading.set_result(data)
            if self.link is not None and not self._ended:
                self.link.reopen_window(self, size)
        elif self._ended:
            reading.set_result(b"")
        elif self._error is not None:
            reading.set_exception(self._error)


def _fields(headers: Sequence[tuple[Any, Any]]) -> list[tuple[bytes, str]]:
    return [(str(name).encode("latin-1"), str(value)) for name, value in headers]
