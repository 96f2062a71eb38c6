"""Real clients at the workers, ours and the official one, each in both eras.

A plain call whose connection breaks before its answer was promised fails: its client says so, and it ran once at most.
One with a key, and a task, may not fail. Ours are connected for the whole run. The official client ends with all that
it has when the connection of one request breaks before its reply; it is made anew then, and its session ended.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, Literal

import httpx2
from mcp import Client as OfficialClient
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

from tailrace.mcp import Client
from tests.rigs.rawmcp import Streamable
from tests.soak.workers.crowd import Crowd, plain

CALLS = 8  # of each client in a round
LENGTHS = (0.0, 20.0, 120.0, 400.0)  # milliseconds
LIMIT = 80.0  # seconds for one call
SAFE = ("ours, with keys", "ours, tasks")  # these must not fail
DIED = "official clients that died"
Ask = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
Use = Callable[[], Awaitable[None]]


@contextlib.asynccontextmanager
async def clients(crowd: Crowd) -> AsyncIterator[list[Use]]:
    """The clients; each makes its calls of one round, one after the other."""
    url = crowd.url + "/mcp"
    async with (
        Client(url, era="legacy", timeout=LIMIT, reconnect=LIMIT) as legacy,
        Client(url, era="modern", timeout=LIMIT, reconnect=LIMIT) as modern,
    ):
        yield [
            partial(_use, crowd, "ours, legacy", partial(_ours, legacy, "work")),
            partial(_use, crowd, "ours, modern", partial(_ours, modern, "work")),
            partial(_use, crowd, "ours, with keys", partial(_ours, modern, "pay")),
            partial(_use, crowd, "ours, tasks", partial(_ours, modern, "bake_once")),
            partial(_use_official, crowd, "official, legacy", "legacy"),
            partial(_use_official, crowd, "official, modern", "auto"),
        ]


async def _use(crowd: Crowd, name: str, ask: Ask, calls: int = CALLS) -> None:
    for _ in range(calls):
        try:
            await _call(crowd, name, ask)
        except Exception:  # it is written down
            await asyncio.sleep(0.2)


async def _call(crowd: Crowd, name: str, ask: Ask) -> None:
    said = crowd.clients.setdefault(name, [])
    key = crowd.key("r")
    crowd.diary.sent(key, name)
    try:
        result = await ask(key, {"ms": crowd.random.choice(LENGTHS)})
    except asyncio.CancelledError:
        said.append(f"{key} the client died")
        raise
    except Exception as error:
        said.append(f"{key} {type(error).__name__}: {error}"[:400])
        raise
    said.append("")
    crowd.accepted(key)
    crowd.diary.delivered(key, plain(result))


# --- ours ---------------------------------------------------------------------------------------------


async def _ours(client: Client, tool: str, key: str, given: dict[str, Any]) -> dict[str, Any]:
    result = await client.call_tool(tool, {"key": key, **given}, idempotency_key=None if tool == "work" else key)
    return {"content": [{"text": result.text}], "isError": result.is_error, "_meta": result.meta}


# --- the official one -----------------------------------------------------------------------------------


async def _use_official(crowd: Crowd, name: str, mode: Literal["legacy", "auto"]) -> None:
    said = crowd.clients.setdefault(name, [])
    enough = len(said) + CALLS
    while len(said) < enough:
        try:
            async with _official(crowd, mode) as client:
                await _use(crowd, name, partial(_theirs, client), enough - len(said))
        except Exception:  # a group of them: it has died
            crowd.seen[DIED] += 1
            await asyncio.sleep(0.2)


@contextlib.asynccontextmanager
async def _official(crowd: Crowd, mode: Literal["legacy", "auto"]) -> AsyncIterator[OfficialClient]:
    begun, ended = Streamable(crowd.url), False

    async def remember(response: httpx2.Response) -> None:
        nonlocal ended
        begun.session_id = begun.session_id or response.headers.get("mcp-session-id")
        ended = ended or (response.request.method == "DELETE" and response.status_code in (200, 404))

    async with create_mcp_http_client() as http:
        http.event_hooks = {"response": [remember]}
        url = crowd.url + "/mcp"
        try:
            async with OfficialClient(streamable_http_client(url, http_client=http), mode=mode, cache=None) as client:
                yield client
        finally:  # it died, or was turned away when it took leave, which it does not try again
            if begun.session_id is not None and not ended:
                crowd.strays.append(begun)


async def _theirs(client: OfficialClient, key: str, given: dict[str, Any]) -> dict[str, Any]:
    async with asyncio.timeout(LIMIT):
        result = await client.call_tool("work", {"key": key, **given})
    return {"content": [{"text": str(result.structured_content)}], "isError": result.is_error, "_meta": result.meta}
