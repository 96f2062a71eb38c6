"""kill -9, and the next process: what was promised before it still holds."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from tailrace.cli.check.model import Failed, Way, trial
from tailrace.cli.check.shared_stream import HttpSse, drop
from tailrace.cli.check.streamable import Streamable
from tailrace.cli.check.trials.disconnects import first_event_id

if TYPE_CHECKING:
    from tailrace.cli.check.lab import Lab

__all__ = ["TRIALS"]

_DONE = 0.6  # seconds of the call that ends before the kill
_LONG = 30.0  # of the one that does not
_LOSS = "Judged by loss: a server may keep all in memory, and then all that it accepted is lost"


@trial(
    "kill-session", "A session goes on in the next process after kill -9.", "2025-11-25 transports, Session "
    f"Management 4: with 404 the client MUST start anew, and what it had is gone. {_LOSS}", Way.STREAMABLE,
    process=True, ends=True,
)  # fmt: skip
async def kill_session(lab: Lab) -> str:
    client = await lab.streamable()
    await lab.greet(client)
    await _kill(lab)
    status = await client.post({"jsonrpc": "2.0", "id": "still", "method": "tools/list", "params": {}})
    if status != 200:
        raise Failed(f"the session was answered with HTTP {status}")
    await lab.greet(client)
    return "the same session id was served after the restart"


@trial(
    "kill-answers", "Calls accepted before kill -9 have an answer after it, and do not run twice.", f"{_LOSS}. An "
    "error that says so is an answer: the caller then knows", Way.STREAMABLE, Way.SSE, needs=("effect",), process=True,
    ends=True,
)  # fmt: skip
async def kill_answers(lab: Lab) -> str:
    client = await lab.client()
    assert isinstance(client, Streamable | HttpSse)
    done, done_key = await lab.working(client, _DONE)
    flying, flying_key = await lab.working(client, _LONG)
    if isinstance(client, Streamable):
        for running in (done, flying):
            if not await first_event_id(client, running):
                raise Failed("no event id came before the kill: there is nothing to come back with")
    drop(client, done)
    if not await lab.until(lambda: lab.witness.count("end", done_key) > 0, _DONE + lab.options.answer_within):
        raise Failed("a call was cancelled when its client's connection broke, before the kill")
    await asyncio.sleep(0.3)  # until its answer is where it is kept
    await _kill(lab)
    problems: list[str] = []
    if isinstance(client, HttpSse):
        problems += await _tried("the stream", client.resume())
    for what, running in (("the finished call", done), ("the call in flight", flying)):
        if isinstance(client, Streamable):
            problems += await _tried(what, client.resume(running))
        if not problems:
            await client.finish(running, lab.options.answer_within)
        if not problems and running.answer is None:
            problems.append(f"{what}: {running.how}")
    if problems:
        raise Failed("; ".join(problems))
    if "result" not in (done.answer or {}):
        raise Failed("the answer of a call that had finished became an error")
    if (ran := max(lab.witness.count("start", key) for key in (done_key, flying_key))) > 1:
        raise Failed(f"after the restart a call ran again: {ran} times")
    return "the finished call's answer was there; the one in flight was answered, and none ran twice"


TRIALS = (kill_session, kill_answers)


# --- pieces -----------------------------------------------------------------------------------------


async def _kill(lab: Lab) -> None:
    process = lab.process
    process.kill()
    if await process.wait(5.0) is None:
        raise Failed("it survived SIGKILL for 5 s")
    await lab.target.start()


async def _tried(what: str, resuming: Coroutine[Any, Any, None]) -> list[str]:
    try:
        await resuming
    except Failed as error:
        return [f"{what}: {error}"]
    return []
