"""What a handler logs, through `logging` as anybody does, says to which request and to which trace it belongs."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tailrace.mcp import Client
from tests.rigs.server import running, tailrace_command

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
TARGET = """
import logging
from tailrace import Context, Service

svc = Service("shop")
logger = logging.getLogger("shop.orders")

def pack() -> None:
    logger.info("packed")

@svc.tool
async def order(ctx: Context) -> str:
    logger.info("ordered")
    ctx.spawn(pack)
    return "done"

@svc.tool
def weigh() -> str:
    logger.warning("weighed in a thread")
    return "done"

@svc.tool
async def fail() -> str:
    raise ValueError("a bug")
"""


def records(log: Path) -> dict[str, dict[str, Any]]:
    """The records of a JSON log, by their message's first word."""
    found = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return {record["message"].partition(" ")[0]: record for record in found}


async def use(url: str, headers: dict[str, str] | None = None) -> None:
    async with Client(url + "/mcp", headers=headers) as client:
        for tool in ("order", "weigh", "fail"):
            await client.call_tool(tool)


@pytest.mark.e2e
@pytest.mark.timeout(120)
@pytest.mark.may_block
@pytest.mark.parametrize("traced", [False, True], ids=["untraced", "traced"])
async def test_json_records_carry_correlation_id_and_trace(tmp_path: Path, traced: bool) -> None:
    (tmp_path / "shop.py").write_text(TARGET)
    # An exporter that nobody hears: spans are made all the same.
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_METRICS_EXPORTER": "none"} if traced else {}
    command = tailrace_command(tmp_path / "shop.py", "--log-format", "json")
    with running(command, tmp_path / "stderr", env=env) as server:
        await use(server.url, {"traceparent": f"00-{TRACE}-{PARENT}-01"})
        await asyncio.to_thread(server.stop)
    found = records(tmp_path / "stderr")
    for message in ("ordered", "packed", "weighed", "the"):  # the last is ours: the tool raised an exception
        record = found[message]
        assert (record["correlation_id"], record["trace_id"]) == (TRACE, TRACE), record
        assert (re.fullmatch("[0-9a-f]{16}", record.get("span_id", "")) is not None) == traced
    assert found["packed"].get("span_id") != found["ordered"].get("span_id") or not traced, "its own span"
    assert found["signal"].keys() == {"time", "level", "logger", "message"}, "outside of calls there is nothing to say"


@pytest.mark.e2e
@pytest.mark.timeout(120)
@pytest.mark.may_block
async def test_text_records_carry_an_id_that_a_calls_records_share(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(TARGET)
    with running(tailrace_command(tmp_path / "shop.py"), tmp_path / "stderr") as server:
        await use(server.url)
        await asyncio.to_thread(server.stop)
    text = (tmp_path / "stderr").read_text()
    ids = dict(re.findall(r" INFO shop\.orders (\w+) correlation_id=([0-9a-f]{32})$", text, re.MULTILINE))
    assert ids.keys() == {"ordered", "packed"}
    assert ids["ordered"] == ids["packed"]
    weighed = re.search(r"weighed in a thread correlation_id=([0-9a-f]{32})$", text, re.MULTILINE)
    assert weighed is not None
    assert weighed[1] != ids["ordered"]
    assert "signal received; draining\n" in text
