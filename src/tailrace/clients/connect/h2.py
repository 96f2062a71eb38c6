# pyright: reportMissingTypeStubs=false
"""HTTP/2 for the RPC client, on jh2: one connection with many streams, each an `H2Pipe`.

pyqwest's HTTP/2 gives up a connection on which a server sends tiny messages faster than Python takes them
(its guard against floods of DATA frames cannot be set), and hands over one frame at a time between threads. Here a
stream's unread bytes are bounded by its own window, which only its reader opens again: a fast server waits, a slow
reader costs its own stream only, and what a peer can make us hold or write has a limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Callable
from typing import Any, cast

from jh2.config import H2Configuration
from jh2.connection import H2Connection
from jh2.errors import ErrorCodes
from jh2.events import (
    ConnectionTerminated,
    DataReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from jh2.exceptions import H2Error
from jh2.settings import SettingCodes, Settings

from tailrace.clients.connect.h2_pipe import Broken, H2Pipe, PeerReset

__all__ = ["H2Link"]

_STREAM_WINDOW = 1_048_576  # bytes that one stream may have unread
_LINK_WINDOW = 67_108_864  # bytes on the way in, over all streams; what is unread is bounded for each
_MAX_HEADERS = 65_536
_MAX_UNWRITTEN = 4_194_304  # bytes that a peer may let us keep that reads nothing and asks for answers
_MAX_BEGUN = 1_000_000_000  # streams of one connection: their numbers end
_CLOSE_LIMIT = 1.0  # seconds for the last frames to leave

_KIND, _SETTINGS = 3, 4  # where a frame says what it is, and the first one's kind
_CANCEL, _REFUSED = int(ErrorCodes.CANCEL), int(ErrorCodes.REFUSED_STREAM)


class H2Link(asyncio.Protocol):
    """One connection. Belongs to one loop.

    Args:
        on_room: Called when a stream has ended, or the server allows more of them.
        on_closed: Called once, when it takes no more streams.
        again: Given a request that the server says it did not process.
    """

    def __init__(
        self, on_room: Callable[[], None], on_closed: Callable[[H2Link], None], again: Callable[[H2Pipe], bool]
    ) -> None:
        self._h2: Any = _Connection(H2Configuration(client_side=True, header_encoding="latin-1"))  # it has no types
        self._streams: dict[int, H2Pipe] = {}
        self._begun = 0
        self._on_room = on_room
        self._on_closed = on_closed
        self._again = again
        self._transport: asyncio.Transport | None = None
        self._paused = False  # the transport's buffer is full
        self._flushing = False
        self._greeted = False  # the server's settings are known
        self.usable = False  # takes new streams

    # --- asyncio's side ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say hello."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not derive from it
        self._h2.local_settings = Settings(
            client=True,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.INITIAL_WINDOW_SIZE: _STREAM_WINDOW,
                SettingCodes.MAX_HEADER_LIST_SIZE: _MAX_HEADERS,
            },
        )
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(_LINK_WINDOW - 65_535)
        self.usable = True
        self._flush()

    def data_received(self, data: bytes) -> None:
        """What the server says; SETTINGS come first (RFC 9113, 3.4)."""
        if not self._greeted and len(data) > _KIND and data[_KIND] != _SETTINGS:
            return self._end(Broken("the server does not speak HTTP/2"))
        try:
            for event in self._h2.receive_data(data):
                self._hear(event)
        except H2Error as error:
            self._flush()
            return self._end(Broken(f"the server's HTTP/2 is broken: {error}"))
        return self._flush()

    def pause_writing(self) -> None:
        """The server reads too slowly: bodies wait."""
        self._paused = True

    def resume_writing(self) -> None:
        """It read."""
        self._paused = False
        self._pump_all()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._end(Broken(f"the connection was closed{f': {exc}' if exc else ''}"))

    # --- the client's side ---

    @property
    def room(self) -> bool:
        """One more stream may begin. Until the server has said how many, one may."""
        most = self._h2.remote_settings.max_concurrent_streams if self._greeted else 1
        return self.usable and len(self._streams) < most and self._begun < _MAX_BEGUN

    @property
    def idle(self) -> bool:
        """Nothing goes on."""
        return not self._streams

    def start(self, pipe: H2Pipe) -> None:
        """Send a request. `room` has to be true."""
        pipe.id = self._h2.get_next_available_stream_id()
        pipe.link = self
        pipe.attempts += 1
        self._begun += 1
        self._streams[pipe.id] = pipe
        self._h2.send_headers(pipe.id, list(pipe.head), end_stream=not pipe.sending)
        if pipe.upload is not None:
            pipe.upload.listener = lambda: self._more(pipe)
        self._pump(pipe)
        self._flush()

    def forget(self, pipe: H2Pipe) -> None:
        """Nobody listens: the server is told, unless it is over."""
        if self._streams.pop(pipe.id, None) is not None:
            self._reset(pipe.id)
            self._flush()
            self._left()

    def reopen_window(self, pipe: H2Pipe, size: int) -> None:
        """The reader took `size` bytes of a stream: it may send as many again."""
        with contextlib.suppress(H2Error):  # it ended meanwhile
            self._h2.increment_flow_control_window(size, pipe.id)
            self._flush_soon()

    def close(self) -> None:
        """End it, and what is on it; its last frames have a moment to leave. Idempotent."""
        if self._transport is None or not self.usable:
            return
        with contextlib.suppress(H2Error):
            self._h2.close_connection()
        self._flush()
        self._end(Broken("the client was closed"))

    # --- inside ---

    def _hear(self, event: Any) -> None:
        kind: Any = event.__class__
        if kind is WindowUpdated or kind is RemoteSettingsChanged:
            self._greeted = True
            self._pump_all()
            return self._on_room()
        if kind is ConnectionTerminated:
            return self._goes_away(event)
        if kind is DataReceived and event.flow_controlled_length:
            self._h2.increment_flow_control_window(event.flow_controlled_length)
        pipe = self._streams.get(getattr(event, "stream_id", None) or 0)
        if pipe is None:  # dropped; or acknowledged by jh2, or of no interest
            return None
        if kind is DataReceived:
            pipe.came(event.data, event.flow_controlled_length)
        elif kind is ResponseReceived:
            pipe.begin(event.headers)
        elif kind is TrailersReceived:
            pipe.end(event.headers)
        elif kind is StreamEnded:
            pipe.end()
            self._settle(pipe)
        elif kind is StreamReset:
            self._was_reset(pipe, int(event.error_code))
        return None

    def _was_reset(self, pipe: H2Pipe, code: int) -> None:
        del self._streams[pipe.id]
        if not (code == _REFUSED and self._again(pipe)):
            pipe.fail(PeerReset(code))
            if pipe.upload is not None:  # after a whole answer: its rest is not wanted
                pipe.upload.abandon()
        self._left()

    def _goes_away(self, event: Any) -> None:
        """It takes no more streams; those that it began to process go on."""
        self._retire()
        for id in [id for id in self._streams if id > event.last_stream_id]:
            pipe = self._streams.pop(id)
            if not self._again(pipe):
                pipe.fail(PeerReset(_REFUSED))
        if int(event.error_code) != int(ErrorCodes.NO_ERROR):
            self._end(Broken(f"the server ended the connection with code {int(event.error_code)}"))
        else:
            self._left()

    def _more(self, pipe: H2Pipe) -> None:
        if self._streams.get(pipe.id) is pipe:
            self._pump(pipe)
            self._flush()

    def _pump_all(self) -> None:
        for pipe in list(self._streams.values()):
            self._pump(pipe)
        self._flush()

    def _pump(self, pipe: H2Pipe) -> None:
        """Send of a body what the windows and the transport have room for."""
        with contextlib.suppress(H2Error):  # it was reset, which is heard next
            self._pump_body(pipe)

    def _pump_body(self, pipe: H2Pipe) -> None:
        while pipe.sending and not self._paused:
            if not pipe.unsent and pipe.upload is not None:
                pipe.unsent = pipe.upload.take() or b""
            room = min(self._h2.local_flow_control_window(pipe.id), self._h2.max_outbound_frame_size)
            if pipe.unsent:
                if room <= 0:
                    return
                part, pipe.unsent = pipe.unsent[:room], pipe.unsent[room:]
                self._h2.send_data(pipe.id, part)
                self._flush()
            elif pipe.upload is None or pipe.upload.finished:
                pipe.sending = False
                self._h2.end_stream(pipe.id)
                self._settle(pipe)
            else:
                return

    def _settle(self, pipe: H2Pipe) -> None:
        if pipe.complete and self._streams.pop(pipe.id, None) is not None:
            self._left()

    def _left(self) -> None:
        """A stream has ended."""
        if self.usable:
            self._on_room()
        elif not self._streams:
            self._end(Broken("the server ended the connection"))

    def _reset(self, id: int) -> None:
        with contextlib.suppress(H2Error):  # the server ended it
            self._h2.reset_stream(id, _CANCEL)

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush, context=contextvars.Context())

    def _flush(self) -> None:
        self._flushing = False
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if data := self._h2.data_to_send():
            transport.write(data)
        if transport.get_write_buffer_size() > _MAX_UNWRITTEN:
            self._end(Broken("the server reads nothing and asks for answers"))

    def _retire(self) -> None:
        if self.usable:
            self.usable = False
            self._on_closed(self)

    def _end(self, error: Exception) -> None:
        """The one way to the end."""
        self._retire()
        streams, self._streams = self._streams, {}
        for pipe in streams.values():
            pipe.fail(error)
        if self._transport is not None and not self._transport.is_closing():
            self._transport.close()
            loop = asyncio.get_running_loop()
            loop.call_later(_CLOSE_LIMIT, self._transport.abort, context=contextvars.Context())


class _Connection(H2Connection):
    """jh2's, but that a GOAWAY ends no stream: servers that drain answer what they have begun (RFC 9113, 6.8)."""

    def _receive_goaway_frame(self, frame: Any) -> tuple[list[Any], list[Any]]:
        event: Any = ConnectionTerminated()
        event.error_code, event.last_stream_id = frame.error_code, frame.last_stream_id
        return [], [event]
