"""What may be asked for at any worker, as often as one likes: calls with a key, which are cut off and made again, and
tasks, which are polled."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

from tests.rigs.rawhttp import RawConnection
from tests.rigs.rawmcp import Reply, Streamable, call, modern_headers, modern_meta, request, send
from tests.soak.lanes import BROKEN
from tests.soak.workers.crowd import ATTEMPT, AWAY, Crowd, insist, plain, shown

LENGTHS = (0.0, 1.0, 20.0, 80.0, 400.0)  # milliseconds
CUTS = 3  # of one key
_KNOWS = {"io.modelcontextprotocol/clientCapabilities": {"extensions": {"io.modelcontextprotocol/tasks": {}}}}


async def keyed(crowd: Crowd, sessions: list[Streamable]) -> None:
    """A call with a key: cut off a few times, made again with each version at a worker by chance, until it is answered.

    It is owed from its first attempt on, whether or not that arrived.
    """
    key = crowd.key("k")
    arguments = {"key": key, "ms": crowd.random.choice(LENGTHS)}
    crowd.diary.sent(key, "keys")
    crowd.accepted(key)
    for number in range(crowd.random.randrange(CUTS + 1)):
        with contextlib.suppress(*BROKEN, TimeoutError):
            async with asyncio.timeout(ATTEMPT):
                connection = await _send(crowd, sessions, f"{key}.{number}", arguments)
                await asyncio.sleep(crowd.random.random() * 0.05)
                connection.abort()
                crowd.seen["cuts"] += 1

    async def ask() -> Any:
        id = f"{key}.{crowd.random.random()}"
        connection = await _send(crowd, sessions, id, arguments)
        try:
            reply = Reply(connection, await connection.read_head())
            if reply.head.status in AWAY:
                crowd.seen["turned away"] += 1
                return None
            return _unless_away(crowd, await reply.answer(id))
        except AssertionError as error:
            if "without the answer" not in str(error):  # else its stream broke off
                raise
            return None
        finally:
            connection.close()

    answer = await insist(ask, f"the key {key}")
    assert "result" in answer, f"the key {key} was refused: {shown(answer)}"
    crowd.diary.delivered(key, plain(answer["result"]))


async def _send(crowd: Crowd, sessions: list[Streamable], id: str, arguments: dict[str, Any]) -> RawConnection:
    """In the era that chance has."""
    if crowd.random.random() < 0.5:
        return await crowd.random.choice(sessions).post_unanswered(call(id, "pay", arguments))
    return await _modern(crowd, id, "tools/call", "pay", name="pay", arguments=arguments)


async def _modern(crowd: Crowd, id: str, method: str, about: str, **params: Any) -> RawConnection:
    message = request(id, method, {**params, "_meta": {**modern_meta(), **_KNOWS}})
    return await send(crowd.url + "/mcp", "POST", modern_headers(method, about), json.dumps(message).encode())


async def task(crowd: Crowd) -> None:
    """A task of 2026-07-28; one in two has a key, and is made again where its id did not arrive. Polled anywhere."""
    key, tool = crowd.key("t"), crowd.random.choice(("bake", "bake_once"))
    arguments = {"key": key, "ms": crowd.random.choice(LENGTHS)}
    crowd.diary.sent(key, "tasks")

    async def make() -> Any:
        return await _ask(crowd, key, "tools/call", tool, name=tool, arguments=arguments)

    if tool == "bake_once":
        made = await insist(make, f"the task {key}")
    else:  # without a key, who does not know its id does not know whether there is one
        try:
            async with asyncio.timeout(ATTEMPT):
                made = await make()
        except (*BROKEN, TimeoutError):
            return
        if made is None:
            return
    crowd.accepted(key)
    while made.get("resultType") == "task" or made.get("status") == "working":
        await asyncio.sleep(crowd.random.random() * 0.1)
        id = made["taskId"]

        async def look(id: str = id) -> Any:
            return await _ask(crowd, key, "tasks/get", id, taskId=id)

        crowd.seen["polls"] += 1
        made = (await insist(look, f"the task {key}")) | {"taskId": id, "resultType": ""}
    crowd.diary.delivered(key, plain(made.get("result", made)))


async def _ask(crowd: Crowd, id: str, method: str, about: str, **params: Any) -> Any:
    """One request; its result, or None where it was turned away."""
    connection = await _modern(crowd, id, method, about, **params)
    try:
        reply = Reply(connection, await connection.read_head())
        if reply.head.status in AWAY:
            crowd.seen["turned away"] += 1
            return None
        answer = _unless_away(crowd, await reply.answer(id))
    finally:
        connection.close()
    if answer is None:
        return None
    assert "result" in answer, f"{method} {about} of {id} was refused: {shown(answer)}"
    return answer["result"]


def _unless_away(crowd: Crowd, answer: dict[str, Any]) -> dict[str, Any] | None:
    """None for the answer of a worker that does not reach Valkey: nothing has begun, and it may be asked again."""
    if (answer.get("error", {}).get("data") or {}).get("retry") is not True:
        return answer
    crowd.seen["turned away"] += 1
    return None
