"""Streamable HTTP and HTTP+SSE as HTTP: sessions, versions, event ids, media types, verbs (MCP: transports)."""

from __future__ import annotations

from tests.protocols.mcp.malformed.row import LEGACY, MODERN, NOBODY, SSE, Answer, Headers, Row, legacy_request

__all__ = ["ROWS"]

GONE: Answer = (404, -32600)
WRONG: Answer = (400, -32600)
UNSPOKEN: Answer = (400, -32022)
TRANSPORT = "MCP transports: session management"
RESUMING = "MCP transports: resumability"


def streamable(
    kind: str, rule: str, answer: Answer, *found: Headers, method: str = "POST", ways: tuple[str, ...] = LEGACY
) -> list[Row]:
    return [Row(kind=kind, rule=rule, method=method, headers=one, answers=dict.fromkeys(ways, answer)) for one in found]


def sse(kind: str, rule: str, answer: Answer, *found: str) -> list[Row]:
    """Queries of a POST."""
    return [Row(kind=kind, rule=rule, path="/messages/" + one, answers={SSE: answer}) for one in found]


IDS: list[Headers] = [
    {"Mcp-Session-Id": one}
    for one in (
        "",
        "0",
        "nobody",
        "null",
        "{session}x",
        "x{session}",
        "{session}, {session}",
        '"{session}"',
        "{other}",
        "{ended}",
        "../{session}",
        "' OR 1=1 --",
        "\xe9\xff",
        "x" * 10_000,
    )
]
EVENTS = [
    "",
    "0",
    "1",
    "-1",
    "{event}x",
    "x{event}",
    "{event}-1",
    "{event}" + "0" * 30,
    "-{event}",
    "A" * 44 + "-1",
    "A" * 44 + "-",
    "A" * 43 + "=-1",
    "=" * 44 + "-1",
    "!" * 44 + "-1",
    "\xe9" * 44 + "-1",
    "A" * 44 + "-\xb2",
    "A" * 44 + "-" + "9" * 5000,
    "x" * 10_000,
]
TYPES: list[Headers] = [
    {"Content-Type": one}
    for one in (
        None,
        "",
        "text/plain",
        "text/json",
        "application/jsonl",
        "application/json-seq",
        "application/jsonrpc",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/octet-stream",
        "json",
        "*/*",
        "application/*",
        "application/json, text/plain",
        "text/plain; application/json",
    )
]
CODINGS: list[Headers] = [
    {"Content-Encoding": one} for one in ("gzip", "deflate", "br", "zstd", "compress", "identity, gzip", "x")
]
ACCEPTS: list[Headers] = [
    {"Accept": one}
    for one in (
        "",
        "text/html",
        "application/json",
        "text/event-stream",
        "application/xml, text/event-stream",
        "application/json, text/event",
        "application/json; q=0, text/event-stream",
        "application/json, text/event-stream;q=0",
        "applicationjson, text/event-stream",
    )
]
VERSIONS = (
    "",
    "1.0",
    "2.0",
    "latest",
    "2024-11-06",
    "2025-11-25x",
    "2025-11-25, 2025-11-25",
    "25-11-2025",
    "2099-01-01",
    "\xe9",
    "x" * 1000,
)
BAD_TYPE: Answer = (415, -32600)

