"""Every client of `WAYS` does what the table in `docs/clients.md` says, over both servers and over stdio.

Each driver connects, lists, calls (a structured result, progress, an error, a cancelled call) and lists again. What the
cancelled call really did is read in the journal, while the client is still connected: leaving would end the call, too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.e2e import installing
from tests.e2e.clients import WAYS, Way, drive, table
from tests.e2e.plans import CALLS, CALLS_PLAN, check_calls
from tests.e2e.witness import Witness
from tests.rigs.server import ROOT, ServerProcess, tailrace_command

Needs = Callable[[str, str], NoReturn]
Servers = Callable[[str], ServerProcess]
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]  # the first to need a part sets it up
OVER_HTTP = [way for way in WAYS if way.transport != "stdio"]
OVER_STDIO = [way for way in WAYS if way.transport == "stdio"]
OVER_UVICORN = [way for way in OVER_HTTP if way.client not in ("python2", "typescript1", "typescript2")]
ON_REFERENCE = [way for way in OVER_HTTP if way.client in ("python1", "mcpgo") and way.era == "legacy"]
REFERENCE = [sys.executable, str(ROOT / "tests" / "rigs" / "reference.py")]
STDIO = [sys.executable, "-m", "tailrace", "run", str(CALLS), "--stdio"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Witness:
    """One journal for all servers of this file; keys tell the calls apart."""
    return Witness(tmp_path_factory.mktemp("witness"))


@pytest.fixture(scope="module")
def servers(shared: Witness, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Servers that are started at the first use and serve all tests of this file."""
    folder = tmp_path_factory.mktemp("servers")
    running: dict[str, ServerProcess] = {}

    def get(kind: str) -> ServerProcess:
        if kind not in running:
            command = [*REFERENCE, "http"] if kind == "reference" else tailrace_command(CALLS, "--server", kind)
            running[kind] = ServerProcess(command, folder / kind, env=shared.env)
            running[kind].wait_ready()
        return running[kind]

    yield get
    for server in running.values():
        server.close()


async def put_through(
    way: Way, target: str | list[str], key: str, witness: Witness, folder: Path, needs: Needs
) -> dict[str, Any]:
    """The whole plan; when the client is done, and still connected, what became of the cancelled call."""

    async def leaving() -> None:
        if way.cancels == "untold":
            witness.open(key)
        await witness.sees(f"start {key}", f"end {key}" if way.cancels == "untold" else f"cancelled {key}")

    plan = {**CALLS_PLAN, "cancel": {"name": "gate", "arguments": {"key": key, "say": True}}}
    at = {"leaving": leaving} if way.cancels is not None else {}
    try:
        return await drive(way, target, plan, folder, env=witness.env, at=at)
    except installing.Missing as missing:
        needs(*missing.args)


def check(report: dict[str, Any], way: Way) -> None:
    check_calls(report, modern=way.modern, lacks=way.lacks)
    assert report.get("protocol") == way.protocol, f"negotiated {report.get('protocol')}"
    assert report.get("closing") is None, f"on closing: {report['closing']}"


@pytest.mark.parametrize("way", OVER_HTTP, ids=str)
async def test_client_does_its_plan_over_the_listener(
    way: Way, servers: Servers, shared: Witness, tmp_path: Path, needs: Needs
) -> None:
    await does_its_plan(way, "listener", servers, shared, tmp_path, needs)


@pytest.mark.parametrize("way", OVER_UVICORN, ids=str)  # test_official_python.py and test_typescript.py have the others
async def test_client_does_its_plan_over_uvicorn(
    way: Way, servers: Servers, shared: Witness, tmp_path: Path, needs: Needs
) -> None:
    await does_its_plan(way, "uvicorn", servers, shared, tmp_path, needs)


async def does_its_plan(way: Way, kind: str, servers: Servers, shared: Witness, tmp_path: Path, needs: Needs) -> None:
    server = servers(kind)
    before = len(server.records())
    check(await put_through(way, server.url, f"{way}-{kind}", shared, tmp_path, needs), way)
    assert server.records()[before:] == [], server.stderr_tail()


@pytest.mark.parametrize("way", OVER_STDIO, ids=str)
async def test_client_does_its_plan_over_stdio(way: Way, shared: Witness, tmp_path: Path, needs: Needs) -> None:
    check(await put_through(way, STDIO, str(way), shared, tmp_path, needs), way)


async def test_python_1_over_stdio_breaks_when_it_leaves_a_running_call(
    shared: Witness, tmp_path: Path, needs: Needs
) -> None:
    """A fault of that client: its reader does not expect the answer that says the call was cancelled."""
    way = next(way for way in OVER_STDIO if way.client == "python1")
    plan = {**CALLS_PLAN, "cancel": {"name": "gate", "arguments": {"key": "left", "say": True}}}
    try:
        report = await drive(way, STDIO, plan, tmp_path, env=shared.env)
    except installing.Missing as missing:
        needs(*missing.args)
    check_calls(report, modern=False)
    assert str(report["closing"]).startswith("BrokenResourceError"), report["closing"]
    await shared.sees("cancelled left")


@pytest.mark.parametrize("way", ON_REFERENCE, ids=str)
async def test_driver_is_right_on_the_reference_server(
    way: Way, servers: Servers, shared: Witness, tmp_path: Path, needs: Needs
) -> None:
    """Where a driver passes here, a failure elsewhere is not the driver's."""
    report = await put_through(way, servers("reference").url, f"{way}-reference", shared, tmp_path, needs)
    check_calls(report, modern=way.modern, lacks=way.lacks)


def test_the_documented_table_is_what_the_tests_hold() -> None:
    page = (ROOT / "docs" / "clients.md").read_text()
    begin = "| client | version | transport |"
    documented = (begin + page.partition(begin)[2]).split("\n\n")[0].splitlines()[2:]
    rows = list(table())
    assert documented == rows, "the table in docs/clients.md must be:\n" + "\n".join(rows)
