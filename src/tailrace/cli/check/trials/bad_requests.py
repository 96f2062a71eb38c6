"""Bad requests, one kind after another: what is sent, in bytes, and what may come back.

A row that the specification asks for with MUST says so; the others are advice (SHOULD, or the custom of the field).
`malformed` sends them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tailrace.cli.check.http import target_of
from tailrace.cli.check.shared_stream import HttpSse
from tailrace.cli.check.streamable import Modern, Streamable
from tailrace.cli.check.talk import Conversation, request

if TYPE_CHECKING:
    from tailrace.cli.check.model import Json

__all__ = ["BAD_CALLS", "Row", "Seen", "address", "good", "lines", "rows"]

_DEEP = b"[" * 20_000
_LONG = 50_000  # bytes of a query string that once wedged a server

Check = Callable[["Seen"], bool]


@dataclass(frozen=True, slots=True)
class Seen:
    """What came back: a status (0: the connection was closed instead), and the code of a JSON-RPC error in it."""

    status: int
    code: int | None = None
    tool_error: bool = False

    def __str__(self) -> str:
        status = f"HTTP {self.status}" if self.status else "a closed connection"
        return status if self.code is None else f"{status} with {self.code}"


@dataclass(frozen=True, slots=True)
class Row:
    """One bad request.

    Args:
        name: What is wrong with it.
        data: All of it, in bytes.
        wants: What may come back, for people.
        check: The same, for this program.
        must: Whether the specification says MUST.
    """

    name: str
    data: bytes
    wants: str
    check: Check
    must: bool = True


# --- encoding ------------------------------------------------------------------------------------


def address(client: Conversation) -> str:
    """Where a client sends its messages."""
    if isinstance(client, HttpSse):
        return client.endpoint
    assert isinstance(client, Streamable | Modern)
    return client.url


def _headers(client: Conversation, message: Json) -> dict[str, str]:
    if isinstance(client, HttpSse):
        return {"Content-Type": "application/json"}
    assert isinstance(client, Streamable | Modern)
    return dict(client.headers(message))


def _encode(
    client: Conversation, body: bytes, headers: Mapping[str, str | None], *, method: str = "POST", target: str = "",
    message: Json | None = None,
) -> bytes:  # fmt: skip
    """One request to the address of a client; a header that is None is left out."""
    url = address(client)
    host = url.partition("://")[2].partition("/")[0]
    merged: dict[str, str | None] = {
        "Host": host,
        **_headers(client, message or {}),
        "Content-Length": str(len(body)),
        **headers,
    }
    lines = [f"{method} {target or target_of(url)} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in merged.items() if value is not None]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def good(client: Conversation, **headers: str) -> bytes:
    """A request that nothing is wrong with, but for these headers."""
    message = request("good", "tools/list", _meta(client))
    return _encode(client, json.dumps(message).encode(), headers, message=message)


def _meta(client: Conversation) -> Json:
    return {"_meta": client.meta()} if isinstance(client, Modern) else {}


# --- rows -------------------------------------------------------------------------------------------


def _refused(seen: Seen) -> bool:
    return seen.status == 0 or 400 <= seen.status < 500 or seen.status in (501, 505)


def _error(seen: Seen) -> bool:
    return seen.code is not None or seen.tool_error or _refused(seen)


def _any(_: Seen) -> bool:
    return True


def _status(*wanted: int) -> tuple[str, Check]:
    return " or ".join(map(str, wanted)), lambda seen: seen.status in wanted


def _code(code: int, status: int | None = None) -> tuple[str, Check]:
    said = str(code) if status is None else f"HTTP {status} with {code}"
    return said, lambda seen: seen.code == code and (status is None or seen.status == status)


_REFUSED: tuple[str, Check] = ("a refusal (4xx)", _refused)
_ERROR: tuple[str, Check] = ("an error", _error)
_LATER: tuple[str, Check] = ("a refusal, or 202 and an error later", lambda seen: _refused(seen) or seen.status == 202)
_ANY: tuple[str, Check] = ("any reply", _any)

_BODIES: tuple[tuple[str, bytes, bool], ...] = (
    ("an empty body", b"", True),
    ("broken JSON", b'{"jsonrpc": "2.0", ', True),
    ("a body that is no UTF-8", b'{"jsonrpc": "2.0", "id": 1, "method": "\xff\xfe"}', True),
    ("a JSON number", b"42", True),
    ("a JSON text", b'"tools/list"', True),
    ("null", b"null", True),
    ("an empty object", b"{}", True),
    ("no jsonrpc", b'{"id": 1, "method": "tools/list"}', False),
    ("jsonrpc 1.0", b'{"jsonrpc": "1.0", "id": 1, "method": "tools/list"}', False),
    ("an id that is an object", b'{"jsonrpc": "2.0", "id": {}, "method": "tools/list"}', False),
    ("a method that is a number", b'{"jsonrpc": "2.0", "id": 1, "method": 7}', False),
    ("neither method nor result", b'{"jsonrpc": "2.0", "id": 1}', False),
    ("20,000 open brackets", _DEEP, True),
    ("an empty array", b"[]", True),
)
# Name, method, params, and the code that JSON-RPC or MCP name for it (None: any error).
BAD_CALLS: tuple[tuple[str, str, Any, int | None], ...] = (
    ("an unknown method", "no/such", {}, -32601),
    ("an unknown tool", "tools/call", {"name": "no such tool", "arguments": {}}, -32602),
    ("tools/call without a name", "tools/call", {"arguments": {}}, -32602),
    ("arguments that are a text", "tools/call", {"name": "echo", "arguments": "x"}, -32602),
)


def rows(client: Conversation) -> Iterable[Row]:
    """All bad requests for this way of speaking."""
    yield from _message_rows(client)
    yield from _http_rows(client)


def _message_rows(client: Conversation) -> Iterable[Row]:
    wants = _LATER if isinstance(client, HttpSse) else _ERROR  # there, an error may come on the stream, after a 202
    for name, body, must in _BODIES:
        yield Row(name, _encode(client, body, {}), *wants, must)
    if isinstance(client, HttpSse):
        yield from _sse_rows(client)
        return
    for name, method, params, code in BAD_CALLS:
        message = request("bad", method, {**params, **_meta(client)})
        yield Row(name, _post(client, message), *_ERROR)
        if code == -32601:
            yield Row(f"{name}: its code", _post(client, message), *_code(code), isinstance(client, Modern))
    yield from _modern_rows(client) if isinstance(client, Modern) else _streamable_rows(client)


def _post(client: Conversation, message: Json, **headers: str | None) -> bytes:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return _encode(client, json.dumps(message).encode(), fields, message=message)


def _streamable_rows(client: Conversation) -> Iterable[Row]:
    assert isinstance(client, Streamable)
    good = request("bad", "tools/list")
    if client.version >= "2025-06-18":
        yield Row(
            "an unknown MCP-Protocol-Version", _post(client, good, MCP_Protocol_Version="1900-01-01"), *_status(400)
        )
        yield Row("a batch", _encode(client, json.dumps([good]).encode(), {}), *_REFUSED, must=False)
    if client.session:
        yield Row("no session id", _post(client, good, Mcp_Session_Id=None), *_status(400), must=False)
        yield Row("an unknown session id", _post(client, good, Mcp_Session_Id="f" * 32), *_REFUSED)
        yield Row("a session id of 10,000 bytes", _post(client, good, Mcp_Session_Id="f" * 10_000), *_REFUSED)
    hello = request("bad", "initialize")
    yield Row("initialize without params", _post(client, hello, Mcp_Session_Id=None), *_ERROR, must=False)
    yield Row("Accept without both types", _post(client, good, Accept="text/html"), *_ANY)
    yield Row("a GET that accepts no events", _encode(client, b"", {"Accept": "text/html"}, method="GET"), *_REFUSED,
              must=False)  # fmt: skip
    odd: Json = {"jsonrpc": "2.0", "id": "nobody asked", "result": {}}
    yield Row("an answer to nothing", _post(client, odd), *_ANY)
    yield Row("an unknown notification", _post(client, {"jsonrpc": "2.0", "method": "notifications/odd"}), *_ANY)


def _modern_rows(client: Modern) -> Iterable[Row]:
    meta = client.meta()
    good = request("bad", "tools/list", {"_meta": meta})
    version = "io.modelcontextprotocol/protocolVersion"
    without = {key: value for key, value in meta.items() if key != version}
    call = request("bad", "tools/call", {"name": "echo", "arguments": {}, "_meta": meta})
    old = request("bad", "tools/list", {"_meta": {**meta, version: "1900-01-01"}})
    yield Row("no _meta", _post(client, request("bad", "tools/list")), *_code(-32602, 400))
    yield Row("no protocol version in _meta", _post(client, request("bad", "tools/list", {"_meta": without})),
              *_code(-32602, 400))  # fmt: skip
    yield Row("a header version unlike the body's", _post(client, old), *_code(-32020, 400))
    unknown = _post(client, old, MCP_Protocol_Version="1900-01-01")  # which may be an older version's business as well
    yield Row("an unknown version", unknown, *_status(400))
    yield Row("an unknown version: its code", unknown, *_code(-32022), must=False)
    yield Row("no Mcp-Method", _post(client, good, Mcp_Method=None), *_code(-32020, 400))
    yield Row("another Mcp-Method", _post(client, good, Mcp_Method="ping"), *_code(-32020, 400))
    yield Row("no Mcp-Name", _post(client, call, Mcp_Name=None), *_code(-32020, 400))
    yield Row("another Mcp-Name", _post(client, call, Mcp_Name="other"), *_code(-32020, 400))
    yield Row("a removed method", _post(client, request("bad", "ping", {"_meta": meta})), *_code(-32601, 404))
    yield Row("a batch", _encode(client, json.dumps([good]).encode(), {"Mcp-Method": "tools/list"}), *_REFUSED)
    yield Row("a result", _post(client, {"jsonrpc": "2.0", "id": 1, "result": {}}), *_REFUSED, must=False)
    yield Row("a GET", _encode(client, b"", {}, method="GET"), *_status(405), must=False)
    yield Row("a DELETE", _encode(client, b"", {}, method="DELETE"), *_status(405), must=False)


def _sse_rows(client: HttpSse) -> Iterable[Row]:
    good = json.dumps(request("bad", "tools/list")).encode()
    path = target_of(client.endpoint).partition("?")[0]
    made_up = "f" * 32
    unknown = _encode(client, good, {}, target=f"{path}?session_id={made_up}&sessionId={made_up}")
    yield Row("an unknown session", unknown, *_REFUSED)
    if "?" in client.endpoint:
        yield Row("no session id", _encode(client, good, {}, target=path), *_REFUSED)


def _http_rows(client: Conversation) -> Iterable[Row]:
    message = request("bad", "tools/list", _meta(client))
    body = json.dumps(message).encode()

    def row(name: str, wants: tuple[str, Check], must: bool = True, *, data: bytes = body, method: str = "POST",
            target: str = "", **headers: str | None) -> Row:  # fmt: skip
        fields = {key.replace("_", "-"): value for key, value in headers.items()}
        return Row(name, _encode(client, data, fields, method=method, target=target, message=message), *wants, must)

    here = target_of(address(client))
    both = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    yield row("no Host", _REFUSED, Host=None)
    yield row("Content-Length and Transfer-Encoding", _REFUSED, False, data=both, Transfer_Encoding="chunked")
    twice = _encode(client, body, {}, message=message).replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\n", 1)
    yield Row("two Content-Lengths", twice, *_REFUSED)
    yield row("a negative Content-Length", _REFUSED, Content_Length="-1", data=b"")
    yield row("a Content-Length that is a word", _REFUSED, Content_Length="many", data=b"")
    yield row("a broken chunk size", _REFUSED, data=b"zz\r\n\r\n", Content_Length=None, Transfer_Encoding="chunked")
    yield Row("a request line that is none", b"GARBAGE\r\n\r\n", *_REFUSED)
    yield Row("bytes that are no HTTP", bytes(range(256)) + b"\r\n\r\n", *_REFUSED)
    yield row("an unknown method", _REFUSED, False, method="BREW")
    yield row("a header of 200,000 bytes", _REFUSED, False, X_Long="x" * 200_000)
    long = f"{here}{'&' if '?' in here else '?'}q=" + "x" * _LONG
    yield row(f"a query of {_LONG:,} bytes", _ANY, target=long)


def lines() -> list[tuple[str, bytes]]:
    """Bad lines for standard input."""
    found = [(name, body) for name, body, _ in _BODIES]
    return [*found, ("a NUL", b"\x00"), ("a line of 1 MB", b"x" * 1_000_000)]
