"""What a client says of itself and by itself: who it is, and its notifications."""

from __future__ import annotations

from typing import Any

import pytest

from tailrace import Context, DefinitionError, Icon, Service, Session
from tests.core.support import turns, virtual
from tests.rigs.exchange import LegacySession, modern_request, notification, post_modern, request, serving
from tests.rigs.workshop import errors

ROOTS = "notifications/roots/list_changed"


@virtual
async def test_a_handler_learns_who_calls_in_both_eras() -> None:
    svc = Service("desk")

    @svc.tool
    async def who(ctx: Context) -> list[Any]:
        client = ctx.client
        assert client is not None
        return [client.name, client.version, client.protocol, dict(client.capabilities)]

    async with serving(svc) as server:
        session = await LegacySession(server, "2025-06-18").start()
        said = (await session.call(1, "who").json())["result"]["structuredContent"]["result"]
        assert said[2:] == ["2025-06-18", {}]
        info = {"name": "cat", "version": "9"}
        meta = {"io.modelcontextprotocol/clientInfo": info, "clientCapabilities": {"sampling": {}}}
        post = post_modern(server, modern_request(1, "tools/call", {"name": "who"}, **meta))
        said = (await post.json())["result"]["structuredContent"]["result"]
        assert said == ["cat", "9", "2026-07-28", {"sampling": {}}]


@virtual
async def test_a_notification_of_the_clients_reaches_who_listens_to_it(caplog: pytest.LogCaptureFixture) -> None:
    svc, told = Service("desk"), list[Any]()

    @svc.on_notification(ROOTS)
    async def roots(session: Session, params: dict[str, Any]) -> None:
        told.append((session.id, params))
        if params:
            raise RuntimeError("a bug")

    async with serving(svc) as server:
        session = await LegacySession(server).start()
        assert await session.post(notification(ROOTS)).status_code() == 202
        await session.post(notification("notifications/other")).status_code()
        await turns(20)
        assert told == [(session.id, {})]
        await session.post(notification(ROOTS, {"a": 1})).status_code()
        await turns(20)
        assert told[1] == (session.id, {"a": 1})
        assert len(errors(caplog)) == 1


@virtual
async def test_a_flood_of_them_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    svc, running = Service("desk"), list[int]()

    @svc.on_notification(ROOTS)
    async def slow(session: Session, params: dict[str, Any]) -> None:
        running.append(1)
        await session.wait_closed()

    async with serving(svc) as server:
        session = await LegacySession(server).start()
        for _ in range(70):
            await session.post(notification(ROOTS)).status_code()
        await turns(20)
        assert len(running) == 64
        assert "is dropped" in caplog.text
        await session.delete().status_code()


def test_two_cannot_listen_to_the_same() -> None:
    svc = Service("desk")
    svc.on_notification(ROOTS)(lambda session, params: None)
    with pytest.raises(DefinitionError, match="is listened to already"):
        svc.on_notification(ROOTS)(lambda session, params: None)
    with pytest.raises(DefinitionError, match="is listened to already"):
        svc.on_notification("notifications/cancelled")(lambda session, params: None)


@virtual
async def test_a_service_shows_itself() -> None:
    svc = Service("desk", title="The desk", icons=[Icon("https://a/b.png", sizes=["any"])], website_url="https://a")
    async with serving(svc) as server:
        info = (await post_modern(server, modern_request(1, "server/discover")).json())["result"]["_meta"]
        assert info["io.modelcontextprotocol/serverInfo"] == {
            "name": "desk",
            "version": "0.0.0",
            "title": "The desk",
            "icons": [{"src": "https://a/b.png", "sizes": ["any"]}],
            "websiteUrl": "https://a",
        }
        session = await LegacySession(server).start()
        assert "result" in await session.post(request(1, "tools/list")).json()
