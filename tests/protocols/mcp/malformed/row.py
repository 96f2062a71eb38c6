"""What a row of the table says, and the short ways to write many of them.

A row is one malformed request, and what each way in answers to it. The ways are the four versions with a handshake
over Streamable HTTP, the modern version, HTTP+SSE's POST, and a client without any session.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from tailrace.wire.mcp import encode_header_value

__all__ = [
    "BOTH",
    "EVERY",
    "LEGACY",
    "MODERN",
    "NOBODY",
    "SSE",
    "Answer",
    "Headers",
    "Row",
    "asking",
    "bodies",
    "legacy_request",
    "meta",
    "modern_request",
    "routing",
]

LEGACY = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
MODERN = "2026-07-28"
SSE = "HTTP+SSE"
NOBODY = "no session"
EVERY = (*LEGACY, MODERN, SSE)
BOTH = "application/json, text/event-stream"

Answer: TypeAlias = tuple[int, int | str | None]
"""HTTP status, and the code of the JSON-RPC error; ``"isError"`` for a tool's, None where neither is expected."""

Headers: TypeAlias = Mapping[str, str | tuple[str, ...] | None]
"""Changes to the headers of a good request: another value, several lines of it, or (None) without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One malformed request.

    Attributes:
        kind: The class of fault.
        rule: Where it is forbidden: a section of JSON-RPC 2.0, an RFC, a page of MCP's specification, or one of ours.
        answers: What each way in answers. Over HTTP+SSE a 202 has its code in the stream.
        body: As it is sent; None for the way's own good call.
        bodies: For ways that get another one.
        headers: Changes to those of the way.
        method: Of HTTP.
        path: None for the way's own. ``{session}`` stands for the session's id here and in headers, ``{event}`` for an
            event id of its stream, ``{ended}`` for a session that has ended, ``{other}`` for one of another transport.
        fresh: The session was not initialized (HTTP+SSE).
    """

    kind: str
    rule: str
    answers: Mapping[str, Answer]
    body: bytes | None = None
    bodies: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    headers: Headers = field(default_factory=dict[str, Any])
    method: str = "POST"
    path: str | None = None
    fresh: bool = False

    def body_of(self, way: str) -> bytes | None:
        """What is posted there."""
        return self.bodies.get(way, self.body)

    @property
    def said(self) -> Any:
        """All that makes it differ from other rows."""
        bodies = tuple(sorted(self.bodies.items()))
        headers = tuple(sorted((name, str(value)) for name, value in self.headers.items()))
        return self.method, self.path, self.body, bodies, headers, tuple(sorted(self.answers)), self.fresh


def bodies(kind: str, *rows: tuple[str, bytes, int, int]) -> list[Row]:
    """Bodies that are no good message anywhere: rule, body, HTTP status, code."""
    return [
        Row(kind=kind, rule=rule, body=body, answers=dict.fromkeys(EVERY, (status, code)))
        for rule, body, status, code in rows
    ]


def asking(kind: str, method: str, *rows: tuple[str, bytes, int | str, int]) -> list[Row]:
    """Requests whose parameters are wrong: rule, what stands inside `params`, code, HTTP status in the modern era.

    Legacy sessions answer with a JSON-RPC error (HTTP 200, or on the stream behind a 202).
    """
    return [
        Row(
            kind=kind,
            rule=rule,
            body=legacy_request(method, params),
            bodies={MODERN: modern_request(method, params)},
            headers=routing(method, params),
            answers={**dict.fromkeys(LEGACY, (200, code)), SSE: (202, code), MODERN: (status, code)},
        )
        for rule, params, code, status in rows
    ]


def meta(**changed: Any) -> bytes:
    """The inside of a modern request's `_meta`; None leaves a key out."""
    own: dict[str, Any] = {"protocolVersion": MODERN, "clientCapabilities": {}} | changed
    pairs = {f"io.modelcontextprotocol/{key}": value for key, value in own.items() if value is not None}
    return json.dumps(pairs).encode()[1:-1]


def legacy_request(method: str, params: bytes) -> bytes:
    """A request with the id 7, its parameters word for word; ``$META`` in a `_meta` of their own is nothing here."""
    return b'{"jsonrpc":"2.0","id":7,"method":%b,"params":{%b}}' % (
        json.dumps(method).encode(),
        params.replace(b"$META,", b"").replace(b"$META", b""),
    )


def modern_request(method: str, params: bytes) -> bytes:
    """The same with the `_meta` that the modern era requires."""
    if b'"_meta"' not in params:
        params = b",".join([part for part in (params, b'"_meta":{$META}') if part])
    return legacy_request(method, params.replace(b"$META", meta()))


def routing(method: str, params: bytes) -> Headers:
    """The headers that repeat them; other eras ignore these."""
    headers = {"Mcp-Method": encode_header_value(method)}
    names = re.findall(rb'"name":("(?:[^"\\]|\\.)*")', params)  # of several the last counts
    if method == "tools/call" and names:
        headers["Mcp-Name"] = encode_header_value(json.loads(names[-1]))
    return headers
