"""Who sees what: filters, and what a session has of its own."""

from __future__ import annotations

from typing import Any

import pytest

from tailrace import Context, Service, Session
from tailrace.service import Viewer
from tests.core.support import turns, virtual
from tests.rigs.exchange import LegacySession, modern_request, post_modern, request, serving, text_of
from tests.rigs.workshop import errors


def office() -> Service:
    svc = Service("office")

    @svc.tool
    async def read() -> str:
        return "read"

    @svc.tool(name="admin.wipe", task="required")
    async def wipe() -> str:
        return "wiped"

    @svc.resource("admin://log")
    async def log() -> str:
        return "log"

    @svc.prompt(name="admin.plan")
    async def plan() -> str:
        return "plan"

    @svc.filter
    def admins(one: Any, viewer: Viewer) -> bool:
        if viewer.principal == "broken":
            raise RuntimeError("a bug")
        return not getattr(one, "uri", one.name).startswith("admin") or viewer.principal == "root"

    return svc


async def names(session: LegacySession, kind: str) -> list[str]:
    answer = await session.post(request(1, f"{kind}/list")).json()
    return [one["name"] for one in answer["result"][kind]]


@virtual
async def test_what_a_filter_hides_is_neither_listed_nor_found() -> None:
    async with serving(office()) as server:
        root = await LegacySession(server, principal="root").start()
        guest = await LegacySession(server, principal="guest").start()
        assert [await names(root, kind) for kind in ("tools", "resources", "prompts")] == [
            ["read", "admin.wipe"],
            ["log"],
            ["admin.plan"],
        ]
        assert [await names(guest, kind) for kind in ("tools", "resources", "prompts")] == [["read"], [], []]
        assert text_of(await root.call(2, "admin.wipe").json()) == "wiped"
        for method, params, code in (
            ("tools/call", {"name": "admin.wipe"}, -32602),
            ("prompts/get", {"name": "admin.plan"}, -32602),
            ("resources/read", {"uri": "admin://log"}, -32002),
            ("resources/subscribe", {"uri": "admin://log"}, -32002),
        ):
            error = (await guest.post(request(3, method, params)).json())["error"]
            assert error["code"] == code
        assert text_of(await guest.call(4, "read").json()) == "read"


async def test_a_modern_client_sees_what_its_principal_may_and_keeps_it_to_itself() -> None:
    async with serving(office()) as server:
        for principal, count in (("root", 2), ("guest", 1)):
            listed = post_modern(server, modern_request(1, "tools/list"), principal=principal)
            result = (await listed.json())["result"]
            assert (len(result["tools"]), result["cacheScope"]) == (count, "private")
        hidden = post_modern(server, modern_request(1, "tools/call", {"name": "admin.wipe"}), principal="guest")
        assert "unknown tool" in (await hidden.json())["error"]["message"]


async def test_of_what_is_hidden_not_even_a_change_is_told() -> None:
    svc = office()
    async with serving(svc) as server:
        params = {"notifications": {"resourceSubscriptions": ["admin://log"]}}
        for principal, granted in (("root", ["admin://log"]), ("guest", [])):
            stream = post_modern(server, modern_request(1, "subscriptions/listen", params), principal=principal)
            said = await stream.message(lambda one: one.get("method") == "notifications/subscriptions/acknowledged")
            assert said["params"]["notifications"].get("resourceSubscriptions", []) == granted
            stream.disconnect()


@virtual
async def test_a_filter_that_fails_hides(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(office()) as server:
        session = await LegacySession(server, principal="broken").start()
        assert await names(session, "tools") == []
        assert "a filter failed" in errors(caplog)[0]


@virtual
async def test_a_session_has_things_of_its_own_until_it_ends() -> None:
    svc = Service("desk")
    sessions: list[Session] = []

    @svc.on_register_session
    async def greet(session: Session) -> None:
        sessions.append(session)

    @svc.tool
    async def common() -> str:
        return "everybody's"

    @svc.tool
    async def unlock(ctx: Context) -> str:
        assert ctx.session is not None
        own = svc.for_session(ctx.session)

        @own.tool
        async def drawer() -> str:
            return "open"

        @own.tool(name="common")
        async def instead() -> str:
            return "mine"

        @own.resource("notes://mine")
        async def notes() -> str:
            return "note"

        return "unlocked"

    async with serving(svc) as server:
        mine, other = await LegacySession(server).start(), await LegacySession(server).start()
        streams = [mine.get(), other.get()]
        await mine.call(1, "unlock").json()
        await streams[0].message(lambda one: one.get("method") == "notifications/resources/list_changed")
        await turns(20)
        assert streams[1].messages == []
        assert await names(mine, "tools") == ["common", "unlock", "drawer"]
        assert await names(other, "tools") == ["common", "unlock"]
        assert text_of(await mine.call(2, "drawer").json()) == "open"
        assert [text_of(await one.call(3, "common").json()) for one in (mine, other)] == ["mine", "everybody's"]
        assert (await other.call(4, "drawer").json())["error"]["code"] == -32602
        svc.for_session(sessions[0]).remove_tool("drawer")
        assert await names(mine, "tools") == ["common", "unlock"]
        await mine.delete().status_code()
        await turns(20)
        assert not svc.is_selective
