"""Whose is it: answers, notifications, sessions and cancellations reach the one they belong to, and nobody else."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

from tailrace.cli.check.lab import Lab, together, unique
from tailrace.cli.check.model import Failed, Json, NotApplicable, Stalled, Way, trial
from tailrace.cli.check.shared_stream import HttpSse, SharedStream
from tailrace.cli.check.streamable import Modern, Streamable
from tailrace.cli.check.talk import Conversation, Running, notification, shorten
from tailrace.cli.check.trials.disconnects import arrived, first_event_id

__all__ = ["TRIALS"]

_SAME_ID = 12  # calls at once that are all `id: 1`
_CALLS = 12  # at once, for the routing
_EVENTS = 20  # notifications of each
_WORK = 1.0  # seconds


@trial(
    "duplicate-ids", "Calls in flight under one id: each gets its own answer, or a refusal.",
    "A client's fault (ids MUST NOT be in use, basic: Requests), and a known one. Judged by what callers get: "
    "never another's answer, never none",
    Way.STREAMABLE, Way.MODERN, needs=("effect",),
)  # fmt: skip
async def duplicate_ids(lab: Lab) -> str:
    client = await lab.client()
    keys = [unique("same") for _ in range(_SAME_ID)]
    runs = [await lab.sent(client, lab.call("effect", id=1, key=key, seconds=_WORK / 2)) for key in keys]
    await together(client.finish(run, _WORK + lab.options.answer_within) for run in runs)
    own = sum(run.answer is not None and key in json.dumps(run.answer) for run, key in zip(runs, keys, strict=True))
    none = sum(run.answer is None and not _refused(run) for run in runs)
    refused = sum(_refused(run) or (run.answer is not None and "error" in run.answer) for run in runs)
    wrong = _SAME_ID - own - none - refused
    said = f"{_SAME_ID} calls with id 1 at once: {own} own answers, {refused} refused, {wrong} another's, {none} none"
    if wrong or none:
        raise Failed(said)
    return said


@trial(
    "duplicate-id", "A second call under an id in flight does not take the first one's answer.",
    "A client's fault (ids MUST NOT be in use, basic: Requests); on a shared stream the id is the only address,"
    " so the first must keep it",
    Way.SSE, Way.STDIO, needs=("effect", "echo"),
)  # fmt: skip
async def duplicate_id(lab: Lab) -> str:
    client = await lab.client()
    assert isinstance(client, SharedStream)
    running, key = await lab.working(client, _WORK, id=1)
    second = lab.call("echo", id=1, text=unique("second")).message()
    status = 0
    if isinstance(client, HttpSse):
        status = await client.post(second)
    else:
        await client.send(second)

    def answered() -> bool:
        return any(key in json.dumps(message) for message in (*running.messages, *client.strays))

    with suppress(TimeoutError):
        async with asyncio.timeout(_WORK + lab.options.answer_within):
            while not answered() and await client.read_one():
                pass
    if not answered():
        came = shorten(running.messages) if running.messages else "nothing"
        raise Failed(f"the first call's answer never came; what came for id 1: {came}")
    met = f"met with HTTP {status}" if status else "answered or refused"
    return f"the first call got its answer; the second was {met}"


@trial(
    "routing", "Every notification reaches its own call's stream, once, and before the answer.",
    "2025-11-25 transports, Multiple Connections: each message on one stream only, MUST NOT broadcast; "
    "2026-07-28: on its request's stream",
    Way.STREAMABLE, Way.SSE, Way.MODERN, Way.STDIO, needs=("burst",),
)  # fmt: skip
async def routing(lab: Lab) -> str:
    client = await lab.client()
    aside = await _own_stream(client)
    runs = [await lab.sent(client, lab.call("burst", count=_EVENTS, size=0, pause=0.01)) for _ in range(_CALLS)]
    await together(client.finish(run, lab.options.answer_within) for run in runs)
    lost, doubled = map(sum, zip(*(arrived(run, _EVENTS) for run in runs), strict=True))
    strange = sum(len(run.strangers()) for run in runs) + len(_strays(client))
    elsewhere = await _heard_aside(client, aside)
    unanswered = [run.how for run in runs if run.answer is None]
    total = _CALLS * _EVENTS
    said = f"{total - lost} of {total} notifications of {_CALLS} calls at once on their own stream"
    if elsewhere:
        said += f"; {elsewhere} on the session's GET stream instead"
    if lost or doubled or strange or unanswered:
        said += f"; {doubled} doubled, {strange} on another call's, {len(unanswered)} calls without an answer"
        raise Failed(f"{said} ({unanswered[0]})" if unanswered else said)
    return said


@trial(
    "foreign-session", "A session id that is made up or ended is refused.",
    "2025-11-25 transports, Session Management 3: requests with the id of a terminated session MUST be answered"
    " with 404",
    Way.STREAMABLE,
)  # fmt: skip
async def foreign_session(lab: Lab) -> str:
    client = await lab.streamable()
    if not client.session:
        raise NotApplicable("it gives no session ids")
    mine, seen = client.session, dict[str, int]()
    client.session = mine[:-4] + ("0000" if mine[-4:] != "0000" else "1111")
    seen["made up"] = await _status(client)
    client.session = mine
    deleted = await client.delete()
    if deleted < 300:
        seen["deleted"] = await _status(client)
    client.session = ""
    if wrong := {what: status for what, status in seen.items() if status != 404}:
        raise Failed("; ".join(f"{what}: HTTP {status}, not 404" for what, status in wrong.items()))
    return "; ".join(f"{what}: {status}" for what, status in seen.items())


@trial(
    "foreign-event", "Another session's event id gives nothing of that session.",
    "2025-11-25 transports, Resumability 2: the server MUST NOT replay messages that would have been delivered "
    "on a different stream",
    Way.STREAMABLE, needs=("effect",),
)  # fmt: skip
async def foreign_event(lab: Lab) -> str:
    mine, other = await lab.streamable(), await lab.streamable()
    running, key = await lab.working(mine, 0.3)
    await first_event_id(mine, running)
    last = running.stream.last_event_id if running.stream is not None else ""
    if not last or not mine.session:
        raise NotApplicable("there are no event ids, or no sessions, that could be foreign")
    await mine.finish(running, lab.options.answer_within)
    stolen = await other.get(last)
    assert stolen.head is not None
    status = stolen.head.status
    with suppress(Failed):
        await other.finish(stolen, 1.5)
    if key in json.dumps(stolen.messages):
        raise Failed(f"another session was given the answer (HTTP {status})")
    garbled = [await _get_status(other, id) for id in ("garbage", "0", "-1", "9" * 40, "\\xe9")]
    if bad := [one for one in garbled if one >= 500]:
        raise Failed(f"made-up event ids were answered with HTTP {bad[0]}")
    return f"HTTP {status}, and nothing of the other session"


@trial(
    "foreign-cancel", "A client's `cancelled` ends none of another client's calls, whatever its id.",
    "basic utilities, Cancellation: MUST only refer to requests issued by the same sender in the same direction",
    Way.STREAMABLE, Way.SSE, Way.MODERN, needs=("slow",),
)  # fmt: skip
async def foreign_cancel(lab: Lab) -> str:
    mine, other = await lab.client(), await lab.client()
    assert isinstance(other, Streamable | HttpSse | Modern)
    status = 0
    for both in (False, True):  # the other client has no call of that id, and then one
        status = await _cancelled_by(lab, mine, other, both=both)
    said = f"`cancelled` of the same id by another client (HTTP {status}): the call was answered"
    if isinstance(mine, Streamable) and isinstance(other, Streamable):
        mine.session = other.session = ""
        served = False
        with suppress(Failed):
            await lab.greet(mine)
            served = True  # it has no sessions, or asks for none: nothing tells the two clients apart
        if served:
            await _cancelled_by(lab, mine, other, both=False)
            said += ", also without a session id"
    return said


TRIALS = (duplicate_ids, duplicate_id, routing, foreign_session, foreign_event, foreign_cancel)


# --- pieces -----------------------------------------------------------------------------------------


def _refused(run: Running) -> bool:
    return run.answer is None and run.head is not None and 400 <= run.head.status < 500


def _strays(client: Conversation) -> list[Json]:
    return client.strays if isinstance(client, SharedStream) else []


async def _cancelled_by(lab: Lab, mine: Conversation, other: Streamable | HttpSse | Modern, *, both: bool) -> int:
    """Another client cancels the id of a call; `both`: it has a call under that id itself.

    Raises:
        Failed: The call was ended by it.
    """
    running, _ = await lab.working(mine, _WORK, id=7)
    theirs = (await lab.working(other, 2 * _WORK, id=7))[0] if both else None
    status = await other.post(notification("notifications/cancelled", {"requestId": 7, "reason": "not yours"}))
    await mine.finish(running, _WORK + lab.options.answer_within)
    if running.answer is None or "error" in running.answer or running.answer["result"].get("isError"):
        what = shorten(running.answer or running.how)
        raise Failed(f"`cancelled` of another client (HTTP {status}) ended the call: {what}")
    if theirs is not None and theirs.connection is not None:
        theirs.connection.abort()
    return status


async def _own_stream(client: Conversation) -> Running | None:
    """The session's standalone stream, where there is one."""
    if not isinstance(client, Streamable):
        return None
    try:
        opened = await client.get(limit=2.0)
    except Stalled:  # some send the head with the first event only
        return None
    return opened if opened.head is not None and opened.head.status == 200 else None


async def _heard_aside(client: Conversation, aside: Running | None) -> int:
    if aside is None or not isinstance(client, Streamable):
        return 0
    await client.finish(aside, 0.5)
    return sum(message.get("method") == "notifications/progress" for message in aside.messages)


async def _status(client: Streamable) -> int:
    return await client.post({"jsonrpc": "2.0", "id": "who", "method": "tools/list", "params": {}})


async def _get_status(client: Streamable, last_event_id: str) -> int:
    try:
        opened = await client.get(last_event_id, limit=2.0)
    except Stalled:
        return 0
    assert opened.head is not None
    assert opened.connection is not None
    opened.connection.abort()
    return opened.head.status
