"""2026-07-28: the `_meta` that every request has, and the headers that repeat the body (MCP 2026-07-28, transports)."""

from __future__ import annotations

import base64

from tests.protocols.mcp.malformed.row import BOTH, MODERN, Answer, Headers, Row, legacy_request, meta, modern_request

__all__ = ["ROWS"]

ECHO = b'"name":"echo","arguments":{"text":"a"}'
ROUTED = b'"name":"routed","arguments":%b'
MISMATCH: Answer = (400, -32020)
BAD: Answer = (400, -32602)


def row(kind: str, rule: str, answer: Answer, *, body: bytes | None = None, headers: Headers | None = None) -> Row:
    return Row(kind=kind, rule=rule, body=body, headers=headers or {}, answers={MODERN: answer})


def enveloped(answer: Answer, *found: bytes) -> list[Row]:
    """Calls with exactly this `_meta`."""
    rule = "MCP 2026-07-28 base protocol: _meta"
    return [row("_meta", rule, answer, body=legacy_request("tools/call", ECHO + b',"_meta":' + one)) for one in found]


def headed(rule: str, *found: Headers) -> list[Row]:
    return [row("routing header", rule, MISMATCH, headers=one) for one in found]


def routed(arguments: bytes, *found: Headers) -> list[Row]:
    """Calls of a tool that wants `region`, `size` and `dry` in headers."""
    rule = "MCP 2026-07-28 transports: custom headers"
    body = modern_request("tools/call", ROUTED % arguments)
    return [row("Mcp-Param", rule, MISMATCH, body=body, headers={"Mcp-Name": "routed", **one}) for one in found]


def sentinel(value: bytes) -> str:
    return f"=?base64?{base64.b64encode(value).decode()}?="


GOOD = {"Mcp-Param-Region": "eu", "Mcp-Param-Size": "5", "Mcp-Param-Dry": "true"}
ARGUMENTS = b'{"region":"eu","size":5,"dry":true}'
VERSIONS = "MCP 2026-07-28 versioning"


def version(text: str) -> bytes:
    return legacy_request("tools/call", ECHO + b',"_meta":{' + meta(protocolVersion=text) + b"}")


