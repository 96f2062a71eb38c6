"""What the recorder keeps of a server's life: in order, within its limits, and never an id that opens a session."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tailrace import Context, Service, ToolError
from tailrace.console import recorder as limits
from tailrace.console.recorder import ALONE, MAX_EVENTS, MAX_TEXT, Event, Recorder, Timeline, public_id
from tailrace.core.log import Log
from tailrace.core.session import Sessions
from tailrace.core.settings import Settings
from tailrace.core.tasks import Tasks
from tailrace.errors import DefinitionError
from tailrace.server import Server
from tailrace.stores.memory import MemoryStore
from tests.rigs.exchange import LegacySession, SseSession, modern_request, post_modern, serving

LATER = 30.0  # seconds for what has to come


class House:
    """A recorded server with a few tools."""

    def __init__(self) -> None:
        self.svc = svc = Service("house", version="2")
        self.go = asyncio.Event()

        @svc.tool
        async def pour(tea: str) -> str:
            return tea

        @svc.tool
        async def brew(ctx: Context, tea: str) -> str:
            await ctx.progress(1, 2, tea)
            await self.go.wait()
            return tea

        @svc.tool
        async def spill() -> str:
            raise ToolError("over the table")

        @svc.tool
        async def leave(ctx: Context, fails: bool = False) -> str:
            async def wash() -> None:
                await self.go.wait()
                if fails:
                    raise ValueError("no soap")

            ctx.spawn(wash, on_error=lambda error: None)
            return "later"

        self.server = Server(svc, Settings(drain=0.0), MemoryStore())
        self.server.record()
        assert self.server.recorder is not None
        self.recorder = self.server.recorder

    def lines(self, id: str = "") -> list[str]:
        """The timeline of a session, each line in short."""
        timeline = self.recorder.timelines.get(public_id(id) if id else ALONE)
        return [] if timeline is None else [f"{event.what} {event.text}".strip() for event in timeline.events]

    async def until(self, line: str, id: str = "") -> list[str]:
        """The timeline, once it has that line."""
        async with asyncio.timeout(LATER):
            while line not in (found := self.lines(id)):
                await asyncio.sleep(0.005)
        return found


@asynccontextmanager
async def house() -> AsyncGenerator[House]:
    made = House()
    await made.server.start()
    try:
        yield made
    finally:
        await made.server.stop()


async def test_a_server_that_nobody_records_is_made_of_the_plain_parts() -> None:
    async with serving() as server:
        session = await LegacySession(server).start()
        living = server.endpoint.sessions.by_id[session.id]
        assert (type(server.tasks), type(server.endpoint.sessions), type(living.log)) == (Tasks, Sessions, Log)
        assert server.recorder is None


async def test_a_server_is_recorded_from_its_start_or_not_at_all() -> None:
    async with serving() as server:
        with pytest.raises(DefinitionError, match="from its start on"):
            server.record()


async def test_a_call_that_is_answered_at_once_is_accepted_run_and_ended() -> None:
    async with house() as at:
        session = await LegacySession(at.server).start()
        await session.call(7, "pour", {"tea": "sencha"}).answer(7)
        assert at.lines(session.id) == ["open", "accept pour (request '7')", "run pour", "end pour: ok"]
        assert not at.recorder.calls


async def test_a_call_that_streams_is_followed_through_its_log_and_its_resume() -> None:
    async with house() as at:
        session = await LegacySession(at.server).start()
        first = session.call(1, "brew", {"tea": "sencha"}, progress="p")
        await first.message("notifications/progress")
        first.disconnect()
        at.go.set()
        await at.until("end brew: ok", session.id)
        again = session.get(first.last_id)
        await again.answer(1)
        lines = await at.until("leave the stream has ended", session.id)
        assert lines == [
            "open",
            "accept brew (request '1')",
            "run brew",
            "attach",
            "log notification",
            "write",
            "leave",
            "end brew: ok",
            "log answer",
            "resume behind event 1",
            "write",
            "leave the stream has ended",
        ]


async def test_what_a_session_has_over_http_sse_is_on_its_own_stream() -> None:
    async with house() as at:
        session = await SseSession(at.server).start()
        session.call(1, "pour", {"tea": "sencha"})
        await session.stream.answer(1)
        assert at.lines(session.id)[:3] == ["open", "attach", "log answer"]
        assert "end pour: ok" in at.lines(session.id)


async def test_failures_and_cancellations_are_said() -> None:
    async with house() as at:
        session = await LegacySession(at.server).start()
        await session.call(1, "spill").answer(1)
        session.call(2, "brew", {"tea": "oolong"})
        await at.until("run brew", session.id)
        session.cancel(2)
        lines = await at.until("end brew: cancelled: cancelled by the client", session.id)
        assert "end spill: failed: over the table" in lines


async def test_detached_work_belongs_to_the_session_of_its_call() -> None:
    async with house() as at:
        session = await LegacySession(at.server).start()
        await session.call(1, "leave").answer(1)
        await session.call(2, "leave", {"fails": True}).answer(2)
        [one, two] = at.recorder.work.values()
        assert (one.label, one.session, two.session) == ("wash", public_id(session.id), public_id(session.id))
        at.go.set()
        lines = await at.until("done wash: failed: ValueError: no soap", session.id)
        assert lines.count("detach wash") == 2
        assert lines.count("done wash") == 1
        assert not at.recorder.work


async def test_what_has_no_session_has_a_timeline_of_its_own() -> None:
    async with house() as at:
        await post_modern(
            at.server, modern_request(1, "tools/call", {"name": "pour", "arguments": {"tea": "x"}})
        ).answer(1)
        assert at.lines() == ["accept pour (request '1')", "run pour", "end pour: ok"]


async def test_a_closed_session_is_kept_with_its_reason_and_lets_go_of_the_session() -> None:
    async with house() as at:
        session = await LegacySession(at.server).start()
        assert await session.delete().status_code() == 200
        assert (await at.until("close ended by its client", session.id))[0] == "open"
        timeline = at.recorder.timelines[public_id(session.id)]
        assert timeline.session is None
        assert timeline.closed is not None
        assert timeline.about["reason"] == "ended by its client"
        assert not at.recorder.living


async def test_no_timeline_holds_an_id_that_opens_the_session() -> None:
    async with house() as at:
        session = await LegacySession(at.server).start()
        await session.call(1, "pour", {"tea": "sencha"}).answer(1)
        name = public_id(session.id)
        assert hashlib.sha256(session.id.encode()).hexdigest().startswith(name)
        assert session.id not in name
        assert list(at.recorder.timelines) == [name]
        assert session.id not in " ".join(at.lines(session.id))


# --- limits -----------------------------------------------------------------------------------------


def line(what: str, text: str = "", stream: int | None = 1, at: float = 1.0) -> Event:
    return Event(at, what, None, stream, text, 1, 10)


def test_a_timeline_keeps_its_newest_lines_and_counts_the_others() -> None:
    timeline = Timeline(None)
    for number in range(MAX_EVENTS + 5):
        timeline.add(line("accept", str(number)))
    assert (len(timeline.events), timeline.dropped, timeline.events[0].text) == (MAX_EVENTS, 5, "5")


def test_events_and_writes_that_alternate_are_two_lines_with_counts() -> None:
    timeline = Timeline(None)
    for number in range(50):
        timeline.add(line("log", "notification", at=number))
        timeline.add(line("write", at=number))
    [logged, written] = timeline.events
    assert (logged.count, logged.size, logged.at, logged.until) == (50, 500, 0, 49)
    assert written.count == 50


def test_only_what_says_the_same_right_before_is_counted_together() -> None:
    timeline = Timeline(None)
    for event in (
        line("log", "notification"),
        line("log", "answer"),  # another kind
        line("log", "answer", stream=2),  # another stream
        line("leave"),
        line("log", "answer", stream=2),  # something happened between
        line("leave"),  # never counted together
        line("leave"),
    ):
        timeline.add(event)
    assert [event.count for event in timeline.events] == [1] * 7


async def test_timelines_are_bounded_and_the_one_that_is_quiet_for_longest_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "MAX_TIMELINES", 3)
    async with house() as at:
        sessions = [await LegacySession(at.server).start() for _ in range(3)]
        await sessions[0].call(1, "pour", {"tea": "sencha"}).answer(1)
        fourth = await LegacySession(at.server).start()
        kept = [public_id(one.id) for one in (sessions[2], sessions[0], fourth)]
        assert list(at.recorder.timelines) == kept
        assert len(at.recorder.living) == 4  # it lives, and begins another timeline when something happens
        await sessions[1].call(1, "pour", {"tea": "sencha"}).answer(1)
        assert at.lines(sessions[1].id)[0] == "accept pour (request '1')"
        assert len(at.recorder.timelines) == 3


async def test_what_clients_and_tools_say_is_cut() -> None:
    async with house() as at:
        long = "x" * 5000

        async def many(ctx: Context) -> str:
            raise ToolError(long)

        at.svc.tool(many, name="many")
        session = await LegacySession(at.server).start()
        await session.call("r" * 64, "many").answer("r" * 64)
        timeline = at.recorder.timelines[public_id(session.id)]
        assert max(len(event.text) for event in timeline.events) == MAX_TEXT
        living = at.server.endpoint.sessions.by_id[session.id]
        record: Any = living.record
        record.client = {"name": long, "version": 7}
        assert len(limits.about(living)["client"]) == MAX_TEXT


async def test_a_session_that_comes_back_goes_on_with_its_timeline() -> None:
    async with house() as at:
        session = await LegacySession(at.server).start()
        living = at.server.endpoint.sessions.by_id[session.id]
        await living.close("gone for a while")
        living.restored = True
        at.recorder.session_opened(living)
        timeline = at.recorder.timelines[public_id(session.id)]
        assert (timeline.session, timeline.closed) == (living, None)
        assert [event.what for event in timeline.events] == ["open", "close", "restore"]


def test_ends_that_were_never_begun_are_passed_over() -> None:
    recorder = Recorder()
    nobody: Any = type("Nobody", (), {"id": "nobody", "owner": "nobody"})()
    recorder.session_closed(nobody)
    recorder.call_started(nobody)
    recorder.call_ended(nobody)
    recorder.detached_failed(nobody, ValueError())
    recorder.detached_ended(nobody)
    assert not recorder.timelines
