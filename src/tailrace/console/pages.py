"""What the console serves: the page with its files, the JSON behind it, and two things that can be done.

The files say nothing about the server, so anybody who reaches the admin address may have them; all else is for who
shows the token (`core.pages.Readers`). The page is asked for nothing but files of ours: its policy forbids inline
script and style, other sites, frames and forms, and makes the browser refuse text as markup (trusted types).

The page looks again and again, and says which state it has (`If-None-Match`): an unchanged server answers 304. That
is one bounded reply for each look, and nothing to be kept for a page that is slow or gone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import msgspec

from tailrace.console.questions import Cancel, Close, Question, Refusal, Session, State
from tailrace.console.static_files import FILES, INDEX
from tailrace.core.pages import Page, Readers

if TYPE_CHECKING:
    from tailrace.console.questions import Ask
    from tailrace.core.exchange import Exchange, Headers

__all__ = ["API", "ROOT", "Console"]

ROOT = "/console"
API = "/console/api/"

_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    b"form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_SAFE = (
    (b"content-security-policy", _POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_JSON = ((b"content-type", b"application/json"), (b"cache-control", b"no-store"), *_SAFE)
_READING = frozenset({"GET", "HEAD"})


class Console:
    """The console of one server, or of several workers.

    Args:
        ask: Who answers what it asks.
        wall: Seconds since 1970.
    """

    def __init__(self, ask: Ask, wall: Callable[[], float]) -> None:
        self._ask = ask
        self._wall = wall

    def pages(self) -> Sequence[Page]:
        """All of it, for the admin door."""
        static = [Page(f"{ROOT}/{name}", _serve(name), Readers.ANYBODY) for name in FILES if name != INDEX]
        front = [Page(path, _serve(INDEX), Readers.ANYBODY) for path in (ROOT, f"{ROOT}/")]
        return [*front, *static, Page(API, self.api)]

    # --- JSON ---

    def api(self, exchange: Exchange) -> None:
        """Everything below `API`."""
        place = exchange.path.removeprefix(API).split("/")
        match place:
            case ["state"]:
                self._read(exchange, _state)
            case ["sessions", name]:
                self._read(exchange, lambda _: Session(name))
            case ["sessions", name, "close"]:
                self._act(exchange, Close(name))
            case ["calls", number, "cancel"]:
                self._act(exchange, Cancel(int(number) if _is_number(number) else 0))
            case _:
                _refuse(exchange, 404, "no such view")

    def _read(self, exchange: Exchange, question: Callable[[Exchange], Question]) -> None:
        if exchange.method not in _READING:
            return _refuse(exchange, 405, "read this with GET", (b"allow", b"GET, HEAD"))
        try:
            asked = question(exchange)
        except ValueError as error:
            return _refuse(exchange, 400, str(error))
        return self._ask(asked, partial(self._show, exchange))

    def _show(self, exchange: Exchange, found: Any) -> None:
        if found is None:
            return _refuse(exchange, 404, "no such session: it has ended, and is not kept any more")
        if isinstance(found, Refusal):
            return _refuse(exchange, *found)
        body = msgspec.json.encode(found)
        tag = b'"%s"' % hashlib.blake2b(body, digest_size=12).hexdigest().encode()
        time = (b"tailrace-time", b"%.3f" % self._wall())  # beside the body, which does not change with it
        return _reply(exchange, (*_JSON, (b"etag", tag), time), tag, body)

    # --- what can be done ---

    def _act(self, exchange: Exchange, question: Question) -> None:
        """The answer says what is wrong, or ``""``. JSON is asked for: no page of another site can send it unasked."""
        if exchange.method != "POST":
            return _refuse(exchange, 405, "do this with POST", (b"allow", b"POST"))
        kind = (exchange.header(b"content-type") or "").partition(";")[0].strip().lower()
        if kind != "application/json":
            return _refuse(exchange, 415, "send application/json, e.g. {}")
        return self._ask(question, partial(_done, exchange))


def _done(exchange: Exchange, problem: Any) -> None:
    if isinstance(problem, Refusal):
        return _refuse(exchange, *problem)
    if problem:
        return _refuse(exchange, 404, problem)
    return exchange.respond(200, _JSON, b'{"done":true}')


def _state(exchange: Exchange) -> State:
    query = parse_qs(exchange.query.decode("latin-1"), max_num_fields=10)
    search = query.get("q", [""])[0]
    return State(search, _number(query, "offset", 0), _number(query, "limit", 50))


def _serve(name: str) -> Callable[[Exchange], None]:
    kind, body = FILES[name]
    tag = b'"%s"' % hashlib.sha256(body).hexdigest()[:16].encode()
    headers = ((b"content-type", kind), (b"cache-control", b"no-cache"), (b"etag", tag), *_SAFE)
    paths = (ROOT, f"{ROOT}/") if name == INDEX else (f"{ROOT}/{name}",)

    def serve(exchange: Exchange) -> None:
        if exchange.path not in paths:  # a page whose path ends with a slash has what is below it as well
            _refuse(exchange, 404, "nothing is here; the console is at /console")
        elif exchange.method not in _READING:
            _refuse(exchange, 405, "read this with GET", (b"allow", b"GET, HEAD"))
        else:
            _reply(exchange, headers, tag, body)

    return serve


def _reply(exchange: Exchange, headers: Headers, tag: bytes, body: bytes) -> None:
    if exchange.header(b"if-none-match") == tag.decode():
        return exchange.respond(304, [header for header in headers if header[0] != b"content-type"])
    return exchange.respond(200, headers, body)


def _refuse(exchange: Exchange, status: int, text: str, *headers: tuple[bytes, bytes]) -> None:
    exchange.respond(status, (*_JSON, *headers), msgspec.json.encode({"error": text}))


def _number(query: dict[str, list[str]], name: str, default: int) -> int:
    given = query.get(name, [""])[0]
    if not given:
        return default
    if not (_is_number(given) and len(given) <= 6):
        raise ValueError(f"{name} is a number of at most 6 digits")
    return int(given)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18
