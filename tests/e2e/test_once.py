"""Run-once, counted over real servers: runs from the file the tool appends to, answers at the clients (G1b)."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tailrace.errors import TransportError
from tailrace.mcp import Client, StdioCommand
from tests.e2e.witness import Witness
from tests.rigs.ports import free_port
from tests.rigs.rawmcp import exchange, request
from tests.rigs.server import ServerProcess, running_async, tailrace_command

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ONCE = Path(__file__).parent / "fixtures" / "once.py"
MANY = 50
HTTP: dict[str, dict[str, Any]] = {
    "sse": {"transport": "sse", "era": "legacy"},
    "legacy": {"transport": "streamable", "era": "legacy"},
    "modern": {"transport": "streamable", "era": "modern"},
}


def serve(tmp_path: Path, witness: Witness, *flags: str, port: int = 0) -> Any:
    command = tailrace_command(ONCE, *flags, port=port, store=f"sqlite:{tmp_path / 'store.db'}")
    return running_async(command, tmp_path / "log", env=witness.env)


def client(server: ServerProcess | str, way: str, **options: Any) -> Client:
    url = server if isinstance(server, str) else server.url
    path = "/sse" if way == "sse" else "/mcp"
    return Client(url + path, **HTTP[way], timeout=100.0, **options)


async def kill(server: ServerProcess) -> None:
    await asyncio.to_thread(server.kill)


async def pay(c: Client, what: str, key: str | None, tool: str = "pay") -> Any:
    return await c.call_tool(tool, {"what": what}, idempotency_key=key)


async def many(c: Client, what: str, key: str | None) -> list[Any]:
    return await asyncio.gather(*(pay(c, what, key) for _ in range(MANY)))


@asynccontextmanager
async def connected(way: str, tmp_path: Path, witness: Witness) -> AsyncIterator[Client]:
    if way == "stdio":
        flags = ["-m", "tailrace", "run", str(ONCE), "--stdio"]
        command = StdioCommand(command=sys.executable, args=flags, env=witness.env)
        async with Client(command, timeout=60.0) as c:
            yield c
        return
    async with serve(tmp_path, witness) as server, client(server, way) as c:
        yield c


@pytest.mark.parametrize("way", [*HTTP, "stdio"])
async def test_fifty_calls_with_one_key_are_one_run_and_fifty_equal_answers(
    way: str, tmp_path: Path, witness: Witness
) -> None:
    async with connected(way, tmp_path, witness) as c:
        calls = asyncio.ensure_future(many(c, "tea", "key"))
        await witness.sees("run tea")
        witness.open("tea")
        answers = await calls
        assert witness.count("run tea") == 1
        assert len({result.data for result in answers}) == 1
        assert not any(result.is_error for result in answers)
        late = await pay(c, "tea", "key")
        assert late.data == answers[0].data
        assert late.meta["io.tailrace/replayed"] is True


@pytest.mark.parametrize("way", [*HTTP, "stdio"])
async def test_fifty_calls_without_a_key_are_fifty_runs(way: str, tmp_path: Path, witness: Witness) -> None:
    witness.open("tea")
    async with connected(way, tmp_path, witness) as c:
        answers = await many(c, "tea", None)
        assert witness.count("run tea") == MANY
        assert len({result.data for result in answers}) == MANY


async def test_the_key_among_the_arguments_does_for_every_client(tmp_path: Path, witness: Witness) -> None:
    witness.open("tea")
    async with serve(tmp_path, witness) as server:
        found = set[str]()
        for way in HTTP:
            async with client(server, way) as c:
                found.add((await c.call_tool("order", {"what": "tea", "request_id": "r-1"})).data)
        assert len(found) == 1
        assert witness.count("run tea") == 1


@pytest.mark.parametrize("way", HTTP)
async def test_answers_are_replayed_after_kill_9(way: str, tmp_path: Path, witness: Witness) -> None:
    witness.open("tea")
    port = free_port()
    async with serve(tmp_path, witness, port=port) as server, client(server, way) as c:
        first = await many(c, "tea", "key")
        await kill(server)
    async with serve(tmp_path, witness, port=port) as server, client(server, way) as c:
        again = await many(c, "tea", "key")
        assert {result.data for result in [*first, *again]} == {first[0].data}
        assert all(result.meta["io.tailrace/replayed"] for result in again)
        assert witness.count("run tea") == 1
        assert server.records() == [], server.stderr_tail()


@pytest.mark.parametrize("way", HTTP)
async def test_a_kill_between_effect_and_commit_is_unknown_and_nothing_runs_again(
    way: str, tmp_path: Path, witness: Witness
) -> None:
    port = free_port()
    async with serve(tmp_path, witness, port=port) as server, client(server, way, reconnect=0) as c:
        calls = [asyncio.ensure_future(pay(c, "tea", "key")) for _ in range(MANY)]
        await witness.sees("run tea")
        await kill(server)
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(outcome, TransportError) for outcome in outcomes)
    witness.open("tea")
    async with serve(tmp_path, witness, port=port) as server, client(server, way) as c:
        for result in await many(c, "tea", "key"):
            assert result.is_error
            assert result.meta["io.tailrace/outcome"] == "unknown"
        assert witness.count("run tea") == 1
        assert server.records() == [], server.stderr_tail()


async def test_what_may_run_again_does_so_by_itself_and_once(tmp_path: Path, witness: Witness) -> None:
    port = free_port()
    async with serve(tmp_path, witness, port=port) as server, client(server, "modern", reconnect=0) as c:
        lost = asyncio.ensure_future(pay(c, "tea", "key", "fetch"))
        await witness.sees("run tea")
        await kill(server)
        with pytest.raises(TransportError):
            await lost
    witness.open("tea")
    async with serve(tmp_path, witness, port=port) as server:
        await witness.sees("end tea")  # nobody has asked again
        async with client(server, "modern") as c:
            result = await pay(c, "tea", "key", "fetch")
            assert result.data.startswith("tea by ")
        assert witness.count("run tea") == 2


@pytest.mark.parametrize("way", ["legacy", "modern"])
async def test_a_client_lives_through_a_restart_with_its_key(way: str, tmp_path: Path, witness: Witness) -> None:
    port = free_port()
    async with serve(tmp_path, witness, port=port) as server:
        c = client(server.url, way, reconnect=90.0)
        await c.__aenter__()
        call = asyncio.ensure_future(pay(c, "tea", "key", "fetch"))
        await witness.sees("run tea")
        await kill(server)
    witness.open("tea")
    async with serve(tmp_path, witness, port=port):
        result = await call
        assert result.data.startswith("tea by ")
        assert witness.count("run tea") == 2, "once before the kill, and once again"
        await c.aclose()


async def test_a_disconnect_over_modern_http_ends_nothing(tmp_path: Path, witness: Witness) -> None:
    async with serve(tmp_path, witness) as server, client(server, "modern") as c:
        call = asyncio.ensure_future(pay(c, "tea", "key"))
        await witness.sees("run tea")
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        witness.open("tea")
        await witness.sees("end tea")
        assert (await pay(c, "tea", "key")).data.startswith("tea by ")
        assert witness.count("run tea") == 1


async def test_keys_and_sessions_belong_to_who_showed_the_token(tmp_path: Path, witness: Witness) -> None:
    witness.open("tea")
    tokens = ("--auth-token", "ann-0123456789", "--auth-token", "bob-0123456789")
    async with serve(tmp_path, witness, *tokens) as server:
        ann, bob = ({"authorization": f"Bearer {name}-0123456789"} for name in ("ann", "bob"))
        answers = set[str]()
        for headers in (ann, bob, ann, bob):
            async with client(server, "modern", headers=headers) as c:
                answers.add((await pay(c, "tea", "key")).data)
        assert len(answers) == 2
        assert witness.count("run tea") == 2
        for headers in ({}, {"authorization": "Bearer eve-0123456789"}):
            with pytest.raises(TransportError, match="401"):
                async with client(server, "modern", headers=headers):
                    pass
        async with client(server, "legacy", headers=ann) as c:
            stolen = {**bob, "mcp-session-id": c.session_id or ""}
            status, _ = await _post(server.url + "/mcp", stolen)
            assert status == 404
        assert "0123456789" not in server.stderr()


async def _post(url: str, headers: dict[str, str]) -> tuple[int, str]:
    given = [*headers.items(), ("Content-Type", "application/json"), ("Accept", "application/json, text/event-stream")]
    reply = await exchange(url, "POST", given, json.dumps(request(1, "tools/list")).encode())
    return reply.head.status, await reply.text()
