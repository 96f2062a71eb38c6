"""The head of a request: its bytes, whole, become a `Head`, or a `BadRequest` that says what is wrong with them.

httptools checks the characters of the header fields and cuts them apart. What it lets pass, and what two
parsers could read differently (request smuggling), is refused here: RFC 9112 and 9110, strictly.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

import httptools
from msgspec import Struct

from tailrace.errors import TailraceError

__all__ = [
    "CHUNKED",
    "EACH_ITS_OWN",
    "MAX_FIELDS",
    "METHODS",
    "NO_HEAD",
    "BadRequest",
    "Head",
    "Heads",
    "check_target",
    "is_host",
    "read_length",
    "split_path",
]

CHUNKED = -1  # as a `Head.length`

# A client repeats its heads, but for their Content-Length: to find one that came before takes 0.5 us, to read
# it anew 6. Bounded, since clients choose the bytes: 2 MB as a rule, 8 at the worst.
_KNOWN = 1024
_KNOWN_BYTES = 1024
_KNOWN_FIELDS = 32
EACH_ITS_OWN = frozenset({b"traceparent", b"x-request-id", b"idempotency-key", b"last-event-id"})  # never twice

MAX_FIELDS = 256
_MAX_TARGET = 16 * 1024
_MAX_DIGITS = 18  # of a Content-Length: no parser's integer overflows

METHODS = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"})
_ONCE = frozenset({b"host", b"content-length", b"transfer-encoding"})
_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}) ([^ \r\n]+) (HTTP/([0-9])\.([0-9]))\r\n")
_TARGET = re.compile(rb"[!-\"$-~]+")  # visible ASCII; a fragment is never sent
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ABSOLUTE = re.compile(rb"https?://([^/?]*)(.*)", re.IGNORECASE)
_HOST = re.compile(r"(?:[0-9A-Za-z._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{0,5})?")


class BadRequest(TailraceError):
    """The client broke HTTP, or a limit; it is answered, and the connection is closed.

    Args:
        status: Of the answer.
        message: What the client reads.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Head(Struct, frozen=True):
    """A request without its body.

    Attributes:
        method: Upper-case.
        path: Decoded; ``*`` for ``OPTIONS *``.
        query: Raw.
        headers: By lower-case name; of several with one name, the first.
        repeated: The others of them, in order.
        length: Of the body in bytes, or `CHUNKED`.
        modern: HTTP/1.1, so replies may be chunked; else HTTP/1.0.
        trailers: The client takes trailers behind a chunked reply (RFC 9110, 6.5.1).
        keep: The client wants the connection kept.
        expects: It waits for ``100 Continue``.
        verdicts: `Exchange.verdicts` of its requests.
    """

    method: str
    path: str
    query: bytes
    headers: dict[bytes, str]
    repeated: tuple[tuple[bytes, str], ...]
    length: int
    modern: bool
    trailers: bool
    keep: bool
    expects: bool
    verdicts: dict[str, Any] = {}  # of msgspec: each has its own


NO_HEAD = Head("GET", "/", b"", {}, (), 0, True, False, False, False)  # of a request whose own cannot be read


class Heads:
    """Reads heads, and knows those it has read.

    Attributes:
        known: Heads by their bytes, for a look-up that is cheaper than `read`.
    """

    def __init__(self) -> None:
        self.known: dict[bytes, Head] = {}

    def read(self, raw: bytes) -> Head:
        """The head in `raw`, which ends with the empty line.

        Raises:
            BadRequest: It cannot be served.
        """
        head = self.known.get(raw)
        if head is None:
            head = _parse(raw)
            if len(raw) <= _KNOWN_BYTES and EACH_ITS_OWN.isdisjoint(head.headers):
                self._keep(raw, head)
        return head

    def _keep(self, raw: bytes, head: Head) -> None:
        if len(head.headers) + len(head.repeated) <= _KNOWN_FIELDS:
            if len(self.known) >= _KNOWN:
                self.known.clear()
            self.known[raw] = head


def _parse(raw: bytes) -> Head:
    if raw.startswith(b"\r\n"):  # one empty line before a request is ignored: RFC 9112, 2.2
        raw = raw[2:]
    method, target, modern = _request_line(raw)
    lines = _count_lines(raw)
    headers, repeated = _cut(raw)
    if len(headers) + len(repeated) != lines - 2:  # RFC 9112, 5.2; today's httptools refuses it as well
        raise BadRequest(400, "a header field must not be folded")
    path, query = _split_target(method, target, _host(headers.get(b"host"), modern))
    return Head(
        method.decode("ascii"),
        path,
        query,
        headers,
        repeated,
        _length(headers, modern),
        modern,
        modern and b"te" in headers and "trailers" in _list(b"te", headers, repeated),
        _keeps(headers, repeated, modern),
        _expects(headers, repeated, modern),
    )


def _count_lines(raw: bytes) -> int:
    """How many there are; every one ends with CRLF, whatever httptools thinks of it (RFC 9112, 2.2)."""
    lines = raw.count(b"\n")
    if raw.count(b"\r") != lines or raw.count(b"\r\n") != lines:
        raise BadRequest(400, "lines must end with CRLF")
    if lines > MAX_FIELDS + 2:
        raise BadRequest(431, f"more than {MAX_FIELDS} header fields")
    return lines


# --- the request line ---------------------------------------------------------------------------


def _request_line(raw: bytes) -> tuple[bytes, bytes, bool]:
    """Method, target, and whether it is HTTP/1.1 (RFC 9112, 3)."""
    line = _LINE.match(raw)
    if line is None:
        raise BadRequest(400, "the request line must be METHOD TARGET HTTP/1.1, with one space between")
    method, target, version, major, minor = line.groups()
    if major != b"1" or minor not in b"10":
        raise BadRequest(505, f"{version.decode()} is not spoken on this port; HTTP/1.1 is")
    if method not in METHODS:
        raise BadRequest(501, f"method {method.decode()} is not served here")
    check_target(target)
    return method, target, minor == b"1"


