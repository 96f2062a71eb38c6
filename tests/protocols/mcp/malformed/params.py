"""Good envelopes whose method is unknown or whose parameters are wrong (MCP: schema.ts, tools, pagination, logging)."""

from __future__ import annotations

from tests.protocols.mcp.malformed.row import (
    LEGACY,
    MODERN,
    NOBODY,
    SSE,
    Row,
    asking,
    legacy_request,
    meta,
    modern_request,
    routing,
)

__all__ = ["ROWS"]

ECHO = b'"name":"echo","arguments":{"text":"a"}'
TOOLS = "MCP tools"
_LONG = b"x" * 10_000


def arguments(rule: str, *found: bytes) -> list[Row]:
    """Arguments that do not fit `echo`: an error of the tool, so that a model reads it (MCP 2025-11-25)."""
    return asking("arguments", "tools/call", *((rule, b'"name":"echo",' + one, "isError", 200) for one in found))


def counting(rule: str, *found: bytes) -> list[Row]:
    return asking(
        "arguments",
        "tools/call",
        *((rule, b'"name":"count","arguments":{"n":' + one + b"}", "isError", 200) for one in found),
    )


def unknown(*names: str) -> list[Row]:
    return [row for name in names for row in asking("unknown method", name, ("JSON-RPC 5.1", b"", -32601, 404))]


def with_meta(rule: str, *found: bytes) -> list[Row]:
    return asking(
        "progress token", "tools/call", *((rule, ECHO + b',"_meta":{$META,' + one + b"}", -32602, 400) for one in found)
    )


def greeting(*found: bytes) -> list[Row]:
    """`initialize`, by somebody who has no session yet."""
    return [
        Row(
            kind="initialize",
            rule="MCP lifecycle",
            body=legacy_request("initialize", one),
            answers={NOBODY: (400, -32602), SSE: (202, -32602)},
            fresh=True,
        )
        for one in found
    ]


def level(*found: bytes) -> list[Row]:
    """`logging/setLevel`, which the modern era does not have."""
    return [
        Row(
            kind="log level",
            rule="MCP logging",
            body=legacy_request("logging/setLevel", one),
            bodies={MODERN: modern_request("logging/setLevel", one)},
            headers=routing("logging/setLevel", one),
            answers={**dict.fromkeys(LEGACY, (200, -32602)), SSE: (202, -32602), MODERN: (404, -32601)},
        )
        for one in found
    ]


