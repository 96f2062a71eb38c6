"""One trace from a program through a tool, its detached task and a real Kafka to the consumer, exported over OTLP."""

from __future__ import annotations

import asyncio
import itertools
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.rigs.collector import attributes_of, collecting
from tests.rigs.kafka import Broker
from tests.rigs.server import ROOT, ServerProcess, running, tailrace_command

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

PROGRAM = ROOT / "tests/e2e/traced.py"
SHOP = """
from tailrace import Context, Service, current

svc = Service("shop", package="shop.v1")

async def mail(item: str) -> None:
    await current().publish("mails", f"mail {item}")

@svc.tool
async def order(ctx: Context, item: str) -> str:
    ctx.spawn(mail, item)
    return item

@svc.rpc
async def pack(ctx: Context, item: str) -> str:
    await ctx.publish("mails", f"packed {item}")
    return item
"""


@pytest.mark.may_block
async def test_one_trace_goes_from_the_caller_to_the_consumer(broker: Broker, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    with collecting() as collector:
        env = collector.environment()
        command = tailrace_command(tmp_path / "shop.py", "--publish", f"kafka://{broker.address}")
        with running(command, tmp_path / "stderr", env=env) as server:
            arguments = [sys.executable, str(PROGRAM), server.url, broker.address, "2"]
            program = ServerProcess(arguments, tmp_path / "program", env=env, ready=None)
            try:
                assert await asyncio.to_thread(program.wait, 200.0) == 0, program.stderr_tail()
            finally:
                program.close()
            assert await asyncio.to_thread(server.stop, 60.0) == 0, server.stderr_tail()
    assert collector.services == {"program", "shop"}
    named = collector.named
    checkout = named("checkout")
    ours = [span for span in collector.spans if span.trace_id == checkout.trace_id]

    def one(name: str, kind: int) -> Any:
        found = [span for span in ours if span.name == name and span.kind == kind]
        assert len(found) == 1, (name, kind, sorted((span.name, span.kind) for span in ours))
        return found[0]

    internal, server_side, client, producer, consumer = 1, 2, 3, 4, 5
    # the program -> the tool -> its detached task -> the broker -> the consumer
    way = [
        checkout,
        one("tools/call order", client),
        one("tools/call order", server_side),
        one("detached mail", internal),
    ]
    created = [span for span in ours if span.name == "create mails" and span.kind == producer]
    mailed = next(span for span in created if span.parent_span_id == way[-1].span_id)
    received = one("process mail tea", consumer)
    way += [mailed, received]
    for parent, child in itertools.pairwise(way):
        assert child.parent_span_id == parent.span_id, (parent.name, child.name)
    # and the same over RPC
    path = "shop.v1.Shop/Pack"
    asked, served = one(path, client), one(path, server_side)
    packed = next(span for span in created if span is not mailed)
    assert asked.parent_span_id == checkout.span_id
    assert served.parent_span_id == asked.span_id
    assert packed.parent_span_id == served.span_id
    assert one("process packed tea", consumer).parent_span_id == packed.span_id
    told = attributes_of(asked)
    assert (told["rpc.system.name"], told["rpc.method"], told["server.address"]) == ("connectrpc", path, "127.0.0.1")
    sent = [span for span in ours if span.name == "send mails"]
    assert {span.parent_span_id for span in sent} == {mailed.span_id, packed.span_id}
    # what was measured beside it
    operations = [attributes_of(point) for point in collector.points["mcp.server.operation.duration"]]
    assert {"mcp.method.name": "tools/call", "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "order"} in (
        operations
    )
    for name in ("mcp.client.operation.duration", "rpc.client.call.duration", "rpc.server.call.duration",
                 "messaging.client.operation.duration", "messaging.client.sent.messages"):  # fmt: skip
        assert collector.points[name], name
    (call,) = collector.points["rpc.server.call.duration"]
    assert attributes_of(call) == {
        "rpc.system.name": "connectrpc", "rpc.method": path, "rpc.response.status_code": "OK"
    }  # fmt: skip
    assert 0 < call.sum < 60
