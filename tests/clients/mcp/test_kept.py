"""Lists and resources are kept for as long as the server says, and no longer."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Raw

from tailrace.clients.mcp import Client
from tailrace.clients.mcp.kept import Kept

from .test_calls import Peer
from .test_requests import saying


def answer(ttl: Any = 3_600_000, kind: str = "complete") -> Raw:
    return Raw(f'{{"ttlMs": {ttl}, "resultType": "{kind}"}}'.encode())


def test_an_answer_is_kept_until_its_time_is_over() -> None:
    now = [0.0]
    kept = Kept(clock=lambda: now[0])
    kept.keep("tools/list", None, answer(1000))
    assert kept.find("tools/list", None) is not None
    assert kept.find("tools/list", {"cursor": "2"}) is None
    now[0] = 1.0
    assert kept.find("tools/list", None) is None


@pytest.mark.parametrize(
    "raw", [answer(0), answer(-5), answer(1000, "input_required"), Raw(b"{}"), Raw(b"[]"), answer('"x"')]
)
def test_what_says_no_time_is_not_kept(raw: Raw) -> None:
    kept = Kept()
    kept.keep("tools/list", None, raw)
    assert kept.find("tools/list", None) is None


def test_there_are_never_too_many_and_none_too_large() -> None:
    kept = Kept(limit=2, max_bytes=60)
    for name in "ab":
        kept.keep("resources/read", {"uri": name}, answer())
    assert kept.find("resources/read", {"uri": "a"}) is not None
    kept.keep("resources/read", {"uri": "c"}, answer())
    assert [kept.find("resources/read", {"uri": name}) is not None for name in "abc"] == [True, False, True]
    kept.keep("resources/read", {"uri": "d"}, Raw(b'{"ttlMs": 1000, "text": "' + b"x" * 60 + b'"}'))
    assert kept.find("resources/read", {"uri": "d"}) is None


@pytest.mark.parametrize(
    ("method", "params", "left"),
    [
        ("notifications/tools/list_changed", None, {"resources/list", "prompts/list", "read a", "read b"}),
        ("notifications/resources/list_changed", None, {"tools/list", "prompts/list", "read a", "read b"}),
        ("notifications/prompts/list_changed", None, {"tools/list", "resources/list", "read a", "read b"}),
        ("notifications/resources/updated", {"uri": "a"}, {"tools/list", "resources/list", "prompts/list", "read b"}),
        ("notifications/other", None, {"tools/list", "resources/list", "prompts/list", "read a", "read b"}),
    ],
)
def test_a_change_ends_what_it_is_about(method: str, params: Any, left: set[str]) -> None:
    kept = Kept()
    all = {name: (name, None) for name in ("tools/list", "resources/list", "prompts/list")}
    all |= {f"read {uri}": ("resources/read", {"uri": uri}) for uri in "ab"}
    for of in all.values():
        kept.keep(*of, answer())
    kept.notified(method, params)
    assert {name for name, of in all.items() if kept.find(*of) is not None} == left


async def test_a_client_that_keeps_asks_once_and_again_after_a_change() -> None:
    tools = {"tools": [{"name": "t"}], "ttlMs": 60_000}
    peer = Peer(answer=saying({"tools/list": tools, "resources/read": {"contents": []}}))
    heard: list[str] = []
    async with Client(peer.link, cache=True, on_notification=lambda method, params: heard.append(method)) as c:
        assert [tool.name for tool in await c.list_tools()] == [tool.name for tool in await c.list_tools()] == ["t"]
        assert len(peer.asked("tools/list")) == 1
        peer.say({"method": "notifications/tools/list_changed"})
        await c.list_tools()
        assert len(peer.asked("tools/list")) == 2
        await c.read_resource("a://1")
        await c.read_resource("a://1")
        assert len(peer.asked("resources/read")) == 2
    assert heard == ["notifications/tools/list_changed"]


async def test_a_client_that_was_not_told_to_keeps_nothing() -> None:
    peer = Peer(answer=saying({"tools/list": {"tools": [], "ttlMs": 60_000}}))
    async with Client(peer.link) as c:
        await c.list_tools()
        await c.list_tools()
    assert len(peer.asked("tools/list")) == 2
