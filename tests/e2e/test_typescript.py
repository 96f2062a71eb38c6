"""The official TypeScript clients, 1.x and 2.x, drive real services: run by us, or mounted in FastAPI."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.e2e.node_client import drive_node
from tests.e2e.plans import CALLS, CALLS_PLAN, WORKSPACE, WORKSPACE_PLAN, check_calls, check_workspace
from tests.e2e.witness import Witness
from tests.rigs.server import ROOT, UVICORN_READY, running, tailrace_command

pytestmark = pytest.mark.e2e
HTTP_WAYS = pytest.mark.parametrize(
    ("client", "transport", "era"),
    [
        ("sdk", "streamable", "legacy"),
        ("sdk", "sse", "legacy"),
        ("client", "streamable", "legacy"),
        ("client", "streamable", "auto"),
        ("client", "sse", "legacy"),
    ],
)
STDIO_WAYS = pytest.mark.parametrize(("client", "era"), [("sdk", "legacy"), ("client", "legacy"), ("client", "auto")])
PATHS = {"streamable": "/mcp", "sse": "/sse"}


@HTTP_WAYS
def test_drives_the_workspace_of_tailrace_run(
    client: str, transport: str, era: str, node: Path, workspace: Path, tmp_path: Path
) -> None:
    env = {"WORKSPACE_ROOT": str(workspace)}
    with running(tailrace_command(WORKSPACE), tmp_path / "log", env=env) as server:
        report = drive_node(node, client, transport, server.url + PATHS[transport], era, WORKSPACE_PLAN)
        check_workspace(report, modern=era == "auto")
        assert server.records() == [], server.stderr_tail()


@HTTP_WAYS
async def test_cancels_a_call_for_real(
    client: str, transport: str, era: str, node: Path, witness: Witness, tmp_path: Path
) -> None:
    with running(tailrace_command(CALLS), tmp_path / "log", env=witness.env) as server:
        report = drive_node(node, client, transport, server.url + PATHS[transport], era, CALLS_PLAN)
        check_calls(report, modern=era == "auto")
        await witness.sees("start cancel", "cancelled cancel")
        assert server.records() == [], server.stderr_tail()


@HTTP_WAYS
def test_drives_the_workspace_mounted_in_fastapi(
    client: str, transport: str, era: str, node: Path, workspace: Path, tmp_path: Path
) -> None:
    env = {"WORKSPACE_ROOT": str(workspace), "TAILRACE_E2E_TARGET": str(WORKSPACE)}
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(ROOT / "tests" / "e2e"), "fastapi_app:app"]
    command += ["--host", "127.0.0.1", "--port", "0"]
    with running(command, tmp_path / "log", env=env, ready=UVICORN_READY) as server:
        report = drive_node(node, client, transport, f"{server.url}/ai{PATHS[transport]}", era, WORKSPACE_PLAN)
        check_workspace(report, modern=era == "auto")
        assert server.records() == [], server.stderr_tail()


@STDIO_WAYS
def test_drives_the_workspace_over_stdio(client: str, era: str, node: Path, workspace: Path) -> None:
    command = [sys.executable, "-m", "tailrace", "run", str(WORKSPACE), "--stdio"]
    env = {"WORKSPACE_ROOT": str(workspace)}
    report = drive_node(node, client, "stdio", command, era, WORKSPACE_PLAN, env=env)
    check_workspace(report, modern=era == "auto")


@STDIO_WAYS
async def test_cancels_a_call_for_real_over_stdio(client: str, era: str, node: Path, witness: Witness) -> None:
    command = [sys.executable, "-m", "tailrace", "run", str(CALLS), "--stdio"]
    report = drive_node(node, client, "stdio", command, era, CALLS_PLAN, env=witness.env)
    check_calls(report, modern=era == "auto")
    await witness.sees("start cancel", "cancelled cancel")
