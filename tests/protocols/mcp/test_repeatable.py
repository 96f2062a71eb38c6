"""Which requests may be handled twice: those that do no more than once."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tailrace import Service
from tailrace.protocols.mcp.repeatable import is_repeatable
from tests.rigs.exchange import FakeExchange

svc = Service("till")


@svc.tool(once="key")
def pay(key: str | None = None) -> str:
    """Runs once a key."""
    return "paid"


@svc.tool
def sell() -> str:
    """Runs as often as it is called."""
    return "sold"


def posted(body: Any, *headers: tuple[str, str], path: str = "/mcp") -> bool:
    data = body if isinstance(body, bytes) else json.dumps({"jsonrpc": "2.0", **body}).encode()
    return is_repeatable(svc, FakeExchange("POST", path, data, list(headers)))


def called(name: str, arguments: Any = None, *headers: tuple[str, str], **meta: Any) -> bool:
    params = {"name": name, "arguments": arguments or {}, "_meta": meta}
    return posted({"id": 1, "method": "tools/call", "params": params}, *headers)


def test_what_reads_and_what_notifies_is() -> None:
    for method in ("ping", "tools/list", "tasks/get", "server/discover"):
        assert posted({"id": 1, "method": method}), method
    assert posted({"method": "notifications/initialized"})
    assert is_repeatable(svc, FakeExchange("GET", "/mcp"))
    assert is_repeatable(svc, FakeExchange("GET", "/sse"))


def test_a_call_is_with_a_key_of_a_tool_that_runs_once() -> None:
    assert called("pay", {"key": "k"})
    assert called("pay", None, **{"io.tailrace/idempotencyKey": "k"})
    assert called("pay", None, ("idempotency-key", '"k"'))
    assert not called("pay"), "two equal orders are two orders"
    assert not called("sell", None, ("idempotency-key", "k")), "nobody looks at the key"
    assert not called("nothing", {"key": "k"})


@pytest.mark.parametrize(
    "body",
    [
        {"id": 1, "method": "initialize"},
        {"id": 1, "method": "resources/read", "params": {"uri": "a:b"}},
        {"id": 1, "method": "tasks/cancel", "params": {"taskId": "t"}},
        {"id": 1, "method": "tools/call", "params": {"name": 7}},
        {"id": 1, "method": "tools/call", "params": {"name": "pay", "arguments": {"key": "k" * 300}}},
        {"id": 1, "result": {}},
        b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]',
        b"nonsense",
    ],
)
def test_nothing_else_is(body: Any) -> None:
    assert not posted(body)


def test_nothing_that_is_posted_over_http_sse_is_for_its_answer_is_on_the_stream() -> None:
    assert not posted({"id": 1, "method": "ping"}, path="/messages/")
    assert not is_repeatable(svc, FakeExchange("DELETE", "/mcp"))
