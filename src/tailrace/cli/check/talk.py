"""MCP spoken by hand: messages, calls, and the few verbs that every way of speaking has, so that a trial is told once.

No client here retries, reconnects, resumes or cancels by itself. What a server says is kept as it came, per call.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from tailrace.cli.check.http import LIMIT, EventStream, Head, RawConnection
from tailrace.cli.check.model import Failed, Json, Way

__all__ = ["CLIENT", "JSON_BODY", "Call", "Conversation", "Running", "named", "notification", "read_message",
           "request", "shorten"]  # fmt: skip

CLIENT = {"name": "tailrace check", "version": "1"}
JSON_BODY = ("Content-Type", "application/json")


def request(id: int | str, method: str, params: Mapping[str, Any] | None = None) -> Json:
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": dict(params or {})}


def notification(method: str, params: Mapping[str, Any] | None = None) -> Json:
    return {"jsonrpc": "2.0", "method": method, "params": dict(params or {})}


def shorten(value: object, most: int = 160) -> str:
    """A value for a report, on one line."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=repr)
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"


def read_message(text: str | bytes) -> Json:
    """One JSON-RPC message.

    Raises:
        Failed: It is none: a torn or interleaved frame looks like this.
    """
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        said = text.decode(errors="replace") if isinstance(text, bytes) else text
        raise Failed(f"what came is no JSON-RPC message: {shorten(said)}")
    return cast("Json", found)


@dataclass(frozen=True, slots=True)
class Call:
    """One tools/call.

    Args:
        tool: Its name.
        arguments: As the tool takes them.
        id: The JSON-RPC id.
        token: Its progressToken.
        key: An idempotency key, sent as `_meta` and as a header.
    """

    tool: str
    arguments: Json
    id: int | str
    token: str | None = None
    key: str | None = None

    def message(self, meta: Mapping[str, Any] | None = None) -> Json:
        params: Json = {"name": self.tool, "arguments": self.arguments}
        more: Json = dict(meta or {})
        if self.token is not None:
            more["progressToken"] = self.token
        if self.key is not None:
            more["io.tailrace/idempotencyKey"] = self.key
        if more:
            params["_meta"] = more
        return request(self.id, "tools/call", params)


@dataclass(slots=True)
class Running:
    """A call that was sent, and what came of it so far.

    Attributes:
        messages: All that came for it, in order.
        answer: The result or the error with its id.
        how: How its stream ended without an answer; empty as long as it runs or if it was answered.
        answers: How many answers came: one too many is as wrong as none.
    """

    call: Call
    connection: RawConnection | None = None
    stream: EventStream | None = None
    head: Head | None = None
    messages: list[Json] = field(default_factory=list[Json])
    answer: Json | None = None
    answers: int = 0
    how: str = ""

    def take(self, message: Json) -> None:
        """Note one message that came for it."""
        self.messages.append(message)
        if message.get("id") == self.call.id and ("result" in message or "error" in message):
            self.answers += 1
            self.answer = self.answer or message

    def progress(self, token: str | None = None) -> list[float]:
        """The progress that came with its token, or with another one."""
        wanted = self.call.token if token is None else token
        said = [message.get("params", {}) for message in self.messages
                if message.get("method") == "notifications/progress"]  # fmt: skip
        return [params["progress"] for params in said if params.get("progressToken") == wanted and "progress" in params]

    def strangers(self) -> list[Json]:
        """Messages on its own stream that belong to another call."""
        return [
            message
            for message in self.messages
            if ("method" not in message and message.get("id") != self.call.id)
            or (
                message.get("method") == "notifications/progress"
                and message.get("params", {}).get("progressToken") != self.call.token
            )
        ]

    def result(self) -> Json:
        """The result.

        Raises:
            Failed: There is none.
        """
        if self.answer is None:
            raise Failed(f"no answer to {self.call.tool}: {self.how or 'it is still running'}")
        if "result" not in self.answer or self.answer["result"].get("isError"):
            raise Failed(f"{self.call.tool} was answered with an error: {shorten(self.answer)}")
        return self.answer["result"]


class Conversation(Protocol):
    """One client of a server, whatever the way: one session, or one stateless client."""

    way: Way
    server: str  # what it says that it is; empty before `open`, or where nobody says

    async def open(self) -> None:
        """Connect and do the handshake."""
        ...

    async def begin(self, call: Call) -> Running:
        """Send a call; returns when it is sent, or accepted where the way says so."""
        ...

    async def finish(self, running: Running, limit: float = LIMIT) -> Running:
        """Read on until its answer, or until its stream ended (then `how` says how)."""
        ...

    async def ask(self, method: str, params: Mapping[str, Any] | None = None, limit: float = LIMIT) -> Json:
        """One request and its answer."""
        ...

    async def notify(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        """One notification."""
        ...

    async def close(self) -> None:
        """Leave in order, and soon."""
        ...


def named(hello: Json) -> str:
    """What a server says that it is."""
    info: Any = hello.get("serverInfo") or {}
    return shorten(f"{info.get('name', '')} {info.get('version', '')}".strip(), 80)
