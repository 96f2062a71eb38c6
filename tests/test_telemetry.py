"""One trace from the request to the consumer, over a real OTLP export."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tailrace import telemetry
from tailrace.mcp import Client
from tailrace.telemetry import export
from tests.rigs.collector import Collector, attributes_of, collecting
from tests.rigs.server import running, tailrace_command

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
SHOP = """
from tailrace import Context, Service, ToolError, current

svc = Service("shop")

async def mail() -> None:
    await current().publish("mails", "sent")

@svc.tool
async def order(ctx: Context, item: str) -> str:
    await ctx.publish("orders", {"item": item})
    ctx.spawn(mail)
    return item

@svc.tool
async def fail() -> str:
    raise ToolError("sold out")
"""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.mark.e2e
@pytest.mark.timeout(120)
@pytest.mark.may_block
async def test_request_run_detached_work_and_messages_are_one_trace(collector: Collector, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    env = collector.environment()
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}
    with running(tailrace_command(tmp_path / "shop.py", "--publish", "log:"), tmp_path / "stderr", env=env) as server:
        async with Client(server.url + "/mcp", headers=headers) as client:
            assert (await client.call_tool("order", {"item": "tea"})).data == "tea"
            assert (await client.call_tool("fail")).is_error
        server.process.terminate()
        assert server.process.wait(20) == 0
    assert collector.services == {"shop"}
    call, run = collector.named("tools/call order"), collector.named("run order")
    created, sent = collector.named("create orders"), collector.named("send orders")
    detached = collector.named("detached mail")
    mailed, mail_sent = collector.named("create mails"), collector.named("send mails")
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    assert call.parent_span_id.hex() == PARENT
    assert run.parent_span_id == created.parent_span_id == detached.parent_span_id == call.span_id
    assert sent.parent_span_id == created.span_id
    assert mailed.parent_span_id == detached.span_id
    assert mail_sent.parent_span_id == mailed.span_id
    attributes = attributes_of(call)
    assert attributes["gen_ai.tool.name"] == "order"
    assert attributes["mcp.method.name"] == "tools/call"
    assert call.status.code == 0
    failed = collector.named("tools/call fail")
    assert failed.status.code == 2
    assert "sold out" in failed.status.message
    assert attributes_of(failed)["error.type"] == "tool_error"


@pytest.mark.e2e
@pytest.mark.timeout(120)
@pytest.mark.may_block
async def test_a_collector_that_is_away_does_not_hold_up_the_exit(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    command = tailrace_command(tmp_path / "shop.py", "--publish", "memory:")
    with running(command, tmp_path / "stderr", env=env) as server:
        async with Client(server.url + "/mcp") as client:
            await client.call_tool("order", {"item": "tea"})
        server.process.terminate()
        assert server.process.wait(30) == 0


def test_without_a_provider_there_is_no_tracer() -> None:
    assert telemetry.make_tracer() is None


def test_without_being_asked_nothing_is_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert telemetry.set_up_export("shop") is export._nothing  # pyright: ignore[reportPrivateUsage]
