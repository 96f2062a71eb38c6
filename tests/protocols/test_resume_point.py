"""Where a resume goes on when the event id is of an earlier process life."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from tailrace.core.log import Log
from tailrace.core.ports import Kind
from tailrace.protocols.mcp.framing import EventId
from tailrace.protocols.mcp.streams import Streams


@pytest.mark.parametrize(
    ("epoch", "seq", "after"),
    [
        (3, 4, 4),  # this life: as the client says
        (3, 99, 6),  # beyond the end: the end
        (2, 4, 4),  # an earlier life, and durable: as the client says
        (2, 6, 5),  # an earlier life, seen from memory while the disk failed: that number was given again
    ],
)
def test_only_what_was_durable_counts_of_an_earlier_life(epoch: int, seq: int, after: int) -> None:
    log = Log(last=5)
    log.append(b"new", Kind.ANSWER)
    nothing = cast("Any", None)
    streams = Streams(nothing, nothing, cast("Any", SimpleNamespace(epoch=3)), nothing)
    assert streams.resume_after(EventId(b"handle", 0, epoch, seq), log) == after
