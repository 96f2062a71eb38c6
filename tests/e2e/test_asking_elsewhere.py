"""One handler asks in both eras, and the legs of a modern call land on processes that live at the same time.

Each leg is posted by hand, over a connection of its own: the test says, or sees, which process it reaches.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client as OfficialClient

from tests.e2e.test_asking import ASKING, CALLBACKS, LIMIT, effects, text_of
from tests.rigs import rawmcp
from tests.rigs.server import ServerProcess, running_async, tailrace_command
from tests.rigs.valkey import Valkey

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

ANSWERS: dict[str, Any] = {
    "who": {"action": "accept", "content": {"value": "ann"}},
    "sure": {"action": "accept", "content": {"value": True}},
    "praise": {"role": "assistant", "content": {"type": "text", "text": "hurrah"}, "model": "parrot"},
}
ABLE = {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {}, "sampling": {}}}


@asynccontextmanager
async def process(
    tmp_path: Path, name: str, *flags: str, store: str = "memory", secret: str | None = None
) -> AsyncIterator[ServerProcess]:
    env = {"ASKING_EFFECTS": str(tmp_path / "effects")}
    if secret is not None:
        env["TAILRACE_SECRET"] = secret
    command = tailrace_command(ASKING, *flags, store=store)
    async with running_async(command, tmp_path / name, env=env, start_limit=60.0) as server:
        yield server
        assert server.records() == [], server.stderr_tail()


async def leg(url: str, name: str, before: dict[str, Any] | None = None) -> dict[str, Any]:
    """One leg of a call, with the answers to the questions of the one before; its result or error."""
    message = rawmcp.modern_call(1, name, {"item": "tea"})
    message["params"]["_meta"].update(ABLE)
    if before is not None:
        message["params"]["requestState"] = before["requestState"]
        message["params"]["inputResponses"] = {key: ANSWERS[key] for key in before["inputRequests"]}
    reply = await rawmcp.modern_post(url, message)
    answer = await reply.answer(1)
    reply.close()
    return answer.get("result") or answer["error"]


async def legs(urls: list[str], name: str) -> str:
    """All legs of a call, to one server after the other; the text at its end."""
    result = await leg(urls[0], name)
    for url in urls[1:]:
        assert result.get("resultType") == "input_required", result
        result = await leg(url, name, result)
    assert result.get("resultType") == "complete", result
    return "".join(block["text"] for block in result["content"])


async def test_the_legs_of_a_call_go_from_process_to_process_that_share_a_secret(tmp_path: Path) -> None:
    secret = "one-secret-of-both-processes"
    async with process(tmp_path, "a", secret=secret) as a, process(tmp_path, "b", secret=secret) as b:
        assert await legs([a.url, b.url, a.url], "gift") == "ann: hurrah"
        assert await legs([b.url, a.url, b.url], "gift") == "ann: hurrah"
        begun = effects(tmp_path)
        assert len(set(begun)) == 2
        assert begun == [begun[0], begun[1], begun[0], begun[1], begun[0], begun[1]]
        # the very handler, for a client that has a session
        async with OfficialClient(a.url + "/mcp", mode="legacy", read_timeout_seconds=LIMIT, **CALLBACKS) as client:
            with anyio.fail_after(LIMIT):
                assert text_of(await client.call_tool("gift", {"item": "tea"})) == "ann: hurrah"


async def test_a_state_that_another_secret_sealed_is_refused(tmp_path: Path) -> None:
    async with process(tmp_path, "a") as a, process(tmp_path, "b") as b:
        asked = await leg(a.url, "gift")
        refused = await leg(b.url, "gift", asked)
        assert refused["code"] == -32602, refused
    assert len(effects(tmp_path)) == 1, "the handler ran for a state that nobody here has sealed"


async def test_over_one_valkey_any_process_takes_any_leg_and_each_effect_comes_once(tmp_path: Path) -> None:
    with Valkey() as valkey:
        async with (
            process(tmp_path, "a", store=valkey.url) as a,
            process(tmp_path, "b", store=valkey.url) as b,
        ):
            assert await legs([a.url, b.url, a.url], "gift") == "ann: hurrah"
            assert len(set(effects(tmp_path))) == 2
            (tmp_path / "effects").unlink()
            for first, second in ((a, b), (b, a)):
                result = await legs([first.url, second.url, first.url], "order")
                assert result == "reserve tea, ann, hurrah, send tea"
            assert effects(tmp_path) == ["reserve tea", "send tea"] * 2
            # the very handler, for a client that has a session
            async with OfficialClient(b.url + "/mcp", mode="legacy", read_timeout_seconds=LIMIT, **CALLBACKS) as client:
                with anyio.fail_after(LIMIT):
                    ordered = await client.call_tool("order", {"item": "tea"})
                assert text_of(ordered) == "reserve tea, ann, hurrah, send tea"
