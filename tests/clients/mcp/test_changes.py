"""What changed at the server is told in both eras, never twice before it is read, and once more after a break."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tailrace import Service
from tailrace.clients.mcp import Change, Client
from tailrace.errors import DefinitionError, ProtocolError, TransportError
from tailrace.mcp import Client as AnyClient
from tests.core.support import turns, virtual

from .test_calls import Peer

LIMIT = 45.0


def told(peer: Peer, method: str, params: Any = None) -> None:
    peer.say({"method": method, "params": params or {}})


def acknowledging(peer: Peer, message: dict[str, Any]) -> None:
    if message["method"] == "subscriptions/listen":
        told(peer, "notifications/subscriptions/acknowledged")
    elif "id" in message:
        peer.say({"id": message["id"], "result": {}})


async def next_of(changes: Any) -> Change:
    async with asyncio.timeout(LIMIT):
        return await anext(changes)


async def test_changes_of_a_modern_server_come_by_a_request_that_stays_open() -> None:
    peer = Peer(answer=acknowledging)
    async with Client(peer.link) as c:
        async with c.listen(tools=True, uris=["a://1"]) as changes:
            (asked,) = peer.asked("subscriptions/listen")
            assert asked["params"]["notifications"] == {"toolsListChanged": True, "resourceSubscriptions": ["a://1"]}
            for _ in range(3):
                told(peer, "notifications/tools/list_changed")
            told(peer, "notifications/prompts/list_changed")  # nobody asked for these
            told(peer, "notifications/resources/updated", {"uri": "a://2"})
            told(peer, "notifications/resources/updated", {"uri": "a://1"})
            assert await next_of(changes) == Change("tools")
            assert await next_of(changes) == Change("resource", "a://1")
            waiting = asyncio.ensure_future(next_of(changes))
            await asyncio.sleep(0)
            assert not waiting.done()
            await changes.aclose()
            with pytest.raises(StopAsyncIteration):
                await waiting
        while not peer.asked("notifications/cancelled"):
            await asyncio.sleep(0)


@pytest.mark.parametrize("order", ["acknowledged first", "ended first"])
async def test_a_modern_server_that_tells_none_of_these_is_not_asked_again_and_again(order: str) -> None:
    def answer(peer: Peer, message: dict[str, Any]) -> None:
        if message["method"] == "subscriptions/listen":
            if order == "acknowledged first":
                told(peer, "notifications/subscriptions/acknowledged", {"notifications": {"toolsListChanged": False}})
            peer.say({"id": message["id"], "result": {}})
            if order == "ended first":
                told(peer, "notifications/subscriptions/acknowledged", {"notifications": {}})

    peer = Peer(answer=answer)
    async with Client(peer.link) as c:
        with pytest.raises(ProtocolError, match="tells none"):
            async with c.listen(tools=True) as changes:
                await next_of(changes)
        assert len(peer.asked("subscriptions/listen")) == 1


async def test_a_legacy_server_is_subscribed_to_and_left() -> None:
    peer = Peer(era="legacy", answer=acknowledging)
    async with Client(peer.link, era="legacy") as c:
        async with c.listen(prompts=True, resources=True, uris=["a://1"]) as changes:
            told(peer, "notifications/prompts/list_changed")
            told(peer, "notifications/resources/list_changed")
            told(peer, "notifications/resources/updated", {"uri": "a://1"})
            found = [await next_of(changes) for _ in range(3)]
            assert found == [Change("prompts"), Change("resources"), Change("resource", "a://1")]
        assert [asked["params"] for asked in peer.asked("resources/subscribe")] == [{"uri": "a://1"}]
        assert [asked["params"] for asked in peer.asked("resources/unsubscribe")] == [{"uri": "a://1"}]


async def test_after_a_stream_that_ended_everything_counts_as_changed() -> None:
    peer = Peer(answer=acknowledging)
    async with Client(peer.link, reconnect=5) as c, c.listen(tools=True, prompts=True) as changes:
        peer.say({"id": peer.asked("subscriptions/listen")[0]["id"], "result": {"resultType": "complete"}})
        assert {await next_of(changes), await next_of(changes)} == {Change("tools"), Change("prompts")}
        async with asyncio.timeout(LIMIT):
            while len(peer.asked("subscriptions/listen")) < 2:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_who_listens_hears_that_the_connection_is_lost(era: Any) -> None:
    peer = Peer(era=era, answer=acknowledging)
    async with Client(peer.link, era=era) as c, c.listen(tools=True) as changes:
        waiting = asyncio.ensure_future(next_of(changes))
        await asyncio.sleep(0)
        peer.link.lose("it fell over")
        with pytest.raises(TransportError, match="fell over"):
            await waiting


async def test_a_server_that_refuses_is_told_at_once() -> None:
    def refuse(peer: Peer, message: dict[str, Any]) -> None:
        peer.say({"id": message["id"], "error": {"code": -32601, "message": "no such thing"}})

    async with Client(Peer(answer=refuse).link) as c:
        with pytest.raises(ProtocolError, match="no such thing"):
            async with c.listen(tools=True):
                pass
        with pytest.raises(DefinitionError, match="say what"):
            c.listen()


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_a_subscription_tells_of_one_resource_until_it_is_taken_back(era: Any) -> None:
    told_of: list[Any] = []
    peer = Peer(era=era, answer=acknowledging)
    async with Client(peer.link, era=era, on_notification=lambda method, params: told_of.append(params)) as c:
        await c.subscribe_resource("a://1")
        await c.subscribe_resource("a://1")
        assert len(peer.asked("subscriptions/listen" if era == "modern" else "resources/subscribe")) == 1
        told(peer, "notifications/resources/updated", {"uri": "a://1"})
        assert {"uri": "a://1"} in told_of
        await c.unsubscribe_resource("a://1")
        await c.unsubscribe_resource("a://1")


@virtual
async def test_a_subscription_that_is_taken_back_while_it_begins_is_over() -> None:
    peer = Peer(answer=lambda peer, message: None)
    async with Client(peer.link) as c:
        beginning = asyncio.ensure_future(c.subscribe_resource("a://1"))
        await turns()
        assert peer.asked("subscriptions/listen")
        await c.unsubscribe_resource("a://1")
        await turns()
        assert beginning.done()
        await beginning


@virtual
async def test_a_beginning_that_fails_takes_no_later_subscription_back() -> None:
    def answer(peer: Peer, message: dict[str, Any]) -> None:
        if message["method"] == "resources/subscribe":
            asked.append(message["id"])

    asked: list[Any] = []
    peer = Peer(era="legacy", answer=answer)
    async with Client(peer.link, era="legacy") as c:
        first = asyncio.ensure_future(c.subscribe_resource("a://1"))
        await turns()
        back = asyncio.ensure_future(c.unsubscribe_resource("a://1"))
        await turns()
        second = asyncio.ensure_future(c.subscribe_resource("a://1"))
        await turns()
        peer.say({"id": asked[0], "error": {"code": -32602, "message": "no such resource"}})
        with pytest.raises(ProtocolError, match="no such resource"):
            await first
        peer.say({"id": asked[1], "result": {}})
        await second
        await c.subscribe_resource("a://1")
        assert len(asked) == 2, "it is known"
        back.cancel()


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_a_real_server_tells_of_a_tool_that_is_added(era: Any) -> None:
    service = Service("growing")
    async with AnyClient(service, era=era) as c, c.listen(tools=True) as changes:

        @service.tool
        async def late() -> str:
            return "here"

        assert await next_of(changes) == Change("tools")
