"""A server that is asked to end: whoever was promised an answer gets it, and the process ends, in time."""

from __future__ import annotations

import asyncio
import contextlib

from tailrace.cli.check.lab import Lab, together
from tailrace.cli.check.model import Failed, NotApplicable, Stalled, Way, trial
from tailrace.cli.check.pipes import Stdio
from tailrace.cli.check.process import Process, clean_end
from tailrace.cli.check.shared_stream import HttpSse
from tailrace.cli.check.streamable import Modern, Streamable
from tailrace.cli.check.talk import Call, Conversation, Running
from tailrace.cli.check.trials.flow import unread

__all__ = ["TRIALS"]

_CLIENTS = 4
_CALLS = 5  # of each, in flight
_WORK = 1.5  # seconds each takes
_SOON = 5.0  # seconds in which an idle stdio server must see the end of its input
_ORDERLY = "stdio, Shutdown: close the input, wait, SIGTERM, SIGKILL. Over HTTP the specification is silent: judged by "


@trial(
    "sigterm-idle", "An idle server ends soon after SIGTERM.", f"{_ORDERLY}what supervisors ask for",
    Way.STREAMABLE, Way.MODERN, Way.STDIO, process=True, ends=True,
)  # fmt: skip
async def sigterm_idle(lab: Lab) -> str:
    client = await lab.client()
    await lab.greet(client)
    return await _ended(lab, _process(lab, client))


@trial(
    "sigterm-busy", "Calls in flight at SIGTERM are answered, or their answers are kept for the next process.",
    f"{_ORDERLY}loss: a call that was accepted is answered", *Way, needs=("slow",), process=True, ends=True,
)  # fmt: skip
async def sigterm_busy(lab: Lab) -> str:
    clients = [await lab.client() for _ in range(1 if lab.way is Way.STDIO else _CLIENTS)]
    started = await together(lab.working(client, _WORK) for client in clients for _ in range(_CALLS))
    runs = [(clients[number // _CALLS], running) for number, (running, _) in enumerate(started)]
    process = _process(lab, clients[0])
    process.terminate()
    await together(client.finish(running, lab.options.exit_within) for client, running in runs)
    missing = [(client, running) for client, running in runs if not _answered(running)]
    answered, why = len(runs) - len(missing), missing[0][1].how if missing else ""
    said = await _ended(lab, process, f"{answered} of {len(runs)} calls in flight answered")
    kept = await _kept(lab, missing) if missing and lab.way in (Way.STREAMABLE, Way.SSE) else 0
    if kept:
        said += f"; {kept} more were kept, and had from the next process"
    if kept < len(missing):
        raise Failed(f"{said}; {len(missing) - kept} are lost ({why or 'answered with an error'})")
    return said


@trial(
    "sigterm-listening", "An open listening stream does not keep the server from ending.",
    "2026-07-28 subscriptions/listen: the server SHOULD send its result when it ends the stream; else silent: "
    "judged by whether the process ends",
    Way.STREAMABLE, Way.SSE, Way.MODERN, process=True, ends=True,
)  # fmt: skip
async def sigterm_listening(lab: Lab) -> str:
    client = await lab.client()
    listening = await _listen(lab, client)
    said = await _ended(lab, lab.process)
    with contextlib.suppress(Failed):
        await client.finish(listening, 1.0)
    if listening.answer is not None:
        return f"{said}; the stream ended with its result"
    orderly = "the stream ended" in listening.how or "without an answer" in listening.how
    return f"{said}; its stream {'ended in order' if orderly else 'broke off'}"


@trial(
    "sigterm-unread", "A client that does not read does not keep the server from ending.", f"{_ORDERLY}whether it ends",
    *Way, needs=("burst",), process=True, ends=True,
)  # fmt: skip
async def sigterm_unread(lab: Lab) -> str:
    client, _ = await unread(lab)
    return await _ended(lab, _process(lab, client))


@trial(
    "stdin-eof", "A stdio server ends when its input ends, and answers what it can.",
    "2026-07-28 stdio: the server SHOULD exit promptly when its input is closed. Calls that take no longer than"
    " that are judged by loss",
    Way.STDIO, ends=True,
)  # fmt: skip
async def stdin_eof(lab: Lab) -> str:
    client = await lab.stdio()
    running = await lab.sent(client, lab.call("slow", seconds=0.5)) if lab.has("slow") else None
    await asyncio.sleep(0.1)
    client.end_input()
    said = ""
    if running is not None:
        await client.finish(running, _SOON)
        said = "a call in flight was answered; " if running.answer is not None else "a call in flight was dropped; "
    code = await client.process.wait(_SOON)
    if code is None:
        raise Failed(f"{said}it still ran {_SOON:g} s after the end of its input")
    if running is not None and not _answered(running):
        raise Failed(f"a call of half a second in flight at the end of the input was lost: {running.how or 'an error'}")
    return f"{said}it ended with {code}"


TRIALS = (stdin_eof, sigterm_idle, sigterm_listening, sigterm_busy, sigterm_unread)


# --- pieces -----------------------------------------------------------------------------------------


def _process(lab: Lab, client: Conversation) -> Process:
    return client.process if isinstance(client, Stdio) else lab.process


async def _ended(lab: Lab, process: Process, said: str = "") -> str:
    """Send SIGTERM (a second one, to a server that drains, would force it) and wait; says how long it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    if not said:
        process.terminate()
    code = await process.wait(lab.options.exit_within)
    said = f"{said}; " if said else ""
    if code is None:
        raise Failed(f"{said}it still ran {lab.options.exit_within:g} s after SIGTERM")
    if not clean_end(code):
        raise Failed(f"{said}it ended with {code}")
    return f"{said}it ended with {code} after {loop.time() - began:.1f} s"


def _answered(running: Running) -> bool:
    return running.answer is not None and "result" in running.answer and not running.answer["result"].get("isError")


async def _kept(lab: Lab, missing: list[tuple[Conversation, Running]]) -> int:
    """How many of the answers that were missed the next process gives."""
    await lab.target.start()
    resumed: set[int] = set()
    kept = 0
    for client, running in missing:
        try:
            if isinstance(client, Streamable):
                await client.resume(running)
            elif isinstance(client, HttpSse) and id(client) not in resumed:
                resumed.add(id(client))
                await client.resume()
            running.answer = None
            await client.finish(running, lab.options.answer_within)
        except Failed:
            continue
        kept += _answered(running)
    return kept


async def _listen(lab: Lab, client: Conversation) -> Running:
    """An open stream on which the server may speak first."""
    if isinstance(client, HttpSse):
        return client.expect(Call("GET", {}, "listen"))
    if isinstance(client, Streamable):
        try:
            opened = await client.get(limit=2.0)
        except Stalled:
            raise NotApplicable("its GET is not answered before there is something to say") from None
        assert opened.head is not None
        if opened.head.status != 200:
            raise NotApplicable(f"it has no stream to listen on (GET: HTTP {opened.head.status}, which it MAY)")
        return opened
    assert isinstance(client, Modern)
    running = await client.listen()
    try:
        event = await client.event(running, lab.options.answer_within)
    except Stalled:
        raise Failed("subscriptions/listen was not acknowledged") from None
    if event is None:
        await client.finish(running, 2.0)
        raise NotApplicable("it has no subscriptions/listen")
    return running
