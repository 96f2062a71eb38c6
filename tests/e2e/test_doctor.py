"""`tailrace doctor --url` through a real reverse proxy, set badly on purpose in one way after the other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tailrace.cli import main
from tailrace.cli.doctor.findings import Finding, Level
from tailrace.cli.doctor.proxy import examine_proxy
from tests.e2e.behind import proxied
from tests.rigs.server import ROOT, ServerProcess, running, tailrace_command

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(480)]  # the first may build the Go program, and fetch nginx

TOKEN = "doctors-token"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """`tailrace run` with a token, and keep-alives of two a second; nothing that the doctor does is an error of it."""
    command = tailrace_command(ROOT / "examples/kitchen.py", "--auth-token", TOKEN, "--keep-alive", "0.5")
    with running(command, tmp_path_factory.mktemp("doctor") / "log") as process:
        yield process
        assert process.records() == [], process.stderr_tail()


@contextmanager
def behind(server: ServerProcess, folder: Path, *flags: str, kind: str = "go") -> Iterator[str]:
    with proxied(kind, server.url, folder, *flags) as url:
        yield url


async def look(url: str, seconds: float = 0.2, at_once: float = 20.0) -> dict[str, Finding]:
    """The findings by name; `at_once` is short only where nothing comes, and long for a busy machine."""
    found = await examine_proxy(url, token=TOKEN, seconds=seconds, at_once=at_once)
    return {finding.name: finding for finding in found}


def bad(found: dict[str, Finding]) -> dict[str, Level]:
    return {name: finding.level for name, finding in found.items() if finding.level is not Level.OK}


async def test_without_a_proxy_all_is_well(server: ServerProcess) -> None:
    found = await look(server.url, seconds=6)
    assert bad(found) == {}
    names = ["reach", "session", "buffering", "idle", "resume", "body", "authorization", "http+sse", "grpc"]
    assert list(found) == names


@pytest.mark.parametrize("kind", ["go", "nginx"])
async def test_a_plain_proxy_passes_all_but_grpc(server: ServerProcess, tmp_path: Path, kind: str) -> None:
    with behind(server, tmp_path, kind=kind) as url:
        found = await look(url, seconds=6)
    expected = {"grpc": Level.WARN} | ({"body": Level.WARN} if kind == "nginx" else {})  # nginx takes 1 MiB
    assert bad(found) == expected


async def test_a_proxy_that_holds_streams_back_is_a_risk(server: ServerProcess, tmp_path: Path) -> None:
    with behind(server, tmp_path, "-buffer") as url:
        found = await look(url, at_once=1.0)
    assert found["buffering"].level is Level.RISK
    assert "did not come within 1 s" in found["buffering"].saw
    assert found["http+sse"].level is Level.RISK
    assert "idle" not in found
    assert "resume" not in found


async def test_an_idle_limit_below_the_keep_alives_is_a_risk(tmp_path: Path) -> None:
    quiet = tailrace_command(ROOT / "examples/kitchen.py", "--auth-token", TOKEN, "--keep-alive", "600")
    with running(quiet, tmp_path / "log") as server, behind(server, tmp_path, "-idle", "2s") as url:
        found = await look(url, seconds=100)
    assert found["idle"].level is Level.RISK
    assert "before a keep-alive came" in found["idle"].saw


@pytest.mark.parametrize(
    ("flags", "name", "level"),
    [
        (["-strip", "Last-Event-ID"], "resume", Level.RISK),
        (["-drop", "Tailrace-Resume"], "resume", Level.RISK),
        (["-strip", "Mcp-Session-Id"], "session", Level.RISK),
        (["-drop", "Mcp-Session-Id"], "session", Level.RISK),
        (["-strip", "Authorization"], "reach", Level.RISK),
        (["-most", "1000000"], "body", Level.WARN),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
async def test_what_a_proxy_keeps_for_itself_is_named(
    server: ServerProcess, tmp_path: Path, flags: list[str], name: str, level: Level
) -> None:
    with behind(server, tmp_path, *flags) as url:
        found = await look(url)
    assert found[name].level is level
    assert found[name].advice
    assert set(bad(found)) <= {name, "grpc", "idle"}, "and nothing else is"  # idle: too short to see a keep-alive


def test_the_command_says_so_by_its_exit_code(server: ServerProcess, tmp_path: Path) -> None:
    def doctor(*words: str) -> tuple[int, list[dict[str, Any]]]:
        result = CliRunner().invoke(main, ["doctor", "--json", "--seconds", "0.2", *words])
        return result.exit_code, json.loads(result.stdout)["findings"] if result.exit_code < 2 else []

    assert doctor("--url", server.url, "--token", TOKEN)[0] == 0
    code, findings = doctor("--url", server.url)
    assert code == 1
    assert "--token" in findings[0]["advice"]
    assert doctor("--url", server.url, "--token", TOKEN, "--store", "memory")[0] == 1, "both are looked at"
    assert doctor("--url", "ftp://127.0.0.1")[0] == 2


async def test_a_session_that_cannot_be_ended_keeps_no_finding_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hangs(_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("tailrace.cli.doctor.proxy._Client.close", hangs)
    (finding,) = await examine_proxy("http://127.0.0.1:1", seconds=1, at_once=0.1)
    assert finding.name == "reach"


async def test_where_nobody_listens_nothing_more_is_tried(server: ServerProcess) -> None:
    (finding,) = await examine_proxy("http://127.0.0.1:1", seconds=1)
    assert (finding.name, finding.level) == ("reach", Level.RISK)
    (finding,) = await examine_proxy(f"{server.url}/nowhere/mcp", token=TOKEN, seconds=1)
    assert "HTTP 404" in finding.saw
