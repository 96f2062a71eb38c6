"""Where the targets begin, what is put in, and JSON as Python's own parser reads it."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

from tailrace.wire.jsonrpc import MAX_DEPTH
from tests.protocols.mcp.malformed import ROWS

__all__ = ["BODIES", "JSON_TOKENS", "corpus", "pieces_of", "read_json"]

CORPUS = Path(__file__).parent / "corpus"
BODIES = [row.body for row in ROWS if row.body is not None and len(row.body) < 2000]
JSON_TOKENS = [
    *(b'{}[],:"'[at : at + 1] for at in range(7)),
    *(b"null", b"true", b"false", b"0", b"-1", b"1.5", b"1e400", b"1E-7", b"1.0", b"-0", b"-0.0", b"9" * 30),
    *(
        b"18446744073709551616",
        b"9007199254740993",
        b"1e2",
        b'""',
        b'"a"',
        b'"\\u0000"',
        b'"\\ud800"',
        b'"\\ud83d\\ude00"',
    ),
    *(b"\\", b"\\u", b"\xc3\xa9", b"\xff", b"\xef\xbb\xbf", b" ", b"\n", b"[" * 20, b'{"a":' * 20, b"NaN", b"Infinity"),
    *(b'"jsonrpc":"2.0"', b'"id":', b'"method":', b'"params":', b'"result":', b'"error":', b'"code":', b'"message":'),
    *(b'"_meta":', b'"name":', b'"arguments":', b'"cursor":', b'"progressToken":', b'"tools/call"', b'"ping"'),
]


def corpus(name: str) -> list[bytes]:
    """Inputs worth to be kept: one file a target, one base64 line each."""
    path = CORPUS / f"{name}.txt"
    return [base64.b64decode(line) for line in path.read_text().splitlines()] if path.exists() else []


def pieces_of(data: bytes) -> list[bytes]:
    """The input cut where it says itself: behind each byte that is followed by one of a few values."""
    cuts = [at for at in range(1, len(data)) if data[at] % 7 == data[at - 1] % 5]
    return [data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def read_json(data: bytes) -> tuple[bool, Any]:
    """Whether this is JSON as we take it, read by Python's own parser, and the value."""
    try:
        value = json.loads(data.decode(), parse_constant=refuse_constant, object_pairs_hook=read_pairs)
        encoded = json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair cannot be encoded
    except (ValueError, RecursionError):
        return False, None
    deep = data.count(b"[") + data.count(b"{") > MAX_DEPTH
    return not deep and b"Infinity" not in encoded and not _HUGE.search(data), value  # 1e400, and long integers


_HUGE = re.compile(rb"[0-9]{200}|[eE][+]?[0-9]{3}")


def read_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; half a surrogate pair is refused also in a member that a later one replaces."""
    for pair in pairs:
        json.dumps(pair, ensure_ascii=False).encode()
    return dict(pairs)


def refuse_constant(text: str) -> None:
    raise ValueError(text)