ROWS: list[Row] = [
    *streamable("session", TRANSPORT, WRONG, {"Mcp-Session-Id": None}),
    *(row for one in IDS for row in streamable("session", TRANSPORT, GONE, one)),
    *streamable("session", TRANSPORT, WRONG, {"Mcp-Session-Id": ("{session}", "{session}")}),
    *streamable("session", TRANSPORT, WRONG, {"Mcp-Session-Id": ("{session}", "{ended}")}),
    *(row for one in IDS for row in streamable("session", TRANSPORT, GONE, one, method="DELETE")),
    *streamable("session", TRANSPORT, WRONG, {"Mcp-Session-Id": None}, method="DELETE"),
    *streamable("session", TRANSPORT, WRONG, {"Mcp-Session-Id": ("{session}", "{other}")}, method="DELETE"),
    *streamable("session", TRANSPORT, WRONG, {"Mcp-Session-Id": None}, method="GET"),
    *streamable("session", TRANSPORT, WRONG, {"Mcp-Session-Id": ("{session}", "{session}")}, method="GET"),
    *(row for one in IDS[:3] for row in streamable("session", TRANSPORT, GONE, one, method="GET")),
    *(
        Row(
            kind="session",
            rule="MCP transports: a session that is gone is 404, whatever else is wrong",
            body=legacy_request("tools/call", b""),
            headers={"Mcp-Session-Id": "nobody"},
            answers=dict.fromkeys(LEGACY, GONE),
        )
        for _ in (1,)
    ),
    *(
        row
        for method in ("POST", "GET", "DELETE")
        for text in VERSIONS
        for row in streamable(
            "version", "MCP transports: MCP-Protocol-Version", UNSPOKEN, {"MCP-Protocol-Version": text}, method=method
        )
    ),
    *streamable(
        "version",
        "MCP transports: MCP-Protocol-Version",
        WRONG,
        {"MCP-Protocol-Version": ("2025-06-18", "2025-06-18")},
        {"MCP-Protocol-Version": ("2025-06-18", MODERN)},
    ),
    Row(
        kind="version",
        rule="MCP transports: an unsupported version is 400, whatever else is wrong",
        body=legacy_request("tools/call", b""),
        headers={"MCP-Protocol-Version": "2099-01-01"},
        answers=dict.fromkeys(LEGACY, UNSPOKEN),
    ),
    *(
        Row(
            kind="initialize",
            rule="MCP transports: MCP-Protocol-Version",
            body=legacy_request("initialize", b'"protocolVersion":"2025-11-25"'),
            headers={"MCP-Protocol-Version": text},
            answers={NOBODY: answer},
        )
        for text, answer in (
            ("2099-01-01", UNSPOKEN),
            (("2025-06-18", "2025-11-25"), WRONG),
            (MODERN, (400, -32602)),
        )
    ),
    *(
        Row(
            kind="initialize",
            rule=TRANSPORT,
            body=legacy_request("initialize", b'"protocolVersion":"2025-11-25"'),
            headers={"Mcp-Session-Id": id},
            answers={NOBODY: WRONG},
        )
        for id in ("nobody", "")
    ),
    *(
        row
        for id in EVENTS
        for row in streamable(
            "event id", RESUMING, GONE, {"Last-Event-ID": id, "Accept": "text/event-stream"}, method="GET"
        )
    ),
    *streamable("event id", RESUMING, WRONG, {"Last-Event-ID": ("{event}", "{event}")}, method="GET"),
    *(
        Row(
            kind="event id",
            rule="docs/promises.md: HTTP+SSE is resumed as well",
            method="GET",
            path="/sse",
            headers={"Last-Event-ID": id, "Accept": "text/event-stream"},
            answers={SSE: GONE},
        )
        for id in EVENTS
    ),
    *(row for one in TYPES for row in streamable("content type", "RFC 9110 8.3", BAD_TYPE, one, ways=(*LEGACY, SSE))),
    *streamable(
        "content type",
        "RFC 9110 5.3: one",
        WRONG,
        {"Content-Type": ("application/json", "text/plain")},
        {"Content-Type": ("application/json", "application/json")},
        ways=(*LEGACY, SSE),
    ),
    *(
        row
        for one in CODINGS
        for row in streamable("content coding", "RFC 9110 8.4", BAD_TYPE, one, ways=(*LEGACY, MODERN, SSE))
    ),
    *(row for one in ACCEPTS for row in streamable("Accept", "RFC 9110 12.5.1", (406, -32600), one)),
    *(
        row
        for one in ("", "application/json", "text/html", "text/event-stream;q=0")
        for row in streamable("Accept", "RFC 9110 12.5.1", (406, -32600), {"Accept": one}, method="GET")
    ),
    *(
        Row(
            kind="Accept",
            rule="RFC 9110 12.5.1",
            method="GET",
            path="/sse",
            headers={"Accept": one},
            answers={SSE: (406, -32600)},
        )
        for one in ("", "application/json", "text/html", "text/event-stream;q=0")
    ),
    *(
        row
        for method in ("PUT", "PATCH", "OPTIONS")
        for row in streamable("HTTP method", "RFC 9110 15.5.6", (405, -32600), {}, method=method)
    ),
    *(
        Row(kind="HTTP method", rule="RFC 9110 15.5.6", method=method, path=path, answers={NOBODY: (405, -32600)})
        for path, methods in (
            ("/sse", ("POST", "DELETE", "PUT", "PATCH", "OPTIONS")),
            ("/messages/", ("GET", "DELETE", "PUT", "PATCH", "OPTIONS")),
            ("/healthz", ("POST", "DELETE", "PUT")),
            ("/readyz", ("POST", "DELETE", "PUT")),
        )
        for method in methods
    ),
    *sse("session", "MCP 2024-11-05 transports", WRONG, "", "?", "?session_id=", "?session_id", "?sessionId={session}"),
    *sse("session", "MCP 2024-11-05 transports", WRONG, "?session_id={session}&session_id={ended}"),
    *sse(
        "session",
        "MCP 2024-11-05 transports",
        GONE,
        "?session_id=nobody",
        "?session_id={session}x",
        "?session_id={other}",
        "?session_id={ended}",
        "?session_id=%00",
        "?session_id=%ff%fe",
        "?session_id=%27%20OR%201=1",
        "?session_id=" + "x" * 8000,
    ),
    *(
        Row(kind="path", rule="RFC 9110 15.5.5", path=path, answers={NOBODY: (404, -32600)})
        for path in (
            "/",
            "/MCP",
            "/mcp/x",
            "//mcp",
            "/mcp//",
            "/mcp.json",
            "/mcp%00",
            "/%6dcp/..",
            "/./mcp",
            "/x/../mcp",
            "/sse/x",
            "/message",
            "/messages/x",
            "/.well-known/nothing",
            "/favicon.ico",
            "/" + "x" * 4000,
        )
    ),
    *(
        Row(
            kind="size",
            rule="docs/security.md: body 4 MiB",
            body=legacy_request("ping", b'"a":"' + b"x" * size + b'"'),
            answers={way: (413, -32600) for way in (*LEGACY[-1:], MODERN, SSE)},
        )
        for size in (4 * 1024 * 1024, 5_000_000)
    ),
]
