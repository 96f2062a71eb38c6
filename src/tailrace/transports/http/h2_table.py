"""The streams of one HTTP/2 connection: which there are, how each ends, and what credit its client has.

Credit for the connection is given back when data comes, that of a stream when it is read: who does not
read one stream holds up its sender only. All that is held of all bodies is bounded by `HELD`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tailrace.errors import ClientGone, TransportError
from tailrace.wire.h2_frames import ConnectionFault, ErrorCode, reset, window_update

if TYPE_CHECKING:
    from tailrace.transports.http.h2_floods import Floods
    from tailrace.transports.http.h2_out import Outgoing
    from tailrace.transports.http.h2_streams import H2Exchange
    from tailrace.transports.http.listener import Listener

__all__ = ["CREDIT", "LINGER", "Streams"]

CREDIT = 1024 * 1024  # the connection's window for what the client sends
HELD = 32 * 1024 * 1024  # bytes of bodies that have come and are not taken; over it no credit is given
LINGER = 2.0  # seconds for a client to read a reply (or why it is let go) before it is told to be silent
_FORGOTTEN = 1024  # streams that we reset last: what was on its way is no fault


class Streams:
    """The table.

    Args:
        listener: Limits, clock and server.
        out: What the connection sends.
        floods: What its client may do for nothing.
        emptied: Called when the last stream has ended.

    Attributes:
        open: Those whose reply is not complete.
        left_over: Those whose reply is, while their client still sends.
        forgotten: Those that were reset by us.
    """

    __slots__ = ("_credit", "_emptied", "_held", "floods", "forgotten", "left_over", "listener", "open", "out")

    def __init__(self, listener: Listener, out: Outgoing, floods: Floods, emptied: Callable[[], None]) -> None:
        self.listener = listener
        self.out = out
        self.floods = floods
        self.open: dict[int, H2Exchange] = {}
        self.left_over: dict[int, H2Exchange] = {}
        self.forgotten: dict[int, None] = {}
        self._emptied = emptied
        self._credit = CREDIT
        self._held = 0

    @property
    def busy(self) -> bool:
        """Is there any?"""
        return bool(self.open or self.left_over)

    # --- credit for the client ---

    def spend(self, size: int) -> None:
        """Data has come.

        Raises:
            ConnectionFault: More than there was credit for.
        """
        self._credit -= size
        if self._credit < 0:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more data than the connection's window")

    def give_credit(self) -> None:
        """For the connection, as long as not too much is held."""
        if self._credit <= CREDIT // 2 and self._held <= HELD:
            self.out.put(window_update(0, CREDIT - self._credit))
            self._credit = CREDIT

    def hold(self, size: int) -> None:
        """So much of a body is kept."""
        self._held += size

    def gather(self, size: int) -> None:
        """So much of a body is kept, which is wanted whole."""
        self._held += size
        self.listener.arriving += size

    @property
    def crowded(self) -> bool:
        """Over all connections so much of bodies is kept that this one may not add to it."""
        settings = self.listener.settings
        return self.listener.arriving > settings.arriving and self._held > settings.look_ahead

    def taken(self, stream: H2Exchange, size: int) -> None:
        """A handler has read (or dropped) so much."""
        self._held -= size
        stream.spent += size
        self.give_stream_credit(stream)
        self.give_credit()

    def give_stream_credit(self, stream: H2Exchange) -> None:
        """For what was taken of a stream."""
        if stream.over or stream.ended:
            return
        if stream.spent >= self.listener.settings.stream_window // 2:
            self.out.put(window_update(stream.number, stream.spent))
            stream.credit += stream.spent
            stream.spent = 0

    def release(self, stream: H2Exchange) -> None:
        """What was gathered of a body is not ours any more."""
        if isinstance(stream.gathered, bytearray):
            self._held -= len(stream.gathered)
            self.listener.arriving -= len(stream.gathered)
            self.give_credit()
        stream.gathered = b""

    # --- ends ---

    def replied(self, stream: H2Exchange) -> None:
        """The reply is complete. A client that still sends its request has some time to see that; then it is told
        not to go on (RFC 9113, 8.1). Told at once, some throw the reply away."""
        stream.over = True
        if not stream.ended:
            self.release(stream)
            stream.body_due = self.listener.after(LINGER)
            self.left_over[stream.number] = stream
            if len(self.left_over) > self.listener.settings.max_streams:
                self.give_up(next(iter(self.left_over.values())))
        if stream.incoming is not None:
            stream.incoming.stop()
        self._close(stream)

    def give_up(self, stream: H2Exchange) -> None:
        """What is left of a request whose reply is complete is not waited for."""
        del self.left_over[stream.number]
        self.reset(stream.number, ErrorCode.NO_ERROR)

    def break_off(self, stream: H2Exchange) -> None:
        """Nobody writes to a stream any more. If its end was not said, the client has to see that."""
        if not stream.over:
            self.reset(stream.number, ErrorCode.INTERNAL_ERROR)
            self.drop(stream, None)

    def reset(self, number: int, code: int) -> None:
        """Tell the client that a stream is over; what still comes on it was on its way."""
        self.forget(number)
        self.out.put(reset(number, code))

    def forget(self, number: int) -> None:
        """What comes on this stream is nobody's."""
        self.forgotten[number] = None
        if len(self.forgotten) > _FORGOTTEN:
            del self.forgotten[next(iter(self.forgotten))]

    def drop(self, stream: H2Exchange, by: ClientGone | None) -> None:
        """A stream is over before its reply was complete: whoever works for it learns that, and by what it ended;
        None: by the writer of its own reply."""
        stream.over = True
        self._close(stream)
        self._tell(stream, by, writing=by is None)

    def leave_all(self) -> None:
        """Nobody is there any more."""
        streams, self.open = list(self.open.values()), {}
        self.left_over.clear()
        for stream in streams:
            stream.over = True
        for stream in streams:
            self._tell(stream, None, writing=False)

    def _tell(self, stream: H2Exchange, by: ClientGone | None, *, writing: bool) -> None:
        self.release(stream)
        if stream.incoming is not None:
            stream.incoming.fail(TransportError("the client is gone" if by is None else by.reason))
            stream.incoming.stop()
        stream.wake()
        if stream.task is not None and not writing:
            stream.task.cancel()
        stream.leave(by)

    def _close(self, stream: H2Exchange) -> None:
        self.open.pop(stream.number, None)
        if not self.open:
            self._emptied()
