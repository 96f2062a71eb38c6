"""The official Python client drives real services: every transport, both eras, run by us or mounted in FastAPI."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.e2e.plans import CALLS, CALLS_PLAN, WORKSPACE, WORKSPACE_PLAN, check_calls, check_workspace
from tests.e2e.python_client import Era, Transport, drive
from tests.e2e.witness import Witness
from tests.rigs.server import ROOT, UVICORN_READY, running_async, tailrace_command

pytestmark = [pytest.mark.e2e, pytest.mark.parametrize("served_by", ["listener", "uvicorn"], indirect=True)]
HTTP_WAYS = pytest.mark.parametrize(
    ("transport", "era"),
    [("streamable", "legacy"), ("streamable", "auto"), ("sse", "legacy"), ("sse", "auto")],
)
PATHS = {"streamable": "/mcp", "sse": "/sse"}


def is_modern(transport: Transport, era: Era) -> bool:
    return era == "auto" and transport != "sse"  # HTTP+SSE is legacy, whatever is asked for


@HTTP_WAYS
async def test_drives_the_workspace_of_tailrace_run(
    transport: Transport, era: Era, workspace: Path, tmp_path: Path
) -> None:
    env = {"WORKSPACE_ROOT": str(workspace)}
    async with running_async(tailrace_command(WORKSPACE), tmp_path / "log", env=env) as server:
        report = await drive(transport, server.url + PATHS[transport], era, WORKSPACE_PLAN)
        check_workspace(report, modern=is_modern(transport, era))
        assert server.records() == [], server.stderr_tail()


@HTTP_WAYS
async def test_cancels_a_call_for_real(transport: Transport, era: Era, witness: Witness, tmp_path: Path) -> None:
    async with running_async(tailrace_command(CALLS), tmp_path / "log", env=witness.env) as server:
        report = await drive(transport, server.url + PATHS[transport], era, CALLS_PLAN)
        check_calls(report, modern=is_modern(transport, era))
        await witness.sees("start cancel", "cancelled cancel")
        assert server.records() == [], server.stderr_tail()


@HTTP_WAYS
async def test_drives_the_workspace_mounted_in_fastapi(
    transport: Transport, era: Era, workspace: Path, tmp_path: Path
) -> None:
    env = {"WORKSPACE_ROOT": str(workspace), "TAILRACE_E2E_TARGET": str(WORKSPACE)}
    async with running_async(FASTAPI, tmp_path / "log", env=env, ready=UVICORN_READY) as server:
        report = await drive(transport, f"{server.url}/ai{PATHS[transport]}", era, WORKSPACE_PLAN)
        check_workspace(report, modern=is_modern(transport, era))
        assert server.records() == [], server.stderr_tail()


@pytest.mark.parametrize("era", ["legacy", "auto"])
async def test_drives_the_workspace_over_stdio(era: Era, workspace: Path) -> None:
    command = [sys.executable, "-m", "tailrace", "run", str(WORKSPACE), "--stdio"]
    report = await drive("stdio", command, era, WORKSPACE_PLAN, env={"WORKSPACE_ROOT": str(workspace)})
    check_workspace(report, modern=era == "auto")


@pytest.mark.parametrize("era", ["legacy", "auto"])
async def test_cancels_a_call_for_real_over_stdio(era: Era, witness: Witness) -> None:
    command = [sys.executable, "-m", "tailrace", "run", str(CALLS), "--stdio"]
    report = await drive("stdio", command, era, CALLS_PLAN, env=witness.env)
    check_calls(report, modern=era == "auto")
    await witness.sees("start cancel", "cancelled cancel")


FASTAPI = [
    *(sys.executable, "-m", "uvicorn", "--app-dir", str(ROOT / "tests" / "e2e"), "fastapi_app:app"),
    *("--host", "127.0.0.1", "--port", "0"),
]
