"""A real Prometheus scrapes `/metrics`, with a token, and knows afterwards what the clients did."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from tailrace.mcp import Client
from tests.rigs.debian import PROMETHEUS, command_or_skip
from tests.rigs.prometheus import scraping
from tests.rigs.server import running, tailrace_command
from tests.rigs.valkey import Valkey

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(480)]  # it may have to be fetched

TOKEN = "scraped-with-this"
SHOP = """
from tailrace import Context, Service, ToolError

svc = Service("shop")

@svc.tool
async def order(ctx: Context, item: str) -> str:
    if item == "none":
        raise ToolError("sold out")
    await ctx.publish("orders", item)
    return item
"""


@pytest.mark.may_block
async def test_prometheus_scrapes_what_clients_did(tmp_path: Path) -> None:
    command = command_or_skip(PROMETHEUS)
    (tmp_path / "shop.py").write_text(SHOP)
    flags = ("--publish", "memory:", "--admin", "127.0.0.1:0", "--admin-token", TOKEN)
    with running(tailrace_command(tmp_path / "shop.py", *flags), tmp_path / "stderr") as server:
        found = re.search(r" admin=http://(127\.0\.0\.1:\d+)", server.stderr_tail())
        assert found is not None
        assert TOKEN not in server.stderr_tail()
        with scraping(command, found[1], TOKEN, tmp_path) as seen:
            async with Client(server.url + "/mcp") as client:
                for item in ("tea", "cups", "none"):
                    await client.call_tool("order", {"item": item})
            await asyncio.to_thread(seen.wait_value, 'tailrace_calls_total{target="order",outcome="ok"}', 2.0)
            await asyncio.to_thread(seen.wait_value, 'tailrace_calls_total{target="order",outcome="error"}', 1.0)
            await asyncio.to_thread(seen.wait_value, "tailrace_outbox_published_total", 2.0)
            await asyncio.to_thread(seen.wait_value, "up", 1.0)
            await asyncio.to_thread(seen.wait_value, "tailrace_store_up", 1.0)
            bucket = 'tailrace_call_duration_seconds_bucket{target="order",le="+Inf"}'
            await asyncio.to_thread(seen.wait_value, bucket, 3.0)


@pytest.mark.may_block
async def test_prometheus_scrapes_two_workers_at_one_address(tmp_path: Path) -> None:
    command = command_or_skip(PROMETHEUS)
    (tmp_path / "shop.py").write_text(SHOP)
    flags = ("--workers", "2", "--publish", "log:", "--admin", "127.0.0.1:0", "--admin-token", TOKEN)
    with (
        Valkey() as valkey,
        running(tailrace_command(tmp_path / "shop.py", *flags, store=valkey.url), tmp_path / "stderr") as server,
    ):
        found = re.search(r" admin=http://(127\.0\.0\.1:\d+)", server.stderr_tail())
        assert found is not None
        with scraping(command, found[1], TOKEN, tmp_path) as seen:
            for _ in range(6):
                async with Client(server.url + "/mcp") as client:
                    await client.call_tool("order", {"item": "tea"})
            await asyncio.to_thread(seen.wait_value, 'tailrace_calls_total{target="order",outcome="ok"}', 6.0)
            await asyncio.to_thread(seen.wait_value, 'tailrace_cluster_members{worker="0"}', 2.0)
            await asyncio.to_thread(seen.wait_value, "tailrace_cluster_partitions", 2.0)
            await asyncio.to_thread(seen.wait_value, "tailrace_worker_up", 2.0)
            await asyncio.to_thread(seen.wait_value, "up", 1.0)