def check_target(target: bytes) -> None:
    """Its size and characters.

    Raises:
        BadRequest: It cannot be served.
    """
    if len(target) > _MAX_TARGET:
        raise BadRequest(414, f"the target is over {_MAX_TARGET} bytes")
    if not _TARGET.fullmatch(target) or (b"%" in target and _BAD_ESCAPE.search(target)):
        raise BadRequest(400, "the target has characters that must be escaped")


def _split_target(method: bytes, target: bytes, host: str | None) -> tuple[str, bytes]:
    """Path and query of a target in any form (RFC 9112, 3.2); an absolute one must name the Host."""
    if not target.startswith(b"/"):
        if target == b"*" and method == b"OPTIONS":
            return "*", b""
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            raise BadRequest(400, "the target must begin with a slash")
        if host is None or absolute[1].decode("ascii").lower() != host.lower():
            raise BadRequest(400, "the target names another host than Host")
        target = absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2]
    return split_path(target)


def split_path(target: bytes) -> tuple[str, bytes]:
    """Path, decoded, and query of a target that begins with a slash."""
    path, _, query = target.partition(b"?")
    text = path.decode("ascii")
    return (unquote(text) if "%" in text else text), query


def _host(value: str | None, modern: bool) -> str | None:
    """RFC 9112, 3.2: HTTP/1.1 has exactly one Host, and it is a host."""
    if value is None and modern:
        raise BadRequest(400, "Host is missing")
    if value is not None and not is_host(value):
        raise BadRequest(400, "Host is not a host")
    return value


def is_host(value: str) -> bool:
    """Can this be a host, with or without a port (RFC 3986, 3.2.2)?"""
    return _HOST.fullmatch(value) is not None


# --- header fields ------------------------------------------------------------------------------


class _Cutter:
    """What httptools calls. Nothing here can raise: it would come out as a fault of the client's."""

    __slots__ = ("headers", "repeated")

    def __init__(self) -> None:
        self.headers: dict[bytes, str] = {}
        self.repeated: list[tuple[bytes, str]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        key = name.lower()
        text = value.rstrip().decode("latin-1")  # httptools leaves blanks at the end
        if key in self.headers:
            self.repeated.append((key, text))
        else:
            self.headers[key] = text


def _cut(raw: bytes) -> tuple[dict[bytes, str], tuple[tuple[bytes, str], ...]]:
    """The fields by lower-case name, and those that repeat one; checked and cut apart by httptools.

    Where a message ends it does not say, so it sees heads only, and a parser is of use once (0.35 us).
    """
    cutter = _Cutter()
    try:
        httptools.HttpRequestParser(cutter).feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass  # nothing is upgraded: RFC 9110, 7.8 lets us go on as if it had not been asked for; Java's client asks
    except httptools.HttpParserCallbackError as error:
        raise error.__context__ or error from None  # ours, whatever it is
    except httptools.HttpParserError as error:
        raise BadRequest(400, str(error)) from None
    for key, _ in cutter.repeated:
        if key in _ONCE:
            raise BadRequest(400, f"{key.decode()} is there more than once")
    return cutter.headers, tuple(cutter.repeated)


def _list(name: bytes, headers: dict[bytes, str], repeated: tuple[tuple[bytes, str], ...]) -> list[str]:
    """The members, in lower case, of a field that is a list (RFC 9110, 5.6.1)."""
    values = [headers[name], *(value for key, value in repeated if key == name)]
    return [member.strip(" \t") for member in ",".join(values).lower().split(",")]


def _keeps(headers: dict[bytes, str], repeated: tuple[tuple[bytes, str], ...], modern: bool) -> bool:
    """Is the connection kept behind the reply (RFC 9112, 9.3)?"""
    value = headers.get(b"connection")
    if value is None:
        return modern
    if value == "keep-alive" and not repeated:
        return True
    options = _list(b"connection", headers, repeated)
    return "close" not in options and (modern or "keep-alive" in options)


def _length(headers: dict[bytes, str], modern: bool) -> int:
    """How long the body is (RFC 9112, 6): one way of saying it, and exactly one value."""
    coding, text = headers.get(b"transfer-encoding"), headers.get(b"content-length")
    if coding is not None:
        if text is not None:
            raise BadRequest(400, "Content-Length and Transfer-Encoding exclude each other")
        if not modern:
            raise BadRequest(400, "HTTP/1.0 has no Transfer-Encoding")
        if coding.lower() != "chunked":
            last = coding.lower().rpartition(",")
            known = last[2].strip(" \t") == "chunked" and "chunked" not in last[0] and last[0].strip(" \t,")
            raise BadRequest(501 if known else 400, "the only Transfer-Encoding served here is chunked")
        return CHUNKED
    return 0 if text is None else read_length(text)


def read_length(text: str) -> int:
    """A Content-Length.

    Raises:
        BadRequest: It is none, or no body is that long.
    """
    if not (text.isascii() and text.isdigit()):
        raise BadRequest(400, "Content-Length is not a number")
    if len(text) > _MAX_DIGITS:
        raise BadRequest(413, "the body is too long")
    return int(text)


def _expects(headers: dict[bytes, str], repeated: tuple[tuple[bytes, str], ...], modern: bool) -> bool:
    """RFC 9110, 10.1.1: the one expectation there is; HTTP/1.0 cannot have it."""
    if b"expect" not in headers:
        return False
    if _list(b"expect", headers, repeated) != ["100-continue"]:
        raise BadRequest(417, "the only expectation met here is 100-continue")
    return modern
