"""What every Python driver does with its client: the steps of a plan, in order, and one JSON report on stdout.

A driver is `python DRIVER OPTIONS`, with OPTIONS as JSON: `transport` (`streamable`, `sse` or `stdio`), `target` (the
URL, or the command as a list), `env` (of a stdio server), `era` (`legacy` or `auto`), `patience` and `plan`. A plan has
the steps `structured`, `progress`, `error` and `cancel`, or only `cut`, each `{"name": TOOL, "arguments": {...}}`.

The last line on stdout is the report, or `{"failed": TEXT}`. Before it come `{"at": "cut"}` when the first progress of
that step has arrived, and `{"at": "leaving"}` when all is done and the client still connected: it closes once there is
a line on stdin, or its end. What goes wrong then is in the report as `closing`. A driver judges nothing.

Only the standard library and anyio are imported here: each driver brings a client library of its own.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import anyio

LIMIT = 110.0  # seconds for all of it

OnProgress = Callable[[float, "float | None", "str | None"], Awaitable[None]]


@dataclass(frozen=True)
class Options:
    """What the command line asked for."""

    transport: str
    target: Any
    env: Mapping[str, str]
    era: str
    plan: Mapping[str, Mapping[str, Any]]
    client: str = ""  # for drivers that have several
    patience: float = 5.0  # seconds for the answer of a call whose stream was cut, and for the list after it


@dataclass(frozen=True)
class Answer:
    """A tool's result."""

    is_error: bool
    content: Any
    text: str


class Connected(Protocol):
    """A client that is connected, as a driver wraps it."""

    protocol: str | None
    server: str | None

    async def list(self) -> list[dict[str, Any]]:
        """All tools: `name`, `input` and `output`."""
        ...

    async def call(self, name: str, arguments: dict[str, Any], on_progress: OnProgress | None = None) -> Answer:
        """Call a tool."""
        ...


def main(connect: Callable[[Options], AbstractAsyncContextManager[Connected]]) -> None:
    """Do what the command line asks for, with this client."""
    options = Options(**json.loads(sys.argv[1]))

    report: dict[str, Any] = {}

    async def run() -> None:
        with anyio.fail_after(LIMIT):
            async with connect(options) as client:
                report.update(await follow(client, options.plan, options.patience), closing=None)
                say({"at": "leaving"})
                await anyio.to_thread.run_sync(sys.stdin.readline)

    try:
        anyio.run(run)
    except BaseException as error:
        if not report:
            say({"failed": traceback.format_exc()[-4000:]})
            raise SystemExit(1) from None
        report["closing"] = told(error)
    say(report)


def say(what: Any) -> None:
    """One line for whoever started the driver."""
    print(json.dumps(what), flush=True)


async def follow(client: Connected, plan: Mapping[str, Mapping[str, Any]], patience: float) -> dict[str, Any]:
    """List, do the steps, list again."""
    report: dict[str, Any] = {"protocol": client.protocol, "server": client.server, "tools": await client.list()}
    for name, step in plan.items():
        if name == "cut":
            report["cut"] = await cut(client, step, patience)
            return report
        report["cancelled" if name == "cancel" else name] = await STEPS[name](client, step)
    report["after"] = await client.list()
    return report


async def structured(client: Connected, step: Mapping[str, Any]) -> dict[str, Any]:
    answer = await client.call(step["name"], step["arguments"])
    return {"isError": answer.is_error, "content": answer.content, "text": answer.text}


async def progress(client: Connected, step: Mapping[str, Any]) -> dict[str, Any]:
    seen: list[list[Any]] = []

    async def on_progress(done: float, total: float | None, message: str | None) -> None:
        seen.append([done, total, message])

    answer = await client.call(step["name"], step["arguments"], on_progress)
    return {"seen": seen, "isError": answer.is_error}


async def error(client: Connected, step: Mapping[str, Any]) -> dict[str, Any]:
    answer = await client.call(step["name"], step["arguments"])
    return {"isError": answer.is_error, "text": answer.text}


async def cancel(client: Connected, step: Mapping[str, Any]) -> bool:
    """Cancel the call at its first progress: it runs for sure then. True when no answer came."""
    answered = False
    with anyio.CancelScope() as scope:

        async def on_progress(done: float, total: float | None, message: str | None) -> None:
            scope.cancel()

        await client.call(step["name"], step["arguments"], on_progress)
        answered = True
    return not answered


async def cut(client: Connected, step: Mapping[str, Any], patience: float) -> dict[str, Any]:
    """Call, say so at the first progress, see what becomes of it; then list: is the client still good for anything?"""
    report: dict[str, Any] = {"seen": [], "text": None, "problem": None, "later": None}

    async def on_progress(done: float, total: float | None, message: str | None) -> None:
        report["seen"].append([done, total, message])
        if len(report["seen"]) == 1:
            say({"at": "cut"})

    try:
        with anyio.fail_after(patience):
            report["text"] = (await client.call(step["name"], step["arguments"], on_progress)).text
    except Exception as error:
        report["problem"] = told(error)
    try:
        with anyio.fail_after(patience):
            report["later"] = len(await client.list())
    except Exception as error:
        report["later"] = told(error)
    return report


def told(error: BaseException) -> str:
    """An exception in one line; of a group, the first one in it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return "no answer" if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"


STEPS: dict[str, Callable[[Connected, Mapping[str, Any]], Awaitable[Any]]] = {
    "structured": structured,
    "progress": progress,
    "error": error,
    "cancel": cancel,
}
