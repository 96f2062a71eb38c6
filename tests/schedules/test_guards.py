"""A guard that cannot fail is no guard: with each one taken out, the explorer finds the fault in the races it is for.

The same scenarios, the same bound as where all guards are in place. Every pair of ends has its row.
"""

from __future__ import annotations

import re
from functools import partial
from itertools import combinations
from typing import Any

import pytest

from tests.schedules import conversation, served
from tests.schedules.exploring import fault
from tests.schedules.guards import GUARDS, take_out
from tests.schedules.served import ModernPeer, SsePeer, StreamablePeer
from tests.schedules.test_lossy import BROKEN

pytestmark = pytest.mark.slow
# what is found without it
FAULTS = {
    "closing_is_one_step": "the session ended 2 times|hooks ran as|was closed",
    "each_waiter_has_its_own_future": "CancelledError",
    "the_greeting_is_over_before_the_farewell": "hooks ran as",
    "an_ended_stream_takes_nothing": "added to a stream that has ended",
    "the_end_wakes_the_reader": "(?s)can never finish.*writer",
    "a_call_that_has_not_begun_is_not_cancelled_as_a_task": "can never finish|did not end",
    "a_call_is_not_its_connections": "its connection ended",
    "the_drain_is_told": "the drain waited for its limit",
    "a_reader_that_left_frees_the_room": "(?s)can never finish.*tailrace-call|did not end",
    "the_newest_reader_takes_the_stream": "(?s)can never finish.*writer|virtual time exceeded",
    "a_resume_begins_where_the_client_is": "lost or doubled|has no answer|came behind",
    "a_new_reader_counts_from_the_log": "the reader's count is wrong",
    "waking_twice_is_harmless": "InvalidStateError",
    "the_writer_sends_the_keep_alive": "two writers on one connection|the peer is gone|behind the end",
    "the_peers_end_is_no_error": "TransportError",
    "an_event_is_sent_when_it_is_durable": "is sent uncommitted",
    "the_202_waits_for_the_commit": "a 202 before the call is committed",
    "the_handler_waits_for_the_commit": "the handler raised an exception",
    "a_stream_begins_when_its_call_is_durable": "a stream begins before|no answer",
    "an_answer_ends_its_call_in_the_journal": "answered 2 times|holds a call",
    "no_session_comes_back_while_all_end": "a session that is kept was not found|hooks ran as",
    "work_that_ends_without_a_reply_is_noticed": "(?s)can never finish.*GET|waits for ever",
    "a_stateless_call_ends_with_its_client": "the call outlives its client",
}
# guard, the pair that meets, how else the scenario is set
CORE: list[tuple[str, str, dict[str, Any]]] = [
    ("closing_is_one_step", "close shutdown", {"mode": "over"}),
    ("each_waiter_has_its_own_future", "close disconnect", {}),
    ("an_ended_stream_takes_nothing", "close push", {"mode": "over"}),
    ("the_greeting_is_over_before_the_farewell", "close push", {"mode": "over"}),
    ("the_writer_sends_the_keep_alive", "close keepalive", {}),
    ("a_call_that_has_not_begun_is_not_cancelled_as_a_task", "close answer", {"mode": "starting"}),
    ("the_end_wakes_the_reader", "close answer", {}),
    ("the_newest_reader_takes_the_stream", "close resume", {}),
    ("each_waiter_has_its_own_future", "shutdown disconnect", {}),
    ("an_ended_stream_takes_nothing", "shutdown push", {"mode": "over"}),
    ("the_writer_sends_the_keep_alive", "shutdown keepalive", {}),
    ("the_drain_is_told", "shutdown answer", {}),
    ("the_newest_reader_takes_the_stream", "shutdown resume", {}),
    ("the_peers_end_is_no_error", "disconnect push", {}),
    ("the_writer_sends_the_keep_alive", "disconnect keepalive", {}),
    ("a_reader_that_left_frees_the_room", "disconnect answer", {"flows": False}),
    ("the_newest_reader_takes_the_stream", "disconnect resume", {}),
    ("the_writer_sends_the_keep_alive", "push keepalive", {}),
    ("waking_twice_is_harmless", "push answer", {}),
    ("an_event_is_sent_when_it_is_durable", "push answer", {"durable": True}),
    ("a_resume_begins_where_the_client_is", "push resume", {}),
    ("the_writer_sends_the_keep_alive", "keepalive answer", {}),
    ("the_newest_reader_takes_the_stream", "keepalive resume", {}),
    ("a_new_reader_counts_from_the_log", "answer resume", {}),
    ("a_resume_begins_where_the_client_is", "answer resume", {}),
]
SERVED: list[tuple[str, type[served.Peer], str, dict[str, Any]]] = [
    ("the_202_waits_for_the_commit", SsePeer, "push answer", {}),
    ("the_handler_waits_for_the_commit", SsePeer, "close disconnect", {}),
    ("an_event_is_sent_when_it_is_durable", SsePeer, "answer resume", {"mode": "running"}),
    ("an_answer_ends_its_call_in_the_journal", SsePeer, "shutdown answer", {}),
    ("a_call_is_not_its_connections", SsePeer, "disconnect answer", {"mode": "running"}),
    ("no_session_comes_back_while_all_end", SsePeer, "shutdown answer resume", {"mode": "running"}),
    ("work_that_ends_without_a_reply_is_noticed", SsePeer, "shutdown resume", {"mode": "stored"}),
    ("the_writer_sends_the_keep_alive", SsePeer, "push keepalive", {"mode": "running"}),
    ("a_stream_begins_when_its_call_is_durable", StreamablePeer, "push answer", {}),
    ("a_resume_begins_where_the_client_is", StreamablePeer, "answer resume", {"mode": "running"}),
    ("the_newest_reader_takes_the_stream", StreamablePeer, "close resume", {"mode": "running"}),
    ("no_session_comes_back_while_all_end", StreamablePeer, "shutdown answer resume", {"mode": "running"}),
    ("a_stateless_call_ends_with_its_client", ModernPeer, "disconnect keepalive", {}),
    ("a_stateless_call_ends_with_its_client", ModernPeer, "disconnect shutdown", {"mode": "holding"}),
]


def named(row: tuple[Any, ...]) -> str:
    return "-".join(part.__name__ if isinstance(part, type) else part for part in row[:-1]).replace(" ", "-")


@pytest.mark.parametrize("row", CORE, ids=named)
def test_the_core_without_it_is_found_out(
    row: tuple[str, str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, pair, more = row
    take_out(monkeypatch, name)
    found = fault(partial(conversation.meet, pair.split(), **more), delays=2)
    assert re.search(FAULTS[name], found), found


@pytest.mark.parametrize("row", SERVED, ids=named)
def test_the_server_without_it_is_found_out(
    row: tuple[str, type[served.Peer], str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, kind, pair, more = row
    take_out(monkeypatch, name)
    found = fault(partial(served.meet, kind, pair.split(), durable=True, **more), delays=2)
    assert re.search(FAULTS[name], found), found


def test_every_pair_and_every_guard_has_its_row() -> None:
    pairs = {frozenset(pair.split()) for _, pair, _ in CORE}
    assert pairs == {frozenset(pair) for pair in combinations(conversation.ENDS, 2)}
    assert {row[0] for row in (*CORE, *SERVED)} == set(FAULTS)
    assert set(FAULTS) | set(BROKEN) == set(GUARDS)