ROWS: list[Row] = [
    *unknown(
        "pings",
        "Ping",
        "PING",
        " ping",
        "ping ",
        "ping\0",
        "ping\n",
        "tools",
        "tools/",
        "/tools/list",
        "tools//list",
        "tools/List",
        "tools/lists",
        "tools/calls",
        "../tools/list",
        "rpc.discover",
        "system.listMethods",
        "__init__",
        "constructor",
        "toString",
        "echo",
        "notifications/initialized",
        "notifications/cancelled",
        "sampling/createMessage",
        "roots/list",
        "elicitation/create",
        "tооls/list",  # noqa: RUF001 - Cyrillic, on purpose
        "\u202eping",
        "😀",
        "x" * 10_000,
        "%s%s%s%n",
        "{0}{name}",
    ),
    *asking(
        "tool name",
        "tools/call",
        (TOOLS, b"", -32602, 400),
        (TOOLS, b'"arguments":{"text":"a"}', -32602, 400),
        (TOOLS, b'"name":null', -32602, 400),
        (TOOLS, b'"name":5', -32602, 400),
        (TOOLS, b'"name":true', -32602, 400),
        (TOOLS, b'"name":[]', -32602, 400),
        (TOOLS, b'"name":["echo"]', -32602, 400),
        (TOOLS, b'"name":{"name":"echo"}', -32602, 400),
        (TOOLS, b'"name":""', -32602, 400),
        (TOOLS, b'"name":"no such tool"', -32602, 400),
        (TOOLS, b'"name":"ECHO"', -32602, 400),
        (TOOLS, b'"name":"echo "', -32602, 400),
        (TOOLS, b'"name":"echo\\u0000"', -32602, 400),
        (TOOLS, b'"name":"echo\\n"', -32602, 400),
        (TOOLS, b'"name":"__class__"', -32602, 400),
        (TOOLS, b'"name":"' + _LONG + b'"', -32602, 400),
        (TOOLS, b'"name":"echo","name":7', -32602, 400),
        (TOOLS, b'"name":"echo","name":"no such tool"', -32602, 400),
    ),
    *arguments(
        "MCP 2025-11-25 tools",
        b'"arguments":[]',
        b'"arguments":["a"]',
        b'"arguments":"a"',
        b'"arguments":5',
        b'"arguments":true',
        b'"arguments":{}',
        b'"arguments":null',
        b'"arguments":{"Text":"a"}',
        b'"arguments":{"text":null}',
        b'"arguments":{"text":5}',
        b'"arguments":{"text":["a"]}',
        b'"arguments":{"text":{"a":1}}',
        b'"arguments":{"text":true}',
        b'"arguments":{"text":"a","more":1}',
        b'"arguments":{"text":"a","__proto__":{}}',
        b'"arguments":{"text":"a","ctx":{}}',
        b'"arguments":{"text":"a","' + _LONG + b'":1}',
        b'"arguments":{"text":"a","text":5}',
        b'"arguments":{"text":' + b"[" * 400 + b"]" * 400 + b"}",
        b'"arguments":{"a":{"text":"a"}}',
    ),
    *counting(
        "JSON Schema 2020-12: integer",
        b'"5"',
        b"null",
        b"true",
        b"1.5",
        b"[5]",
        b"1e400",
        b"-1e400",
        b"9" * 5000,
        b"0.1e1000000000",
    ),
    *with_meta(
        "MCP progress",
        b'"progressToken":null',
        b'"progressToken":true',
        b'"progressToken":1.5',
        b'"progressToken":[]',
        b'"progressToken":{}',
        b'"progressToken":"' + b"x" * 256 + b'"',
        b'"progressToken":1' + b"0" * 255,
        b'"progressToken":1e400',
    ),
    *with_meta(
        "MCP base protocol: _meta",
        b'"traceparent":5',
        b'"tracestate":[]',
        b'"baggage":{}',
        b'"io.tailrace/idempotencyKey":5',
    ),
    *asking(
        "_meta",
        "tools/call",
        ("MCP base protocol: _meta", ECHO + b',"_meta":null', -32602, 400),
        ("MCP base protocol: _meta", ECHO + b',"_meta":[]', -32602, 400),
        ("MCP base protocol: _meta", ECHO + b',"_meta":"x"', -32602, 400),
        ("MCP base protocol: _meta", ECHO + b',"_meta":5', -32602, 400),
        ("MCP base protocol: _meta", ECHO + b',"_meta":true', -32602, 400),
    ),
    *asking(
        "cursor",
        "tools/list",
        ("MCP pagination", b'"cursor":5', -32602, 400),
        ("MCP pagination", b'"cursor":true', -32602, 400),
        ("MCP pagination", b'"cursor":[]', -32602, 400),
        ("MCP pagination", b'"cursor":{}', -32602, 400),
        ("MCP pagination", b'"cursor":""', -32602, 400),
        ("MCP pagination", b'"cursor":"0"', -32602, 400),
        ("MCP pagination", b'"cursor":"-1"', -32602, 400),
        ("MCP pagination", b'"cursor":"next"', -32602, 400),
        ("MCP pagination", b'"cursor":"ZWNobw"', -32602, 400),  # ours, without its padding
        ("MCP pagination", b'"cursor":"ZWNobw===="', -32602, 400),
        ("MCP pagination", b'"cursor":" ZWNobw=="', -32602, 400),
        ("MCP pagination", b'"cursor":"bm9ib2R5"', -32602, 400),  # a name that is no tool's
        ("MCP pagination", b'"cursor":"/////w=="', -32602, 400),
        ("MCP pagination", b'"cursor":"\\u0000"', -32602, 400),
        ("MCP pagination", '"cursor":"é"'.encode(), -32602, 400),
        ("MCP pagination", b'"cursor":"' + _LONG + b'"', -32602, 400),
    ),
    *level(
        b"",
        b'"level":null',
        b'"level":5',
        b'"level":"loud"',
        b'"level":"INFO"',
        b'"level":""',
        b'"level":["info"]',
        b'"level":"info","level":"off"',
    ),
    *greeting(
        b"",
        b'"capabilities":{}',
        b'"protocolVersion":null',
        b'"protocolVersion":5',
        b'"protocolVersion":["2025-11-25"]',
        b'"protocolVersion":"2025-11-25","capabilities":null',
        b'"protocolVersion":"2025-11-25","capabilities":[]',
        b'"protocolVersion":"2025-11-25","capabilities":"all"',
        b'"protocolVersion":"2025-11-25","clientInfo":"me"',
        b'"protocolVersion":"2025-11-25","clientInfo":null',
        b'"protocolVersion":"2025-11-25","clientInfo":{"name":5}',
        b'"protocolVersion":"2025-11-25","clientInfo":{"name":"me","version":1}',
        b'"protocolVersion":"2025-11-25","capabilities":{"a":1e400}',
        b'"protocolVersion":"2025-11-25","capabilities":{"x":"' + b"y" * 65_536 + b'"}',
        b'"protocolVersion":"2025-11-25","_meta":[]',
    ),
    Row(
        kind="lifecycle",
        rule="MCP lifecycle: once",
        body=legacy_request("initialize", b'"protocolVersion":"2025-11-25"'),
        bodies={MODERN: modern_request("initialize", b'"protocolVersion":"2025-11-25"')},
        headers=routing("initialize", b""),
        answers={**dict.fromkeys(LEGACY, (400, -32600)), SSE: (202, -32600), MODERN: (404, -32601)},
    ),
    Row(
        kind="lifecycle",
        rule="MCP lifecycle: initialize first",
        body=legacy_request("tools/call", ECHO),
        answers={SSE: (202, -32600), NOBODY: (400, -32600)},
        fresh=True,
    ),
    Row(
        kind="lifecycle",
        rule="MCP 2026-07-28: server/discover",
        body=legacy_request("server/discover", b""),
        bodies={MODERN: legacy_request("server/discover", b"")},
        headers=routing("server/discover", b""),
        answers={**dict.fromkeys(LEGACY, (400, -32602)), SSE: (202, -32601), MODERN: (400, -32602)},
    ),
    Row(
        kind="lifecycle",
        rule="MCP 2026-07-28: HTTP+SSE has the versions with a handshake only",
        body=modern_request("server/discover", b"").replace(meta(), meta()),
        answers={SSE: (202, -32601)},
    ),
]
