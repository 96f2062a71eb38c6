"""What a peer may do for nothing: bounded by buckets that fill up again with time, or with work that is real.

Each frame costs us a little, and some of them cost the peer nothing: resets of requests that have just
begun (CVE-2023-44487), faults that make us reset (CVE-2025-8671), pings, settings, window updates, empty
frames. None of them is wrong by itself. Whoever sends too many is told to calm down, and let go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailrace.wire.h2_frames import ConnectionFault, ErrorCode

if TYPE_CHECKING:
    from tailrace.transports.http.listener import Listener

__all__ = ["Floods"]

RESETS, RESETS_A_SECOND = 1000, 33.0  # of streams whose reply was not complete, by the client
FAULTS, FAULTS_A_SECOND = 100, 5.0  # streams that end because the client broke the protocol, or its limit of streams
CONTROLS, CONTROLS_A_SECOND = 2000, 100.0  # frames that carry nothing of a request
WORTH = 8  # control frames that go with one frame of a request or a reply: windows and pings follow what flows
WORTH_A_BYTE = 1 / 512  # and those that go with its data
CONTINUATIONS = 64  # frames of one block of header fields


class Floods:
    """The buckets of one connection.

    Args:
        listener: Its clock is coarse, and good enough.
    """

    __slots__ = ("_controls", "_faults", "_filled", "_listener", "_resets")

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._filled = listener.clock
        self._resets = 0.0
        self._faults = 0.0
        self._controls = 0.0

    def _refill(self) -> None:
        """For the time that has passed since the last time; asked for when a bucket is empty."""
        seconds = self._listener.clock - self._filled
        self._filled = self._listener.clock
        self._resets = max(0.0, self._resets - seconds * RESETS_A_SECOND)
        self._faults = max(0.0, self._faults - seconds * FAULTS_A_SECOND)
        self._controls = max(0.0, self._controls - seconds * CONTROLS_A_SECOND)

    def worked(self, size: int = 0) -> None:
        """A frame was sent, or came, that is part of a request or a reply, with so much data."""
        if self._controls:
            self._controls = max(0.0, self._controls - WORTH - size * WORTH_A_BYTE)

    def reset(self) -> None:
        """The client gave a request up."""
        self._resets += 1
        if self._resets > RESETS:
            self._refill()
            if self._resets > RESETS:
                raise self._calm("too many requests are reset")

    def fault(self) -> None:
        """The client made us reset a stream."""
        self._faults += 1
        if self._faults > FAULTS:
            self._refill()
            if self._faults > FAULTS:
                raise self._calm("too many streams break the protocol")

    def control(self, what: str) -> None:
        """A frame that carries nothing of a request."""
        self._controls += 1
        if self._controls > CONTROLS:
            self._refill()
            if self._controls > CONTROLS:
                raise self._calm(f"too many {what} frames")

    def block(self, size: int, frames: int) -> None:
        """A block of header fields that is not complete yet, in so many frames."""
        most = self._listener.settings.max_headers
        if size > most:
            raise self._calm(f"a block of header fields is over {most} bytes")
        if frames > CONTINUATIONS:
            raise self._calm("too many CONTINUATION frames")

    def _calm(self, message: str) -> ConnectionFault:
        self._listener.floods += 1
        return ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, message)
