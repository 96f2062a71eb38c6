"""The console in a real Chromium: what happens is seen, what is asked for is done, and keys are enough for all."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import signal
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright, expect

from tailrace.mcp import Client
from tests.e2e.fixtures.watched import MARKUP
from tests.rigs.debian import CHROMIUM, command_or_skip
from tests.rigs.rawmcp import Streamable, call, initialize, notification
from tests.rigs.server import ServerProcess, running_async, tailrace_command
from tests.rigs.valkey import Valkey

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(480)]  # the first may fetch Chromium

TARGET = Path(__file__).parent / "fixtures" / "watched.py"
LIMIT = 45_000.0  # milliseconds for what has to come, on a busy machine
MANY = 1000  # sessions
LONGEST = 200  # milliseconds that a task of the page may take
expect.set_options(timeout=LIMIT)

SEEN = """
window.longest = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) window.longest = Math.max(window.longest, entry.duration);
}).observe({ type: "longtask", buffered: true });
"""
NAMELESS = """
[...document.querySelectorAll("button, input, summary, [role=tab], [role=tabpanel], section")]
  .filter((one) => one.checkVisibility())
  .filter((one) => !(one.getAttribute("aria-label") || one.getAttribute("aria-labelledby") || one.labels?.length
    || one.textContent.trim()))
  .map((one) => one.outerHTML)
"""

CUT = """
[...document.querySelectorAll("#panel td.wide, #panel .name, #panel .table, .bar")]
  .filter((one) => one.scrollWidth > one.clientWidth || one.scrollHeight > one.clientHeight + 1)
  .map((one) => one.outerHTML)
