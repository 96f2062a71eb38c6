"""The head of a request over HTTP/2: its fields, decoded, become the same `Head` that HTTP/1.1 has.

RFC 9113, 8.2 and 8.3, strictly: what it calls malformed is no request, and its stream is reset; what is one,
but cannot be served, is answered.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from tailrace.transports.http.head import (
    CHUNKED,
    MAX_FIELDS,
    METHODS,
    BadRequest,
    Head,
    check_target,
    is_host,
    read_length,
    split_path,
)
from tailrace.wire.h2_fields import Malformed, check_field, read_pseudo
from tailrace.wire.hpack import Decoder, FieldsTooLarge, encode

if TYPE_CHECKING:
    from tailrace.core.exchange import Headers
    from tailrace.wire.hpack import Field

__all__ = ["HeadReader", "check_trailers", "encode_fields", "read_head"]

# What is kept of one connection's heads: a few KiB as a rule, 64 at the worst.
_KNOWN = 16
_KNOWN_BYTES = 512  # of the block
_KNOWN_TEXT = 4096  # of the fields' values
_PSEUDO = frozenset({b":method", b":scheme", b":authority", b":path"})
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class HeadReader:
    """Blocks of one connection's header fields, decoded and read.

    Args:
        limit: Bytes of a block's fields.
    """

    __slots__ = ("_decoder", "_known")

    def __init__(self, limit: int) -> None:
        self._decoder = Decoder(limit)
        self._known: dict[bytes, Head] = {}

    def read(self, block: bytes) -> Head:
        """The head in a block. One that came before is known, unless the decoder's table has changed since.

        Raises:
            Malformed: There is none in it.
            BadRequest: It cannot be served.
            HpackError: The block cannot be decoded.
        """
        head = self._known.get(block)
        if head is None:
            changes = self._decoder.changes
            try:
                head = read_head(self.decode(block))
            except FieldsTooLarge as large:
                raise BadRequest(431, str(large)) from None
            if changes == self._decoder.changes and len(block) <= _KNOWN_BYTES and _is_small(head):
                if len(self._known) >= _KNOWN:
                    self._known.clear()
                self._known[block] = head
        return head

    def decode(self, block: bytes) -> list[Field]:
        """The fields of a block.

        Raises:
            HpackError: It cannot be decoded.
            FieldsTooLarge: They are over the limit.
        """
        changes = self._decoder.changes
        try:
            return self._decoder.decode(block)
        finally:
            if changes != self._decoder.changes:
                self._known.clear()


def _is_small(head: Head) -> bool:
    """A byte of a block may name a field of kilobytes."""
    values = [*head.headers.values(), *(value for _, value in head.repeated)]
    return len(head.query) + sum(len(value) for value in values) <= _KNOWN_TEXT


def read_head(fields: Sequence[Field]) -> Head:
    """The head that these fields are.

    Raises:
        Malformed: They are none.
        BadRequest: It cannot be served.
    """
    pseudo, at = read_pseudo(fields, _PSEUDO)
    headers, repeated = _read_headers(fields, at)
    method, path = pseudo.get(b":method"), pseudo.get(b":path")
    if not method or not _TOKEN.fullmatch(method):
        raise Malformed(":method is missing, or no token")
    if method != b"CONNECT" and not (pseudo.get(b":scheme") and path):
        raise Malformed(":scheme and :path must be there")
    _set_host(headers, pseudo.get(b":authority"))
    length = _length(headers, repeated)
    if method not in METHODS or path is None:
        raise BadRequest(501, f"method {method.decode()[:32]} is not served here")
    if len(headers) + len(repeated) > MAX_FIELDS:
        raise BadRequest(431, f"more than {MAX_FIELDS} header fields")
    if path == b"*" and method == b"OPTIONS":
        target = ("*", b"")
    else:
        check_target(path)
        if not path.startswith(b"/"):
            raise Malformed(":path must begin with a slash")
        target = split_path(path)
    expects = headers.get(b"expect")
    if expects is not None and expects.lower() != "100-continue":
        raise BadRequest(417, "the only expectation met here is 100-continue")
    return Head(
        method.decode("ascii"), *target, headers, tuple(repeated), length, True, True, True, expects is not None
    )


def check_trailers(fields: Sequence[Field]) -> None:
    """Fields behind a request's body.

    Raises:
        Malformed: They may not stand there.
    """
    _, at = read_pseudo(fields, frozenset())
    _read_headers(fields, at)


def encode_fields(headers: Headers) -> bytes:
    """Header or trailer fields of a reply, as a block or a part of one.

    Raises:
        ValueError: One contains a line break.
    """
    return _encode_constant(headers) if isinstance(headers, tuple) else _encode(headers)


@lru_cache(maxsize=256)
def _encode_constant(headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    return _encode(headers)


def _encode(headers: Headers) -> bytes:
    for _, value in headers:
        if b"\n" in value or b"\r" in value or b"\0" in value:
            raise ValueError("a header of a reply contains a line break")
    return encode([(name.lower(), value) for name, value in headers])


def _read_headers(fields: Sequence[Field], at: int) -> tuple[dict[bytes, str], list[tuple[bytes, str]]]:
    """The header fields by name, and those that repeat one."""
    headers: dict[bytes, str] = {}
    repeated: list[tuple[bytes, str]] = []
    for name, value in fields[at:]:
        check_field(name, value)
        text = value.decode("latin-1")
        if name in headers:
            repeated.append((name, text))
        else:
            headers[name] = text
    if b"te" in headers and headers[b"te"].lower() != "trailers":
        raise Malformed("te may only be trailers")
    return headers, repeated


def _set_host(headers: dict[bytes, str], authority: bytes | None) -> None:
    """`:authority` stands for Host; they may not differ (RFC 9113, 8.3.1)."""
    host = headers.get(b"host")
    if authority:
        text = authority.decode("latin-1")
        if host is not None and host.lower() != text.lower():
            raise Malformed(":authority and host differ")
        headers[b"host"] = host = text
    if host is None:
        raise BadRequest(400, ":authority is missing")
    if not is_host(host):
        raise BadRequest(400, "Host is not a host")


def _length(headers: dict[bytes, str], repeated: list[tuple[bytes, str]]) -> int:
    if any(name in (b"content-length", b"host") for name, _ in repeated):
        raise Malformed("content-length or host is there more than once")
    text = headers.get(b"content-length")
    return CHUNKED if text is None else read_length(text)
