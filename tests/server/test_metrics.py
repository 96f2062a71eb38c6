"""`/metrics`: what happened is there as numbers, in a form that Prometheus reads, with labels that are few."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tailrace import Context, Service, ToolError
from tailrace.core.meter import ANSWERED, Ending, Operation
from tailrace.core.settings import Settings
from tailrace.publish.publishers import make_publisher
from tailrace.server import Server
from tailrace.server.metrics import Metrics, ServerCollector, registry_of
from tailrace.stores.memory import MemoryStore
from tailrace.stores.memory_membership import MemoryCluster
from tailrace.telemetry import Histogram, Times
from tests.rigs.exchange import FakeExchange, LegacySession

TOOL = Operation("mcp", "tools/call", "order")


@asynccontextmanager
async def measured(service: Service, **settings: Any) -> AsyncGenerator[tuple[Server, Callable[..., float | None]]]:
    """A server whose work is measured, and what reads one of its numbers as Prometheus would."""
    server = Server(
        service, Settings(drain=0.0, **settings), MemoryStore(durable=True), publisher=make_publisher("memory:")
    )
    times = server.measure()
    await server.start()
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ServerCollector(server, times))

    def read(name: str, **labels: str) -> float | None:
        families = parse_text(generate_latest(registry).decode())
        found = [sample for family in families for sample in family.samples if sample.name == name]
        return next((sample.value for sample in found if labels.items() <= sample.labels.items()), None)

    try:
        yield server, read
    finally:
        await server.stop()


def shop() -> Service:
    service = Service("shop", version="2", package="shop.v1")

    @service.tool
    async def order(ctx: Context, item: str) -> str:
        if item == "none":
            raise ToolError("sold out")
        await ctx.publish("orders", item)
        return item

    @service.tool(once=True)
    async def pay(amount: int) -> int:
        return amount

    @service.resource("stock://{item}")
    async def stock(item: str) -> str:
        return item

    return service


# --- what is counted ------------------------------------------------------------------------------


async def test_calls_are_counted_by_tool_and_outcome_and_timed() -> None:
    async with measured(shop()) as (server, read):
        session = await LegacySession(server).start()
        for id, item in enumerate(("tea", "tea", "none")):
            assert await session.call(id, "order", {"item": item}).status_code() == 200
        labels = {"protocol": "mcp", "method": "tools/call", "target": "order"}
        assert read("tailrace_calls_total", **labels, outcome="ok") == 2
        assert read("tailrace_calls_total", **labels, outcome="error") == 1
        assert read("tailrace_call_duration_seconds_count", **labels) == 3
        assert read("tailrace_call_duration_seconds_bucket", **labels, le="+Inf") == 3
        assert 0 < (read("tailrace_call_duration_seconds_sum", **labels) or 0) < 30
        assert read("tailrace_calls_running") == 0
        assert read("tailrace_calls_accepted_total") == 3
        assert read("tailrace_server_info", service="shop", version="2", store="memory") == 1


async def test_what_a_client_makes_up_is_no_label() -> None:
    async with measured(shop()) as (server, read):
        session = await LegacySession(server).start()
        for id in range(3):
            message = {"jsonrpc": "2.0", "id": id, "method": "resources/read", "params": {"uri": f"stock://{id}"}}
            assert await session.post(message).status_code() == 200
        assert await session.call(9, "no-such-tool").status_code() == 200
        assert read("tailrace_calls_total", method="resources/read", target="", outcome="ok") == 3
        assert read("tailrace_calls_total", target="no-such-tool") is None


async def test_lists_are_measured_although_they_are_no_calls() -> None:
    async with measured(shop()) as (server, read):
        session = await LegacySession(server).start()
        assert await session.post({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).status_code() == 200
        assert read("tailrace_calls_total", method="tools/list", outcome="ok") == 1


async def test_a_run_that_many_ask_for_is_one_run_and_each_request_is_counted() -> None:
    async with measured(shop()) as (server, read):
        session = await LegacySession(server).start()
        key = ("idempotency-key", "k-1")
        for id, amount in enumerate((1, 1, 2)):
            message = {"name": "pay", "arguments": {"amount": amount}}
            body = {"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": message}
            assert await session.post(body, key).status_code() == 200
        assert read("tailrace_once_requests_total", result="run") == 1
        assert read("tailrace_once_requests_total", result="replayed") == 1
        assert read("tailrace_once_requests_total", result="refused") == 1
        assert read("tailrace_once_keys") == 1
        assert read("tailrace_calls_total", target="pay", outcome="ok") == 2


async def test_a_call_that_runs_once_and_fails_is_counted_as_failed() -> None:
    service = Service("shop")

    @service.tool(once=True)
    async def fail() -> None:
        raise ToolError("sold out")

    async with measured(service) as (server, read):
        session = await LegacySession(server).start()
        body: Any = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "fail", "arguments": {}}}
        assert await session.post(body, ("idempotency-key", "k-1")).status_code() == 200
        assert read("tailrace_calls_total", target="fail", outcome="error") == 1
        assert read("tailrace_calls_total", target="fail", outcome="ok") is None


async def test_calls_over_rpc_are_counted_by_method_and_protocol() -> None:
    async with measured(shop()) as (server, read):
        path = "/shop.v1.Shop/Order"
        exchange = FakeExchange("POST", path, {"item": "tea"}, [("content-type", "application/json")])
        server.handle(exchange)
        assert await exchange.status_code() == 200, exchange.reply_body
        assert read("tailrace_calls_total", protocol="connectrpc", method=path[1:], target="", outcome="ok") == 1


async def test_sessions_are_counted_and_timed() -> None:
    async with measured(shop()) as (server, read):
        session = await LegacySession(server).start()
        assert read("tailrace_sessions_open") == 1
        assert await session.delete().status_code() == 200
        await server.end_sessions()
        assert read("tailrace_sessions_open") == 0
        assert read("tailrace_sessions_opened_total") == 1
        assert read("tailrace_sessions_closed_total") == 1
        assert read("tailrace_session_duration_seconds_count") == 1


async def test_what_a_limit_refuses_is_counted_under_its_name() -> None:
    async with measured(shop(), max_sessions=1) as (server, read):
        session = await LegacySession(server).start()
        session.get()  # it is busy: it makes no room
        refused = LegacySession(server)
        with pytest.raises(AssertionError):
            await refused.start()
        assert read("tailrace_refused_total", limit="sessions") == 1


async def test_the_store_and_the_outbox_are_seen() -> None:
    async with measured(shop()) as (server, read):
        session = await LegacySession(server).start()
        assert await session.call(1, "order", {"item": "tea"}).status_code() == 200
        assert server.outbox is not None
        await server.outbox.drain(30.0)
        assert read("tailrace_store_up") == 1
        assert (read("tailrace_store_commit_seconds_count") or 0) > 0
        assert read("tailrace_outbox_published_total") == 1
        assert read("tailrace_outbox_waiting") == 0
        delivered = {"publisher": "memory", "topic": "orders", "outcome": "ok"}
        assert read("tailrace_outbox_delivery_seconds_count", **delivered) == 1


async def test_a_member_that_has_left_still_tells_what_it_has_published() -> None:
    membership = MemoryCluster().member()
    server = Server(shop(), Settings(drain=0.0), None, publisher=make_publisher("memory:"), membership=membership)
    times = server.measure()
    await server.start()
    try:
        session = await LegacySession(server).start()
        assert await session.call(1, "order", {"item": "tea"}).status_code() == 200
        assert server.outbox is not None
        await server.outbox.drain(30.0)
    finally:
        await server.stop()
    metrics = {family.name: family for family in ServerCollector(server, times).collect()}
    assert [sample.value for sample in metrics["tailrace_outbox_published"].samples] == [1.0]
    assert [sample.value for sample in metrics["tailrace_outbox_dead"].samples] == [0.0]


async def test_where_nothing_is_measured_a_call_leaves_no_time() -> None:
    server = Server(shop(), Settings(drain=0.0), MemoryStore())
    await server.start()
    try:
        assert server.tasks.meter is None
    finally:
        await server.stop()


# --- the page -------------------------------------------------------------------------------------


def get(page: Metrics, accept: str | None = None, method: str = "GET") -> FakeExchange:
    exchange = FakeExchange(method, "/metrics", headers=[] if accept is None else [("accept", accept)])
    page.handle(exchange)
    return exchange


@pytest.mark.may_block  # /proc
async def test_the_page_is_in_the_form_that_is_asked_for() -> None:
    async with measured(shop()) as (server, _):
        page = Metrics(registry_of(server, Times()))
        text = get(page)
        assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
        names = {family.name for family in parse_text(text.reply_body.decode())}
        assert {"tailrace_calls_running", "tailrace_store_up"} <= names
        assert "python_info" in names, "what the program registered is there as well"
        newer = get(page, "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5")
        assert newer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        families = openmetrics.text_string_to_metric_families(newer.reply_body.decode())  # which is strict
        assert "tailrace_sessions_open" in {family.name for family in families}
        assert get(page, method="POST").status == 405


@pytest.mark.may_block  # /proc
async def test_a_member_of_several_shows_what_it_owns_and_what_travels() -> None:
    server = Server(shop(), Settings(drain=0.0), None, membership=MemoryCluster().member())
    page = Metrics(registry_of(server, server.measure()))
    await server.start()
    try:
        families = {family.name: family for family in parse_text(get(page).reply_body.decode())}
    finally:
        await server.stop()
    assert [sample.value for sample in families["tailrace_cluster_partitions"].samples] == [1]
    changes = {sample.labels["change"] for sample in families["tailrace_cluster_partition_changes"].samples}
    assert changes == {"adopted", "handed_over", "fenced", "retired", "failed"}
    for name in ("running", "requests", "bytes"):
        assert {sample.labels["direction"] for sample in families[f"tailrace_relay_{name}"].samples} == {"in", "out"}
    rest = ("cluster_lease_age_seconds", "cluster_partitions_stuck", "relay_lost", "relay_refused", "relay_waiting")
    assert {f"tailrace_{name}" for name in (*rest, "once_awaited")} <= families.keys()
    assert get(page).status == 200, "at its end, too, when it owns nothing any more"


# --- times ----------------------------------------------------------------------------------------


def test_a_value_counts_in_its_bucket_and_in_all_above() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(value)
    assert list(histogram.buckets()) == [("1", 2), ("2", 3), ("+Inf", 4)]
    assert histogram.sum == 12.0


def test_there_is_an_end_to_the_series_that_tools_and_topics_make() -> None:
    times = Times()
    for number in range(1500):
        times.call_ended(Operation("mcp", "tools/call", f"tool{number}"), ANSWERED, 0.1)
        times.delivered("kafka", f"topic{number}", 0.1, None)
    assert len(times.calls) == 1001
    assert times.endings[Operation("mcp", "_OTHER", ""), "ok"] == 500
    assert len(times.deliveries) == 1001
    times.call_ended(Operation("mcp", "tools/call", "tool1"), Ending("error", "tool_error"), 0.1)
    assert times.endings[Operation("mcp", "tools/call", "tool1"), "error"] == 1


def test_a_delivery_that_failed_is_told_apart() -> None:
    times = Times()
    times.delivered("kafka", "orders", 0.1, None)
    times.delivered("kafka", "orders", 0.1, OSError("gone"))
    assert {outcome for _, _, outcome in times.deliveries} == {"ok", "error"}
