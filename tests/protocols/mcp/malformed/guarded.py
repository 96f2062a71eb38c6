"""Host and Origin, checked before everything else on every path (MCP transports: security warning; our limits)."""

from __future__ import annotations

from tests.protocols.mcp.malformed.row import NOBODY, Answer, Headers, Row

__all__ = ["ROWS"]

PATHS = (
    ("POST", "/mcp"),
    ("GET", "/sse"),
    ("POST", "/messages/"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/x"),
)


def everywhere(rule: str, answer: Answer, *found: Headers) -> list[Row]:
    return [
        Row(kind="guard", rule=rule, method=method, path=path, headers=one, answers={NOBODY: answer})
        for one in found
        for method, path in PATHS
    ]


def at_mcp(rule: str, answer: Answer, *found: Headers) -> list[Row]:
    return [Row(kind="guard", rule=rule, path="/mcp", headers=one, answers={NOBODY: answer}) for one in found]


ROWS: list[Row] = [
    *everywhere("DNS rebinding: Host", (421, -32600), {"Host": "evil.example"}),
    *everywhere("MCP transports: Origin", (403, -32600), {"Origin": "http://evil.example"}),
    *at_mcp(
        "DNS rebinding: Host",
        (421, -32600),
        {"Host": "evil.example:80"},
        {"Host": "localhost.evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "localhost."},
        {"Host": "10.0.0.1"},
        {"Host": "0.0.0.0"},
        {"Host": "[::2]"},
        {"Host": "[::ffff:10.0.0.1]"},
        {"Host": "127.1"},
        {"Host": "2130706433"},
        {"Host": "evil.example", "Origin": "http://localhost"},
    ),
    *at_mcp(
        "MCP transports: Origin",
        (403, -32600),
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "*"},
        {"Origin": "localhost"},
        {"Origin": "http://"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": "http://evil.example/localhost"},
        {"Origin": "http://evil.example#localhost"},
        {"Origin": "http://localhost@evil.example"},
        {"Origin": "http://evil.example@localhost"},
        {"Origin": "http://127.0.0.1.evil.example"},
        {"Origin": "http://[::1"},
        {"Origin": "file://"},
        {"Origin": "data:text/html,x"},
        {"Origin": "http://loc\xe4lhost"},
        {"Origin": "http://evil.example, http://localhost"},
        {"Origin": "http://" + "x" * 5000},
    ),
    *at_mcp(
        "RFC 6454 7.3: one Origin",
        (400, -32600),
        {"Origin": ("http://localhost", "http://evil.example")},
        {"Origin": ("http://localhost", "http://localhost")},
    ),
]