ROWS: list[Row] = [
    *enveloped(
        BAD,
        b"{}",
        b'{"progressToken":1}',
        b"{" + meta(protocolVersion=None) + b"}",
        b"{" + meta(clientCapabilities=None) + b"}",
        b"{" + meta(clientCapabilities=[]) + b"}",
        b"{" + meta(clientCapabilities="all") + b"}",
        b"{" + meta(clientCapabilities=5) + b"}",
        b"{" + meta() + b',"io.modelcontextprotocol/clientCapabilities":null}',
        b"{" + meta() + b',"io.modelcontextprotocol/protocolVersion":null}',
        b"{" + meta(protocolVersion=20260728) + b"}",
        b"{" + meta(protocolVersion=[MODERN]) + b"}",
        b"{" + meta(clientInfo="me") + b"}",
        b"{" + meta(clientInfo=[]) + b"}",
        b"{" + meta(logLevel=5) + b"}",
        b"{" + meta(logLevel="loud") + b"}",
        b"{" + meta(logLevel=["info"]) + b"}",
        b'{"protocolVersion":"2026-07-28","clientCapabilities":{}}',
    ),
    row("_meta", "MCP 2026-07-28 base protocol: _meta", BAD, body=legacy_request("tools/call", ECHO)),
    row(
        "_meta",
        "MCP 2026-07-28 base protocol: _meta",
        BAD,
        body=legacy_request("tools/list", b""),
        headers={"Mcp-Method": "tools/list", "Mcp-Name": None},
    ),
    *(
        row("version", VERSIONS, (400, -32022), body=version(text), headers={"MCP-Protocol-Version": text})
        for text in (
            "2025-11-25",
            "2025-06-18",
            "2024-11-05",
            "2026-07-29",
            "2026-7-28",
            "2099-01-01",
            "1.0",
            "latest",
            "draft",
            "x" * 1000,
        )
    ),
    *headed(
        "MCP 2026-07-28 transports: MCP-Protocol-Version",
        {"MCP-Protocol-Version": None},
        {"MCP-Protocol-Version": ""},
        {"MCP-Protocol-Version": "2025-11-25"},
        {"MCP-Protocol-Version": "2099-01-01"},
        {"MCP-Protocol-Version": MODERN + "x"},
        {"MCP-Protocol-Version": f"{MODERN}, {MODERN}"},
        {"MCP-Protocol-Version": f'"{MODERN}"'},
        {"MCP-Protocol-Version": (MODERN, MODERN)},
        {"MCP-Protocol-Version": (MODERN, "2025-11-25")},
        {"MCP-Protocol-Version": ("2025-11-25", MODERN)},
        {"MCP-Protocol-Version": "=?base64?!!?="},
        {"MCP-Protocol-Version": "2026\xad07\xad28"},
    ),
    *headed(
        "MCP 2026-07-28 transports: Mcp-Method",
        {"Mcp-Method": None},
        {"Mcp-Method": ""},
        {"Mcp-Method": "tools/list"},
        {"Mcp-Method": "TOOLS/CALL"},
        {"Mcp-Method": "tools/call, tools/call"},
        {"Mcp-Method": '"tools/call"'},
        {"Mcp-Method": "tools%2Fcall"},
        {"Mcp-Method": ("tools/call", "tools/call")},
        {"Mcp-Method": ("tools/call", "tools/list")},
        {"Mcp-Method": "tools/call\xe9"},
        {"Mcp-Method": sentinel(b"tools/list")},
        {"Mcp-Method": "=?base64?dG9vbHMvY2FsbA?="},  # without its padding
        {"Mcp-Method": "x" * 10_000},
    ),
    *headed(
        "MCP 2026-07-28 transports: Mcp-Name",
        {"Mcp-Name": None},
        {"Mcp-Name": ""},
        {"Mcp-Name": "count"},
        {"Mcp-Name": "ECHO"},
        {"Mcp-Name": "echo, echo"},
        {"Mcp-Name": ("echo", "echo")},
        {"Mcp-Name": ("count", "echo")},
        {"Mcp-Name": "\xe9cho"},
        {"Mcp-Name": sentinel(b"count")},
        {"Mcp-Name": sentinel(b"\xff\xfe")},
        {"Mcp-Name": "=?base64??="},
        {"Mcp-Name": "=?base64?ZWNobw==?= "[:-1] + "x"},
        {"Mcp-Name": "=?BASE64?ZWNobw==?="},
        {"Mcp-Name": "=?base64?ZWNobx==?="},  # another spelling of it: bits that say nothing
        {"Mcp-Name": "=?base64?ZWNo bw==?="},
        {"Mcp-Name": "=?utf-8?q?echo?="},
        {"Mcp-Name": "%65cho"},
        {"Mcp-Name": "x" * 10_000},
    ),
    *routed(
        ARGUMENTS,
        {},
        {**GOOD, "Mcp-Param-Region": None},
        {**GOOD, "Mcp-Param-Region": "us"},
        {**GOOD, "Mcp-Param-Region": "EU"},
        {**GOOD, "Mcp-Param-Region": ""},
        {**GOOD, "Mcp-Param-Region": ("eu", "eu")},
        {**GOOD, "Mcp-Param-Region": ("eu", "us")},
        {**GOOD, "Mcp-Param-Region": sentinel(b"us")},
        {**GOOD, "Mcp-Param-Region": "=?base64?ZX?="},
        {**GOOD, "Mcp-Param-Region": "e\xfc"},
        {**GOOD, "Mcp-Param-Size": None},
        {**GOOD, "Mcp-Param-Size": "6"},
        {**GOOD, "Mcp-Param-Size": "5.1"},
        {**GOOD, "Mcp-Param-Size": "5e0"},
        {**GOOD, "Mcp-Param-Size": "0x5"},
        {**GOOD, "Mcp-Param-Size": "+5"},
        {**GOOD, "Mcp-Param-Size": "five"},
        {**GOOD, "Mcp-Param-Size": "\xb2"},
        {**GOOD, "Mcp-Param-Size": "5" * 5000},
        {**GOOD, "Mcp-Param-Dry": None},
        {**GOOD, "Mcp-Param-Dry": "false"},
        {**GOOD, "Mcp-Param-Dry": "True"},
        {**GOOD, "Mcp-Param-Dry": "1"},
    ),
    *routed(
        b'{"size":5,"dry":true}',  # what the body does not have, no header may say
        GOOD,
    ),
    *routed(b'{"region":null,"size":5,"dry":true}', GOOD),
    *routed(b'{"region":{"eu":1},"size":5,"dry":true}', GOOD),
    *(
        row("HTTP method", "MCP 2026-07-28 transports: POST only", answer, headers=headers)
        for answer, headers in (
            ((406, -32600), {"Accept": "text/html"}),
            ((406, -32600), {"Accept": "application/json"}),
            ((406, -32600), {"Accept": "text/event-stream"}),
            ((406, -32600), {"Accept": "application/json;q=0, text/event-stream"}),
            ((406, -32600), {"Accept": "application/json, text/event-stream; q=0.0"}),
            ((406, -32600), {"Accept": ""}),
            ((415, -32600), {"Content-Type": None}),
            ((415, -32600), {"Content-Type": "text/plain"}),
            ((415, -32600), {"Content-Encoding": "gzip"}),
        )
    ),
    *(
        Row(
            kind="HTTP method",
            rule="MCP 2026-07-28 transports: POST only",
            method=method,
            headers={"Accept": BOTH},
            answers={MODERN: (405, -32600)},
        )
        for method in ("GET", "DELETE", "PUT", "PATCH", "OPTIONS")
    ),
]
