"""The drivers themselves, on the official SDK's own server: where they pass here, a failure elsewhere is not theirs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.e2e.node_client import drive_node
from tests.e2e.plans import CALLS_PLAN, check_calls
from tests.e2e.python_client import Era, Transport, drive
from tests.e2e.witness import Witness
from tests.rigs.server import ROOT, running, running_async

pytestmark = pytest.mark.e2e
REFERENCE = [sys.executable, str(ROOT / "tests" / "rigs" / "reference.py")]


@pytest.mark.parametrize(
    ("transport", "era"),
    [("streamable", "legacy"), ("streamable", "auto"), ("sse", "legacy"), ("stdio", "legacy"), ("stdio", "auto")],
)
async def test_python_driver_is_right(transport: Transport, era: Era, witness: Witness, tmp_path: Path) -> None:
    if transport == "stdio":
        report = await drive(transport, [*REFERENCE, "stdio"], era, CALLS_PLAN, env=witness.env)
    else:
        async with running_async([*REFERENCE, "http"], tmp_path / "log", env=witness.env) as server:
            path = "/sse" if transport == "sse" else "/mcp"
            report = await drive(transport, server.url + path, era, CALLS_PLAN)
    check_calls(report, modern=era == "auto")
    await witness.sees("start cancel", "cancelled cancel")


@pytest.mark.parametrize(
    ("client", "transport", "era"),
    [
        ("sdk", "streamable", "legacy"),
        ("sdk", "sse", "legacy"),
        ("sdk", "stdio", "legacy"),
        ("client", "streamable", "legacy"),
        ("client", "streamable", "auto"),
        ("client", "stdio", "auto"),
    ],
)
def test_typescript_driver_is_right(
    client: str, transport: str, era: str, node: Path, witness: Witness, tmp_path: Path
) -> None:
    if transport == "stdio":
        report = drive_node(node, client, transport, [*REFERENCE, "stdio"], era, CALLS_PLAN, env=witness.env)
    else:
        with running([*REFERENCE, "http"], tmp_path / "log", env=witness.env) as server:
            path = "/sse" if transport == "sse" else "/mcp"
            report = drive_node(node, client, transport, server.url + path, era, CALLS_PLAN)
    check_calls(report, modern=era == "auto")
    assert witness.count("end cancel") == 0
