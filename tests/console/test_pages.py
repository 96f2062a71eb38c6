"""What the console answers: its files, its views, what it does and what it refuses. Who may ask is the door's."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import tailrace.console
from tailrace import Context, Service
from tailrace.console.pages import API
from tailrace.console.recorder import ALONE, MAX_EVENTS, public_id
from tailrace.console.views import MAX_ROWS
from tailrace.core.pages import Page, Readers
from tailrace.core.settings import Settings
from tailrace.errors import StoreError
from tailrace.server import Server
from tailrace.server.pages import pages_of
from tailrace.stores.memory import MemoryStore
from tests.rigs.exchange import FakeExchange, LegacySession, SseSession, modern_request, post_modern, serving

LATER = 30.0  # seconds for what has to come
STATIC = Path(tailrace.console.__file__).parent / "static"
MARKUP = "<script>alert(1)</script>"


class Desk:
    """A recorded server, and somebody who has shown the token."""

    def __init__(self, **settings: Any) -> None:
        self.svc = svc = Service("desk", version="3")
        self.go = asyncio.Event()

        @svc.tool
        async def wait(ctx: Context, tea: str = "") -> str:
            ctx.spawn(self.go.wait, name=f"work {tea}")
            await self.go.wait()
            return tea

        self.store = MemoryStore()
        self.server = Server(svc, Settings(drain=0.0, grace=0.1, **settings), self.store)
        self.server.record()
        self.pages: dict[str, Page] = {}

    def page(self, path: str) -> Page:
        below = [page for page in self.pages.values() if page.path.endswith("/") and path.startswith(page.path)]
        return self.pages.get(path) or max(below, key=lambda page: len(page.path))

    def ask(self, path: str, method: str = "GET", *headers: tuple[str, str], body: Any = None) -> FakeExchange:
        exchange = FakeExchange(method, path, body, headers)
        self.page(exchange.path).handle(exchange)
        return exchange

    def view(self, path: str = "state") -> Any:
        exchange = self.ask(API + path)
        assert exchange.status == 200, exchange.reply_body
        return json.loads(exchange.reply_body)

    def do(self, path: str) -> FakeExchange:
        return self.ask(API + path, "POST", ("content-type", "application/json"), body={})

    async def until(self, met: Callable[[Any], bool], path: str = "state") -> Any:
        async with asyncio.timeout(LATER):
            while not met(seen := self.view(path)):
                await asyncio.sleep(0.005)
        return seen


@asynccontextmanager
async def desk(**settings: Any) -> AsyncGenerator[Desk]:
    made = Desk(**settings)
    await made.server.start()
    made.pages = {page.path: page for page in pages_of(made.server)}
    try:
        yield made
    finally:
        await made.server.stop()


# --- the page and its files ---------------------------------------------------------------------------


async def test_without_a_record_there_is_no_console() -> None:
    async with serving() as server:
        assert [page.path for page in pages_of(server) if "console" in page.path] == []


async def test_what_says_nothing_of_the_server_is_anybodys_and_all_else_is_the_operators() -> None:
    async with desk() as at:
        private = [
            page.path for page in at.pages.values() if "console" in page.path and page.readers is not Readers.ANYBODY
        ]
        assert private == [API]
        assert at.page(API + "state").readers is Readers.OPERATOR


async def test_the_page_may_load_nothing_but_its_own_files() -> None:
    async with desk() as at:
        page = at.ask("/console")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self';" in policy
        assert "unsafe" not in policy
        assert "require-trusted-types-for 'script'" in policy
        assert "frame-ancestors 'none'" in policy
        assert page.headers["x-content-type-options"] == "nosniff"
        assert at.ask("/console/").reply_body == page.reply_body


def test_the_files_have_nothing_inline_nothing_from_elsewhere_and_make_no_markup_of_text() -> None:
    page = (STATIC / "index.html").read_text()
    assert re.findall(r"<script(?![^>]* src=)|<style|style=| on\w+=|javascript:", page) == []
    for file in STATIC.iterdir():
        text = file.read_text()
        assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text) == [], file.name
        assert re.findall(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(|new Function", text) == [], (
            file.name
        )


async def test_every_file_is_served_as_what_it_is_and_once() -> None:
    async with desk() as at:
        kinds = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
        for file in STATIC.iterdir():
            if file.name == "index.html":
                continue
            reply = at.ask(f"/console/{file.name}")
            assert reply.status == 200
            assert reply.headers["content-type"].startswith(kinds[file.suffix[1:]])
            assert reply.reply_body == await asyncio.to_thread(file.read_bytes)
            again = at.ask(f"/console/{file.name}", "GET", ("if-none-match", reply.headers["etag"]))
            assert (again.status, again.reply_body) == (304, b"")


def test_what_the_files_ask_for_is_there() -> None:
    names = {file.name for file in STATIC.iterdir()}
    for file in STATIC.iterdir():
        for wanted in re.findall(r"/console/([\w.-]+\.\w+)", file.read_text()):
            assert wanted in names, (file.name, wanted)


@pytest.mark.parametrize("path", ["/console/nothing.js", "/console/..%2fpages.py", "/console/pages.py"])
async def test_nothing_else_is_served(path: str) -> None:
    async with desk() as at:
        reply = at.ask(path)
        assert reply.status == 404
        assert json.loads(reply.reply_body) == {"error": "nothing is here; the console is at /console"}


# --- views --------------------------------------------------------------------------------------------


async def test_an_empty_server_says_so() -> None:
    async with desk() as at:
        seen = at.view()
        assert seen["service"]["name"] == "desk"
        assert seen["sessions"] == {"open": 0, "found": 0, "offset": 0, "limit": 50, "rows": []}
        assert (seen["calls"], seen["detached"], seen["ended"]) == (
            {"count": 0, "rows": []},
            {"count": 0, "rows": []},
            [],
        )
        assert seen["limits"]["calls"] == at.server.settings.max_calls
        assert seen["totals"]["store"]["name"] == "memory"


async def test_sessions_calls_and_work_are_listed_under_public_names() -> None:
    async with desk() as at:
        session = await LegacySession(at.server).start()
        session.call(4, "wait", {"tea": "sencha"})
        seen = await at.until(lambda seen: seen["detached"]["count"] == 1)
        [row] = seen["sessions"]["rows"]
        assert row["id"] == public_id(session.id)
        assert (row["client"], row["transport"], row["state"], row["calls"]) == ("raw 0", "streamable", "open", 1)
        [call] = seen["calls"]["rows"]
        assert (call["label"], call["session"]) == ("wait (request '4')", row["id"])
        assert call["started"] >= call["accepted"]
        assert seen["detached"]["rows"][0]["label"] == "work sencha"
        found = at.view(f"sessions/{row['id']}")
        assert [line["what"] for line in found["timeline"][:3]] == ["open", "accept", "run"]
        assert found["kept"] == MAX_EVENTS
        assert found["running"]["rows"] == [call]
        for path in ("state", f"sessions/{row['id']}"):
            assert session.id not in json.dumps(at.view(path))


async def test_a_session_shows_its_streams_and_who_reads_them() -> None:
    async with desk() as at:
        session = await SseSession(at.server).start()
        found = at.view(f"sessions/{public_id(session.id)}")
        [stream] = found["streams"]
        assert (stream["number"], stream["read"], stream["ended"]) == (0, True, False)
        assert stream["delivered"] == stream["last"] == 1


async def test_what_has_no_session_can_be_looked_at_before_there_is_any() -> None:
    async with desk() as at:
        assert at.view(f"sessions/{ALONE}")["timeline"] == []
        post_modern(at.server, modern_request(1, "tools/call", {"name": "wait", "arguments": {}}))
        found = await at.until(lambda found: found["running"]["count"] == 1, f"sessions/{ALONE}")
        assert (found["id"], found["streams"]) == (ALONE, [])


async def test_sessions_come_a_page_at_a_time_and_by_what_is_asked_for() -> None:
    async with desk() as at:
        sessions = [await LegacySession(at.server).start() for _ in range(5)]
        page = at.view("state?limit=2&offset=2")["sessions"]
        assert (page["open"], page["found"], page["offset"], len(page["rows"])) == (5, 5, 2, 2)
        wanted = public_id(sessions[3].id)
        page = at.view(f"state?q=STREAMABLE%20{wanted[:8]}")["sessions"]
        assert (page["open"], [row["id"] for row in page["rows"]]) == (5, [wanted])
        assert at.view("state?q=nobody")["sessions"]["found"] == 0
        assert at.view("state?limit=5000")["sessions"]["limit"] == MAX_ROWS


@pytest.mark.parametrize("query", ["limit=-1", "offset=1e3", "offset=12345678", "limit=%D9%A3", "&".join(["a=b"] * 20)])
async def test_a_query_that_makes_no_sense_is_refused(query: str) -> None:
    async with desk() as at:
        reply = at.ask(f"{API}state?{query}")
        assert reply.status == 400
        assert "error" in json.loads(reply.reply_body)


async def test_lists_are_bounded() -> None:
    async with desk(max_session_calls=300) as at:
        session = await LegacySession(at.server).start()
        for number in range(MAX_ROWS + 20):
            session.call(number, "wait")
        seen = await at.until(lambda seen: seen["calls"]["count"] == MAX_ROWS + 20)
        assert len(seen["calls"]["rows"]) == MAX_ROWS
        await at.until(lambda seen: seen["detached"]["count"] == MAX_ROWS + 20)
        assert len(at.view()["detached"]["rows"]) == MAX_ROWS


async def test_markup_in_names_is_carried_as_the_text_it_is() -> None:
    async with desk() as at:
        session = await LegacySession(at.server).start()
        living = at.server.endpoint.sessions.by_id[session.id]
        living.record.client = {"name": MARKUP, "version": "1"}
        session.call(1, "wait", {"tea": MARKUP})
        seen = await at.until(lambda seen: seen["detached"]["count"] == 1)
        assert seen["sessions"]["rows"][0]["client"] == f"{MARKUP} 1"
        reply = at.ask(API + "state")
        assert reply.headers["content-type"] == "application/json"  # and nosniff: no browser makes a page of it
        assert reply.headers["x-content-type-options"] == "nosniff"


async def test_who_looks_again_at_what_has_not_changed_gets_304() -> None:
    async with desk() as at:
        session = await LegacySession(at.server).start()
        path = f"{API}sessions/{public_id(session.id)}"
        first = at.ask(path)
        tag = ("if-none-match", first.headers["etag"])
        again = at.ask(path, "GET", tag)
        assert (again.status, again.reply_body) == (304, b"")
        assert float(again.headers["tailrace-time"]) > 1e9
        assert await session.delete().status_code() == 200
        await at.until(lambda found: found["state"] == "closed", f"sessions/{public_id(session.id)}")
        assert at.ask(path, "GET", tag).status == 200
        assert at.view()["ended"][0]["reason"] == "ended by its client"


async def test_the_stores_lag_is_measured_from_look_to_look() -> None:
    async with desk() as at:
        assert at.view()["lag"] == {"ms": None, "error": "", "failure": ""}
        seen = await at.until(lambda seen: seen["lag"]["ms"] is not None)
        assert seen["lag"]["ms"] >= 0


async def test_a_store_that_fails_is_seen() -> None:
    async with desk() as at:
        at.store.fail_commits(StoreError("the disk is full"))
        at.view()
        seen = await at.until(lambda seen: seen["lag"]["error"] != "")
        assert seen["lag"]["error"] == "the disk is full"
        assert seen["lag"]["failure"] == "the disk is full"


async def test_a_store_that_takes_nothing_is_seen() -> None:
    async with desk() as at:
        at.store.crash()
        at.view()
        assert at.view()["lag"]["error"] == "the memory store is not open"
        await at.store.open()


# --- what can be done -----------------------------------------------------------------------------------


async def test_a_call_is_cancelled_and_its_client_told() -> None:
    async with desk() as at:
        session = await LegacySession(at.server).start()
        call = session.call(1, "wait")
        [row] = (await at.until(lambda seen: seen["calls"]["count"] == 1))["calls"]["rows"]
        assert at.do(f"calls/{row['number']}/cancel").status == 200
        answer = await call.answer(1)
        assert "cancelled by the server's operator" in json.dumps(answer)
        await at.until(lambda seen: seen["calls"]["count"] == 0)
        assert at.do(f"calls/{row['number']}/cancel").status == 404


async def test_a_session_is_closed_and_its_timeline_says_why(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "tailrace.console")
    async with desk() as at:
        session = await LegacySession(at.server).start()
        session.call(1, "wait")
        name = public_id(session.id)
        assert at.do(f"sessions/{name}/close").status == 200
        found = await at.until(lambda found: found["state"] == "closed", f"sessions/{name}")
        assert found["timeline"][-1]["text"] == "closed by the server's operator"
        assert at.do(f"sessions/{name}/close").status == 404
        assert caplog.messages == [f"a session is closed from the console session={name}"]


async def test_the_id_that_opens_a_session_is_no_name_for_it_here() -> None:
    async with desk() as at:
        session = await LegacySession(at.server).start()
        assert at.ask(f"{API}sessions/{session.id}").status == 404
        assert at.do(f"sessions/{session.id}/close").status == 404
        assert at.view()["sessions"]["open"] == 1


@pytest.mark.parametrize(
    ("method", "path", "kind", "status"),
    [
        ("GET", "calls/1/cancel", "application/json", 405),
        ("PUT", "sessions/x/close", "application/json", 405),
        ("POST", "calls/1/cancel", "text/plain", 415),  # what a page of another site could send unasked
        ("POST", "calls/1/cancel", "application/x-www-form-urlencoded", 415),
        ("POST", "calls/none/cancel", "application/json", 404),
        ("POST", "sessions/x/close", "application/json; charset=utf-8", 404),
        ("POST", "state", "application/json", 405),
        ("DELETE", "sessions/-", "application/json", 405),
        ("GET", "sessions/../state", "application/json", 404),
        ("GET", "", "application/json", 404),
    ],
)
async def test_what_is_not_asked_for_as_it_has_to_be_is_refused(method: str, path: str, kind: str, status: int) -> None:
    async with desk() as at:
        reply = at.ask(API + path, method, ("content-type", kind))
        assert reply.status == status
        assert json.loads(reply.reply_body)["error"]
        assert (status == 405) == ("allow" in reply.headers)


async def test_files_are_only_read() -> None:
    async with desk() as at:
        assert at.ask("/console", "POST").status == 405
        assert at.ask("/console", "HEAD").status == 200