"""


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    command = command_or_skip(CHROMIUM)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=command, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield browser
        await browser.close()


@asynccontextmanager
async def served(tmp_path: Path, *flags: str) -> AsyncGenerator[tuple[ServerProcess, str]]:
    """A server, and the address of its console with the token that it made up."""
    command = tailrace_command(TARGET, "--admin", "127.0.0.1:0", *flags)
    async with running_async(command, tmp_path / "log") as server:
        found = re.search(r"admin=(\S+)", server.ready_line)
        assert found is not None, server.ready_line
        yield server, found[1]


@asynccontextmanager
async def visit(
    browser: Browser, url: str, *, traced: bool = False, **options: Any
) -> AsyncGenerator[tuple[Page, list[str]]]:
    """A page with the console, and what it complained of."""
    context = await browser.new_context(viewport={"width": 1400, "height": 850}, **options)
    context.set_default_timeout(LIMIT)
    page = await context.new_page()
    complaints: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            complaints.append(message.text)

    page.on("console", hear)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    await page.add_init_script(SEEN)
    if traced:
        await browser.start_tracing(page=page, categories=["toplevel"])
    await page.goto(url)
    try:
        yield page, complaints
    finally:
        await context.close()


def tab(page: Page, name: str) -> Any:
    return page.get_by_role("tab", name=re.compile(f"^{name}"))


async def test_what_happens_is_seen_and_what_is_asked_for_is_done(browser: Browser, tmp_path: Path) -> None:
    async with served(tmp_path) as (server, url), visit(browser, url) as (page, complaints):
        assert "token" not in page.url  # it was taken out of the address
        await expect(page.get_by_text("No session is open.")).to_be_visible()

        session = await Streamable(server.url).open()
        row = page.get_by_role("row").filter(has_text="raw 0")
        await expect(row).to_have_count(1)  # it appears by itself
        assert session.session_id is not None
        assert session.session_id not in await page.content()
        name = hashlib.sha256(session.session_id.encode()).hexdigest()[:12]

        await row.get_by_role("button", name=re.compile("open its timeline")).click()
        timeline = page.get_by_role("list", name=re.compile("Timeline"))
        await expect(timeline.get_by_text("opened")).to_be_visible()
        assert page.url.endswith(f"/console#{name}")
        await page.reload()
        await expect(timeline.get_by_text("opened")).to_be_visible()
        await session.call(1, "spill", {"tea": "oolong"})
        await session.call(2, "wash", {"cups": 600})
        await expect(timeline.get_by_text(f"spill: failed: oolong went over the {MARKUP} table")).to_be_visible()
        await expect(timeline.get_by_text(f"wash 600 cups {MARKUP}")).to_be_visible()
        assert await page.locator("img[src=x]").count() == 0  # text, not markup
        assert await page.title() == "tea house · Tailrace console"

        brewing = await session.post(call(3, "brew", {"tea": "gyokuro"}, progress="p"))
        assert await brewing.stream.next() is not None
        await expect(timeline.get_by_text(re.compile("^[0-9]+ notifications? on stream"))).to_be_visible()
        await page.get_by_role("group", name="Show only these stages").get_by_role("button", name="Accept").click()
        await expect(timeline.get_by_role("listitem")).to_have_count(4)  # opened, and three calls

        await tab(page, "Calls").click()
        await page.get_by_role("button", name=re.compile("Cancel call .*brew")).first.click()
        question = page.get_by_role("dialog")
        await expect(question).to_contain_text("is cancelled, and its client is told so")
        await question.get_by_role("button", name="Cancel the call").click()
        answer = await brewing.answer(3)
        assert "cancelled by the server's operator" in json.dumps(answer)
        await expect(page.get_by_text("No call is running.")).to_be_visible()

        await page.get_by_role("button", name=re.compile("^Close session")).click()
        await question.get_by_role("button", name="Keep it").click()
        assert (await session.post(call(4, "pour", {"tea": "sencha"}))).head.status == 200  # it was kept
        await page.get_by_role("button", name=re.compile("^Close session")).click()
        await question.get_by_role("button", name="Close the session").click()
        await tab(page, "Ended").click()
        await expect(page.get_by_role("tabpanel")).to_contain_text("closed by the server's operator")
        assert (await session.post(call(5, "pour", {"tea": "sencha"}))).head.status == 404
        assert complaints == []

        assert server.records() == [], server.stderr_tail()

        await asyncio.to_thread(server.kill)
        await expect(page.get_by_role("alert").filter(has_text="The server cannot be reached")).to_be_visible()


async def test_keys_are_enough_everything_has_a_name_and_both_themes_are_there(
    browser: Browser, tmp_path: Path
) -> None:
    async with served(tmp_path, "--admin-token", "open-sesame") as (server, url):
        assert url.endswith("/console")  # a token of one's own is not printed
        sessions = [await Streamable(server.url).open() for _ in range(3)]
        async with visit(browser, url, color_scheme="dark") as (page, _):
            keys = page.keyboard
            await expect(page.get_by_role("textbox", name="Token")).to_be_focused()
            await keys.type("open barley")
            await keys.press("Enter")
            await expect(page.get_by_text("That is not the token of this server.")).to_be_visible()
            await keys.type("open-sesame")
            await keys.press("Enter")
            panel = page.get_by_role("tabpanel")
            await expect(panel.get_by_role("button", name=re.compile("open its timeline"))).to_have_count(3)

            async def ground() -> list[int]:
                colour = await page.evaluate("getComputedStyle(document.body).backgroundColor")
                return [int(part) for part in re.findall(r"\d+", colour)[:3]]

            assert max(await ground()) < 60  # as the system has it: dark
            await keys.press("t")
            await expect(page.get_by_role("button", name="Theme: light")).to_be_visible()
            assert min(await ground()) > 200
            await keys.press("t")
            assert max(await ground()) < 60

            await keys.press("j")
            await keys.press("j")
            second = panel.get_by_role("button", name=re.compile("open its timeline")).nth(1)
            await expect(second).to_be_focused()
            await keys.press("Enter")
            detail = page.get_by_role("region", name="Session", exact=True)
            await expect(detail).to_be_focused()
            await expect(detail.get_by_text("opened")).to_be_visible()
            assert await page.evaluate(NAMELESS) == []
            await keys.press("Escape")
            await expect(second).to_be_focused()

            await keys.press("2")
            await expect(tab(page, "Calls")).to_be_focused()
            await keys.press("ArrowLeft")
            await expect(tab(page, "Sessions")).to_be_focused()
            await keys.press("/")
            await expect(page.get_by_label("Filter")).to_be_focused()
            await keys.type("nobody has this")
            await expect(panel).to_contain_text("Nothing here matches")
            await keys.press("Escape")
            await keys.press("Escape")
            await expect(panel.get_by_role("button", name=re.compile("open its timeline"))).to_have_count(3)
            await keys.press("?")
            await expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
            await keys.press("Enter")
            await expect(page.get_by_role("dialog")).to_have_count(0)

            await keys.press("p")
            await expect(page.get_by_role("status").filter(has_text="Paused")).to_be_visible()
            await sessions[0].delete()
            await keys.press("p")
            await expect(panel.get_by_role("button", name=re.compile("open its timeline"))).to_have_count(2)


async def test_with_two_workers_rows_say_where_they_are_and_one_that_sleeps_is_named(
    browser: Browser, tmp_path: Path
) -> None:
    with Valkey() as valkey:
        command = tailrace_command(TARGET, "--workers", "2", "--admin", "127.0.0.1:0", store=valkey.url)
        async with running_async(command, tmp_path / "log") as server:
            found = re.search(r"admin=(\S+)", server.ready_line)
            assert found is not None
            async with visit(browser, found[1]) as (page, complaints):
                async with Client(server.url + "/mcp", era="legacy", client_info=("Visual Studio Code", "1.107.2")):
                    name = page.get_by_role("cell", name="Visual Studio Code 1.107.2")
                    await expect(name).to_be_visible()
                    await expect(page.get_by_role("columnheader", name="Worker")).to_be_visible()
                    for width in (1400, 1280, 1024):
                        await page.set_viewport_size({"width": width, "height": 850})
                        await page.wait_for_function(f"innerWidth === {width}")
                        assert await page.evaluate(CUT) == []

                session = await Streamable(server.url).open()
                brewing = await session.post(call(3, "brew", {"tea": "gyokuro"}, progress="p"))
                await expect(tab(page, "Workers")).to_contain_text("2")
                await page.keyboard.press("5")
                panel = page.get_by_role("tabpanel")
                await expect(panel.get_by_role("row")).to_have_count(3)  # with the head
                await expect(panel.get_by_text("ready", exact=True)).to_have_count(2)

                await page.keyboard.press("2")
                await expect(panel.get_by_role("columnheader", name="Worker")).to_be_visible()
                await page.get_by_role("button", name=re.compile("Cancel call .*brew")).click()
                await page.get_by_role("dialog").get_by_role("button", name="Cancel the call").click()
                assert "cancelled by the server's operator" in json.dumps(await brewing.answer(3))
                assert complaints == []

                await page.keyboard.press("5")
                pid = int(await panel.get_by_role("row").nth(2).get_by_role("cell").nth(1).inner_text())
                os.kill(pid, signal.SIGSTOP)
                try:
                    await expect(page.get_by_role("alert").filter(has_text="Worker 1 does not answer")).to_be_visible()
                    await expect(panel.get_by_text("does not answer")).to_be_visible()
                finally:
                    os.kill(pid, signal.SIGCONT)
                await expect(panel.get_by_text("ready", exact=True)).to_have_count(2)


async def test_with_a_thousand_sessions_no_task_of_the_page_is_long(browser: Browser, tmp_path: Path) -> None:
    """By the time on the processor: by the clock, a task is also as long as other processes keep it from running."""
    async with served(tmp_path) as (server, url):
        await open_many(server.url, MANY)
        async with visit(browser, url, traced=True) as (page, complaints):
            opening = page.get_by_role("button", name=re.compile("open its timeline"))
            await expect(page.get_by_text("1 to 50 of 1,000")).to_be_visible()
            assert await opening.count() == 50
            await page.get_by_role("button", name="Next").click()
            await expect(page.get_by_text("51 to 100 of 1,000")).to_be_visible()
            await opening.first.click()
            await expect(page.get_by_role("list", name=re.compile("Timeline"))).to_be_visible()
            await page.get_by_label("Filter").fill("raw streamable")
            await expect(page.get_by_text("1 to 50 of 1,000")).to_be_visible()
            assert complaints == []
            by_clock = await page.evaluate("window.longest")
            tasks = tasks_of(json.loads(await browser.stop_tracing())["traceEvents"])
        assert tasks, "no task was traced"
        assert max(tasks) < LONGEST, f"the longest, by the clock: {by_clock} ms"


def tasks_of(events: list[dict[str, Any]]) -> list[float]:
    """Milliseconds on the processor of all that the pages' main threads ran: tasks, and what promises leave to do."""
    mains = {
        (event["pid"], event["tid"])
        for event in events
        if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain"
    }
    own = [event for event in events if event.get("ph") == "X" and (event["pid"], event["tid"]) in mains]
    return [event["tdur"] / 1000 for event in own if "tdur" in event]


async def open_many(url: str, count: int) -> None:
    """Sessions that are initialized and then idle, on one connection, a hundred requests at a time."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)

    def ask(message: Any, session: str = "") -> bytes:
        body = json.dumps(message)
        named = f"Mcp-Session-Id: {session}\r\n" if session else ""
        head = f"POST /mcp HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n{named}"
        return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()

    async def reply() -> str:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert head.split(" ", 2)[1] in ("200", "202"), head
        await reader.readexactly(int(head.lower().partition("content-length: ")[2].split("\r")[0]))
        return head

    try:
        for begun in range(0, count, 100):
            many = min(100, count - begun)
            writer.write(ask(initialize("2025-11-25")) * many)
            ids = [re.search(r"mcp-session-id: (\S+)", await reply(), re.IGNORECASE) for _ in range(many)]
            writer.writelines(ask(notification("notifications/initialized"), id[1]) for id in ids if id is not None)
            for _ in range(many):
                await reply()
    finally:
        writer.close()
        await writer.wait_closed()
