"""What is kept of a legacy session and its calls in the store, and when it has changed.

A session's own values (`session.state`) are stored together with the answer of the call that changed them: whoever
saw the answer finds them again after a kill. Whether they did is found by their encoded form, for a dictionary that
was changed inside looks like itself.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from tailrace.core.ports import PutSession
from tailrace.wire import mcp

if TYPE_CHECKING:
    from tailrace.core.session import Session
    from tailrace.protocols.mcp.journal import SessionJournal

__all__ = ["Record", "StoredCallData", "decode_record", "decode_state", "put_session", "state_changed"]

logger = logging.getLogger("tailrace.mcp")

_EMPTY = Raw(b"{}")


class Record(Struct):
    """What MCP keeps of a legacy session; stored as JSON."""

    transport: str  # "streamable", "sse", "stdio"
    version: str = ""
    client: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    capabilities: Raw = _EMPTY  # an object; as JSON, for much of it takes twenty times as much in Python
    level: str | None = None
    initialized: bool = False
    subscriptions: list[str] = msgspec.field(default_factory=list[str])  # URIs of resources
    state: Raw = _EMPTY  # as it was stored last


class StoredCallData(Struct, frozen=True):
    """A call in the journal."""

    request_id: int | str
    tool: str  # the target's name
    arguments: Raw
    progress_token: int | str | None = None
    once: tuple[str, float] | None = None  # its idempotency key, and when it was accepted (wall clock)
    reran: bool = False  # it runs for the second time: a third one is not tried
    outcome: Raw | UnsetType = UNSET  # its result, committed together with what it published: it does not run again
    method: str = "tools/call"


decode_record = msgspec.json.Decoder(Record).decode
decode_state = msgspec.json.Decoder(dict[str, Any]).decode


def put_session(session: Session) -> PutSession:
    """The session's record as it was, with `record.state`."""
    return PutSession(session.id, session.handle, session.principal, mcp.encode(session.record), time.time())


def state_changed(session: Session, journal: SessionJournal, limit: int) -> bool:
    """Take up the session's own values into its record; were they changed? What cannot be stored, because it has no
    JSON form or more than `limit` bytes, is not taken up, and one ERROR says so."""
    record: Record = session.record
    if not session.state and record.state == _EMPTY:
        return False
    try:
        state = mcp.encode(session.state)
        if len(state) > limit:
            raise ValueError(f"it is over {limit} bytes")
    except (TypeError, ValueError) as error:
        if not journal.state_refused:
            journal.state_refused = True
            logger.error("session.state is not stored as it is now: %s", error)
        return False
    journal.state_refused = False
    if state == bytes(record.state):
        return False
    record.state = Raw(state)
    return True
