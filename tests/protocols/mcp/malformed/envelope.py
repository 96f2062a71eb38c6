"""JSON that is no JSON-RPC message: the members of the envelope, ids, batches (JSON-RPC 2.0; MCP: base protocol)."""

from __future__ import annotations

from tests.protocols.mcp.malformed.row import EVERY, LEGACY, MODERN, SSE, Answer, Row, bodies

__all__ = ["ROWS"]


def invalid(kind: str, rule: str, *found: bytes) -> list[Row]:
    return bodies(kind, *((rule, body, 400, -32600) for body in found))


def with_id(id: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","id":' + id + b',"method":"ping"}'


def with_params(params: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","id":7,"method":"tools/list","params":' + params + b"}"


def batch(rule: str, body: bytes, answer: Answer = (400, -32600)) -> Row:
    """An array; `answer` is that of 2025-03-26, the only version that has them."""
    return Row(kind="batch", rule=rule, body=body, answers=dict.fromkeys(EVERY, (400, -32600)) | {"2025-03-26": answer})


PING = with_id(b"7")
NOTE = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'

ROWS: list[Row] = [
    *invalid(
        "jsonrpc",
        "JSON-RPC 4",
        b"{}",
        b'{"id":7,"method":"ping"}',
        b'{"jsonrpc":null,"id":7,"method":"ping"}',
        b'{"jsonrpc":2,"id":7,"method":"ping"}',
        b'{"jsonrpc":2.0,"id":7,"method":"ping"}',
        b'{"jsonrpc":true,"id":7,"method":"ping"}',
        b'{"jsonrpc":[],"id":7,"method":"ping"}',
        b'{"jsonrpc":{"2":0},"id":7,"method":"ping"}',
        b'{"jsonrpc":"","id":7,"method":"ping"}',
        b'{"jsonrpc":"1.0","id":7,"method":"ping"}',
        b'{"jsonrpc":"2","id":7,"method":"ping"}',
        b'{"jsonrpc":"2.0 ","id":7,"method":"ping"}',
        b'{"jsonrpc":"2.00","id":7,"method":"ping"}',
        b'{"jsonrpc":"3.0","id":7,"method":"ping"}',
        '{"jsonrpc":"\uff12.0","id":7,"method":"ping"}'.encode(),
        b'{"JSONRPC":"2.0","id":7,"method":"ping"}',
        b'{"jsonrpc":"2.0","jsonrpc":"1.0","id":7,"method":"ping"}',
        b'{"jsonrpc":1e400,"id":7,"method":"ping"}',
    ),
    *invalid(
        "method",
        "JSON-RPC 4",
        b'{"jsonrpc":"2.0","id":7}',
        b'{"jsonrpc":"2.0","id":7,"method":null}',
        b'{"jsonrpc":"2.0","id":7,"method":5}',
        b'{"jsonrpc":"2.0","id":7,"method":1e400}',
        b'{"jsonrpc":"2.0","id":7,"method":true}',
        b'{"jsonrpc":"2.0","id":7,"method":[]}',
        b'{"jsonrpc":"2.0","id":7,"method":["ping"]}',
        b'{"jsonrpc":"2.0","id":7,"method":{"name":"ping"}}',
        b'{"jsonrpc":"2.0","id":7,"method":""}',
        b'{"jsonrpc":"2.0","id":7,"Method":"ping"}',
        b'{"jsonrpc":"2.0","id":7,"method":"ping","method":null}',
        b'{"jsonrpc":"2.0","method":null}',
        b'{"jsonrpc":"2.0","method":""}',
        b'{"jsonrpc":"2.0"}',
    ),
    *invalid(
        "params",
        "JSON-RPC 4.2",
        with_params(b"null"),
        with_params(b"true"),
        with_params(b"5"),
        with_params(b'"cursor"'),
        with_params(b"[]"),
        with_params(b'[{"cursor":null}]'),
        b'{"jsonrpc":"2.0","method":"notifications/initialized","params":[]}',
        b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":null}',
    ),
    *invalid(
        "id",
        "JSON-RPC 4",
        with_id(b"null"),
        with_id(b"true"),
        with_id(b"false"),
        with_id(b"1.5"),
        with_id(b"-0.1"),
        with_id(b"1e400"),
        with_id(b"-1e400"),
        with_id(b"[]"),
        with_id(b"[7]"),
        with_id(b"{}"),
        with_id(b'{"id":7}'),
        with_id(b'"' + b"x" * 256 + b'"'),
        with_id(b'"' + b"\\u0000" * 256 + b'"'),
        with_id(b'"' + b"x" * 100_000 + b'"'),
        with_id(b"1" + b"0" * 255),
        with_id(b"-1" + b"0" * 255),
        with_id(b"9" * 4301),
        with_id(b"9" * 100_000),
        with_id(b"7" + b'.5,"id":null'),
        with_id(b'7,"id":null'),
        with_id(b'7,"id":[]'),
    ),
    *invalid(
        "request and response",
        "JSON-RPC 5",
        b'{"jsonrpc":"2.0","id":7,"method":"ping","result":{}}',
        b'{"jsonrpc":"2.0","id":7,"method":"ping","result":null}',
        b'{"jsonrpc":"2.0","id":7,"method":"ping","error":{"code":1,"message":"x"}}',
        b'{"jsonrpc":"2.0","id":7,"method":"ping","result":1,"error":null}',
        b'{"jsonrpc":"2.0","id":7,"result":{},"error":{"code":1,"message":"x"}}',
        b'{"jsonrpc":"2.0","method":"notifications/initialized","result":{}}',
    ),
    *invalid(
        "response",
        "JSON-RPC 5",
        b'{"jsonrpc":"2.0","result":{}}',
        b'{"jsonrpc":"2.0","id":null,"result":{}}',
        b'{"jsonrpc":"2.0","id":true,"result":{}}',
        b'{"jsonrpc":"2.0","id":1.5,"result":{}}',
        b'{"jsonrpc":"2.0","id":{},"error":{"code":1,"message":"x"}}',
        b'{"jsonrpc":"2.0","id":7,"error":null}',
        b'{"jsonrpc":"2.0","id":7,"error":[]}',
        b'{"jsonrpc":"2.0","id":7,"error":"failed"}',
        b'{"jsonrpc":"2.0","id":7,"error":{}}',
        b'{"jsonrpc":"2.0","id":7,"error":{"message":"x"}}',
        b'{"jsonrpc":"2.0","id":7,"error":{"code":1}}',
        b'{"jsonrpc":"2.0","id":7,"error":{"code":"1","message":"x"}}',
        b'{"jsonrpc":"2.0","id":7,"error":{"code":1.5,"message":"x"}}',
        b'{"jsonrpc":"2.0","id":7,"error":{"code":null,"message":"x"}}',
        b'{"jsonrpc":"2.0","id":7,"error":{"code":1e400,"message":"x"}}',
        b'{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":null}}',
        b'{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":["x"]}}',
    ),
    batch("JSON-RPC 6", b"[]"),
    batch("JSON-RPC 6", b"[ ]"),
    batch("JSON-RPC 6", b"[" + b",".join([PING] * 101) + b"]"),
    batch("JSON-RPC 6", b"[" + b",".join([NOTE] * 101) + b"]"),
    batch("JSON-RPC 6", b"[" + b"1," * 50_000 + b"1]"),
    batch("MCP 2025-06-18 changelog", b"[" + PING + b"]", (200, None)),
    batch("MCP 2025-06-18 changelog", b"[" + NOTE + b"]", (202, None)),
    batch("MCP 2025-06-18 changelog", b'[{"jsonrpc":"2.0","id":7,"result":{}}]', (202, None)),
    batch("JSON-RPC 6", b"[1]", (200, -32600)),
    batch("JSON-RPC 6", b"[1,2,3]", (200, -32600)),
    batch("JSON-RPC 6", b"[null]", (200, -32600)),
    batch("JSON-RPC 6", b"[{}]", (200, -32600)),
    batch("JSON-RPC 6", b'["ping"]', (200, -32600)),
    batch("JSON-RPC 6", b"[[]]", (200, -32600)),
    batch("JSON-RPC 6", b"[[" + PING + b"]]", (200, -32600)),
    batch("JSON-RPC 6", b"[" + with_id(b"null") + b"]", (200, -32600)),
    batch("JSON-RPC 6", b'[{"jsonrpc":"2.0","id":7,"method":"no/such"}]', (200, -32601)),
    batch("JSON-RPC 6", b'[{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{}}]', (200, -32602)),
    batch(
        "MCP 2025-03-26 lifecycle",
        b'[{"jsonrpc":"2.0","id":7,"method":"initialize","params":{"protocolVersion":"2025-03-26"}}]',
        (200, -32600),
    ),
    *(
        Row(
            kind="response",
            rule="MCP 2026-07-28 transports: clients never send responses",
            body=body,
            answers={MODERN: (400, -32600)} | dict.fromkeys((*LEGACY, SSE), (202, None)),
        )
        for body in (
            b'{"jsonrpc":"2.0","id":7,"result":{}}',
            b'{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":"x"}}',
            b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"x"}}',
            b'{"jsonrpc":"2.0","error":{"code":-32700,"message":"x"}}',
        )
    ),
]
