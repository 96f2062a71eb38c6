"""Bodies that are no JSON, or no JSON that a message can be (RFC 8259; MCP: messages are UTF-8)."""

from __future__ import annotations

from tests.protocols.mcp.malformed.row import Row, bodies

__all__ = ["ROWS"]

PING = b'{"jsonrpc":"2.0","id":7,"method":"ping"}'


def echo(text: bytes) -> bytes:
    """A call of `echo` with this between the quotes of its argument."""
    return (
        b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo","arguments":{"text":"' + text + b'"}}}'
    )


def syntax(kind: str, rule: str, *found: bytes) -> list[Row]:
    return bodies(kind, *((rule, body, 400, -32700) for body in found))


ROWS: list[Row] = [
    *syntax("empty", "RFC 8259 2", b"", b" ", b"\r\n\t ", b"\0", b"\0" * 100),
    *syntax(
        "cut short",
        "RFC 8259 2",
        b"{",
        b"[",
        b'"',
        b'{"jsonrpc"',
        b'{"jsonrpc":',
        b'{"jsonrpc":"2.0"',
        PING[:-1],
        PING[:-2],
        b"[" + PING,
        b"tru",
        b"-",
    ),
    *syntax(
        "structure",
        "RFC 8259 2",
        b"}",
        b"]",
        b",",
        b":",
        b"{]",
        b"[}",
        b"{,}",
        b"[,]",
        PING + b",",
        PING + b"}",
        PING + PING,
        PING + b"\n" + PING,
        PING + b"\0",
        PING + b" junk",
        b"junk " + PING,
        b'{"jsonrpc":"2.0","id":7,"method":"ping",}',
        b'{"jsonrpc":"2.0",,"id":7,"method":"ping"}',
        b'{"jsonrpc":"2.0" "id":7 "method":"ping"}',
        b'{"jsonrpc"="2.0","id"=7,"method"="ping"}',
        b'{"jsonrpc":"2.0","id":7:8,"method":"ping"}',
        b'{"jsonrpc":"2.0","id":7,"method":"ping","params":{}]}',
        b'{"jsonrpc":"2.0","id":7,"method":"ping","params":{"a"}}',
        b'{"jsonrpc":"2.0","id":7,"method":"ping","params":{1:2}}',
        b'{"jsonrpc":"2.0","id":7,"method":"ping","params":[1 2]}',
    ),
    *syntax(
        "other dialects",
        "RFC 8259 1",
        b"{'jsonrpc':'2.0','id':7,'method':'ping'}",
        b'{jsonrpc:"2.0",id:7,method:"ping"}',
        b'/* a comment */{"jsonrpc":"2.0","id":7,"method":"ping"}',
        b'{"jsonrpc":"2.0","id":7,"method":"ping"} // a comment',
        b'{"jsonrpc":"2.0","id":7,"method":"ping","params":{"a":NaN}}',
        b'{"jsonrpc":"2.0","id":7,"method":"ping","params":{"a":Infinity}}',
        b'{"jsonrpc":"2.0","id":7,"method":"ping","params":{"a":undefined}}',
        b'{"jsonrpc":"2.0","id":7,"method":"ping","params":{"a":True}}',
        b'{"jsonrpc":"2.0","id":7,"method":"ping","params":{"a":nil}}',
        b"jsonrpc: '2.0'\nid: 7\nmethod: ping\n",
        b"<methodCall><methodName>ping</methodName></methodCall>",
        b"jsonrpc=2.0&id=7&method=ping",
        b"POST /mcp HTTP/1.1\r\n\r\n",
        b"data: " + PING + b"\n\n",
        b"Content-Length: 40\r\n\r\n" + PING,
        b"\x1e" + PING + b"\n",
        b"\x81\xa7jsonrpc\xa32.0",
        b"\x1f\x8b\x08\0\0\0\0\0\0\x03",
    ),
    *syntax(
        "numbers",
        "RFC 8259 6",
        b'{"jsonrpc":"2.0","id":07,"method":"ping"}',
        b'{"jsonrpc":"2.0","id":+7,"method":"ping"}',
        b'{"jsonrpc":"2.0","id":0x7,"method":"ping"}',
        b'{"jsonrpc":"2.0","id":.7,"method":"ping"}',
        b'{"jsonrpc":"2.0","id":7.,"method":"ping"}',
        b'{"jsonrpc":"2.0","id":7e,"method":"ping"}',
        b'{"jsonrpc":"2.0","id":--7,"method":"ping"}',
        b'{"jsonrpc":"2.0","id":7_000,"method":"ping"}',
        b'{"jsonrpc":"2.0","id":7n,"method":"ping"}',
        '{"jsonrpc":"2.0","id":\u0667,"method":"ping"}'.encode(),
    ),
    *syntax(
        "strings",
        "RFC 8259 7",
        b'{"jsonrpc":"2.0","id":7,"method":"ping}',
        b'{"jsonrpc":"2.0","id":7,"method":"pi\nng"}',
        b'{"jsonrpc":"2.0","id":7,"method":"pi\tng"}',
        b'{"jsonrpc":"2.0","id":7,"method":"pi\0ng"}',
        b'{"jsonrpc":"2.0","id":7,"method":"pi\x1bng"}',
        b'{"jsonrpc":"2.0","id":7,"method":"\\ping"}',
        b'{"jsonrpc":"2.0","id":7,"method":"\\x70ing"}',
        b'{"jsonrpc":"2.0","id":7,"method":"\\u70"}',
        b'{"jsonrpc":"2.0","id":7,"method":"\\uZZZZ"}',
        b'{"jsonrpc":"2.0","id":7,"method":"ping\\"}',
        b'{"jsonrpc":"2.0","id":7,"method":"ping\\',
        b'{"jsonrpc":"2.0","id":7,"method":\xe2\x80\x9cping\xe2\x80\x9d}',
    ),
    *syntax(
        "half a surrogate pair",
        "RFC 8259 8.2",
        b'{"jsonrpc":"2.0","id":7,"method":"\\ud800"}',
        b'{"jsonrpc":"2.0","id":7,"method":"\\udc00"}',
        b'{"jsonrpc":"2.0","id":7,"method":"\\ude00\\ud83d"}',
        b'{"jsonrpc":"2.0","id":"\\ud83d","method":"ping"}',
        b'{"jsonrpc":"\\ud83d","id":7,"method":"ping"}',
        b'{"jsonrpc":"2.0","id":7,"method":"ping","\\ud83d":1}',
        b'{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{"cursor":"\\ud800"}}',
        echo(b"\\ud800"),
        echo(b"\\udfff\\ud800"),
        echo(b"\\ud83d\\u0041"),
    ),
    *syntax(
        "not UTF-8",
        "RFC 8259 8.1",
        echo(b"\xff"),
        echo(b"\xfe\xff"),
        echo(b"\x80"),
        echo(b"\xc3"),
        echo(b"\xc3("),
        echo(b"\xc0\xaf"),
        echo(b"\xe0\x80\xaf"),
        echo(b"\xed\xa0\x80"),
        echo(b"\xed\xa0\xbd\xed\xb8\x80"),
        echo(b"\xf4\x90\x80\x80"),
        echo(b"\xf8\x88\x80\x80\x80"),
        echo("é".encode("latin-1")),
        echo("茶".encode("shift-jis")),
        b"\xff" + PING,
        PING + b"\xff",
        b'{"jsonrpc":"2.0","id":7,"method":"ping","\xff":1}',
    ),
    *syntax(
        "another encoding",
        "RFC 8259 8.1",
        b"\xef\xbb\xbf" + PING,
        PING.decode().encode("utf-16"),
        PING.decode().encode("utf-16-le"),
        PING.decode().encode("utf-16-be"),
        PING.decode().encode("utf-32"),
        PING.decode().encode("utf-7").replace(b'"', b"+ACI-"),
    ),
    *syntax(
        "depth",
        "RFC 8259 9",
        b"[" * 513 + b"]" * 513,
        b'{"a":' * 513 + b"1" + b"}" * 513,
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000,
        b'{"jsonrpc":"2.0","id":7,"method":"ping","params":{"a":' + b"[" * 512 + b"]" * 512 + b"}}",
        b'{"jsonrpc":"2.0","id":7,"method":"ping","params":' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}",
        b'{"jsonrpc":"2.0","id":' + b"[" * 5000 + b"]" * 5000 + b',"method":"ping"}',
    ),
    *bodies(
        "no object",
        *(
            ("JSON-RPC 4", body, 400, -32600)
            for body in (
                b"null",
                b"true",
                b"false",
                b"0",
                b"7",
                b"-1.5e3",
                b"1" * 5000,
                b'""',
                b'"ping"',
                b'"' + b"x" * 10_000 + b'"',
            )
        ),
    ),
]
