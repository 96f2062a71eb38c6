"""One request on an HTTP/2 connection, and its answer: what its reader takes, and what the connection brings.

What came and was not read is bounded by the stream's window, which only the reader opens again. Frames, and the
connection's end, are `h2`'s.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tailrace.wire.h2_fields import Malformed, check_field, read_pseudo

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tailrace.clients.connect.h2 import H2Link
    from tailrace.clients.connect.upload import Upload
    from tailrace.wire.hpack import Field

__all__ = ["Broken", "H2Pipe", "PeerReset"]


_STATUS = frozenset({b":status"})


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
        withdraw: Called when it is dropped and no connection has it.
        head: Method, authority and so on, and all headers.
        body: All of it, or what gives it.
    """

    def __init__(
        self,
        send: Callable[[H2Pipe], None],
        withdraw: Callable[[H2Pipe], None],
        head: Sequence[tuple[str, str]],
        body: bytes | Upload | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.head = head
        self.body = body if isinstance(body, bytes) else None
        self.upload = None if body is None or isinstance(body, bytes) else body
        self.unsent = memoryview(self.body or b"")  # of the body: what the window has no room for
        self.sending = body is not None  # its end has not gone out
        self.link: H2Link | None = None
        self.number = 0
        self.window = 0  # bytes of the body that the server still takes
        self.credit = 0  # bytes of the answer that it may still send
        self.taken = 0  # bytes that were read since it was last told so
        self.attempts = 0
        self.dropped = False
        self.status = 0
        self.headers: list[tuple[bytes, str]] = []
        self.trailers: list[tuple[bytes, str]] = []
        self.opened: asyncio.Future[Any] = loop.create_future()
        self._send = send
        self._withdraw = withdraw
        self._held = bytearray()
        self._expected: int | None = None  # bytes of the answer's body that have not come, if it said how many
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
        else:
            self._withdraw(self)

    # --- the connection's side ---

    def attach(self, link: H2Link, number: int, window: int, credit: int) -> None:
        """It goes out as this stream of this connection, with these windows."""
        self.link, self.number, self.window, self.credit, self.taken = link, number, window, credit, 0
        self.attempts += 1

    def rewind(self) -> None:
        """Nobody looked at it: it may go out once more."""
        self.link = None
        self.unsent, self.sending = memoryview(self.body or b""), self.body is not None

    def say(self, fields: Sequence[Field], ended: bool) -> None:
        """The answer's head, or its trailers.

        Raises:
            Malformed: They are none (RFC 9113, 8.1.1).
        """
        if self._ended or (self.status and not ended):
            raise Malformed("header fields stand in the middle of an answer, or behind it")
        pseudo, at = read_pseudo(fields, frozenset() if self.status else _STATUS)
        texts = [_checked(name, value) for name, value in fields[at:]]
        if self.status:
            self.trailers = texts
        else:
            self._begin(pseudo.get(b":status", b""), texts, ended)
        if ended:
            self._end()

    def came(self, data: bytes, ended: bool) -> None:
        """Some of the answer's body.

        Raises:
            Malformed: It may not stand there, or is not as long as the head says.
        """
        if self._ended or not self.status:
            raise Malformed("a body stands behind its answer's end, or before its head")
        if self._expected is not None:
            self._expected -= len(data)
            if self._expected < 0:
                raise Malformed("the body is longer than its content-length")
        self._held += data
        if ended:
            self._end()
        else:
            self._give()

    def fail(self, error: Exception) -> None:
        """There is no more, and this is why. What came is read first."""
        if self.upload is not None:  # after a whole answer: its rest is not wanted
            self.upload.abandon()
        if self._ended or self._error is not None:
            return
        self._error = error
        if not self.opened.done():
            self.opened.set_exception(error)
            self.opened.exception()  # nobody has to ask: the loop would report it as lost
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
            data = bytes(self._held)
            self._held.clear()
            reading.set_result(data)
            if self.link is not None and not self._ended:
                self.link.reopen_window(self, len(data))
        elif self._ended:
            reading.set_result(b"")
        elif self._error is not None:
            reading.set_exception(self._error)
            reading.exception()

    def _begin(self, status: bytes, headers: list[tuple[bytes, str]], ended: bool) -> None:
        if len(status) != 3 or not status.isdigit() or status < b"100":
            raise Malformed(":status is missing, or no status")
        if status < b"200":  # informational: the answer is still to come
            if ended:
                raise Malformed("an informational answer is the last one")
            return
        lengths = {value for name, value in headers if name == b"content-length"}
        if len(lengths) > 1 or not all(value.isdecimal() and value.isascii() for value in lengths):
            raise Malformed("content-length is no number, or there with different ones")
        if lengths and status not in (b"204", b"304"):
            self._expected = int(lengths.pop())
        self.status, self.headers = int(status), headers
        if not self.opened.done():
            self.opened.set_result(None)

    def _end(self) -> None:
        if self._expected:
            raise Malformed("the body is shorter than its content-length")
        self._ended = True
        self._give()


def _checked(name: bytes, value: bytes) -> tuple[bytes, str]:
    check_field(name, value)
    return name, value.decode("latin-1")
