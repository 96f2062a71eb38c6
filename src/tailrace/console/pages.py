"""What the console serves: the page with its files, the JSON behind it, and two things that can be done.

The files say nothing about the server, so anybody who reaches the admin address may have them; all else is for who
shows the token (`core.pages.Readers`). The page is asked for nothing but files of ours: its policy forbids inline
script and style, other sites, frames and forms, and makes the browser refuse text as markup (trusted types).

The page looks again and again, and says which state it has (`If-None-Match`): an unchanged server answers 304. That
is one bounded reply for each look, and nothing to be kept for a page that is slow or gone.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import msgspec

from tailrace.console.static_files import FILES, INDEX
from tailrace.core.pages import Page, Readers
from tailrace.errors import CallCancelled

if TYPE_CHECKING:
    from tailrace.console.views import Views
    from tailrace.core.exchange import Exchange, Headers

__all__ = ["API", "ROOT", "Console"]

logger = logging.getLogger("tailrace.console")

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
_GRACE = 5.0  # seconds for the calls of a session that is closed


class Console:
    """The console of one server.

    Args:
        views: What it shows.
        grace: Seconds that calls get to end when their session is closed.
    """

    def __init__(self, views: Views, *, grace: float = _GRACE) -> None:
        self._views = views
        self._recorder = views.recorder
        self._grace = grace

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
                self._read(exchange, self._state)
            case ["sessions", name]:
                self._read(exchange, lambda _: self._views.session(name))
            case ["sessions", name, "close"]:
                self._act(exchange, lambda: self._close(name))
            case ["calls", number, "cancel"]:
                self._act(exchange, lambda: self._cancel(number))
            case _:
                _refuse(exchange, 404, "no such view")

    def _state(self, exchange: Exchange) -> dict[str, Any]:
        query = parse_qs(exchange.query.decode("latin-1"), max_num_fields=10)
        search = query.get("q", [""])[0]
        return self._views.state(search=search, offset=_number(query, "offset", 0), limit=_number(query, "limit", 50))

    def _read(self, exchange: Exchange, view: Callable[[Exchange], dict[str, Any] | None]) -> None:
        if exchange.method not in _READING:
            return _refuse(exchange, 405, "read this with GET", (b"allow", b"GET, HEAD"))
        try:
            found = view(exchange)
        except ValueError as error:
            return _refuse(exchange, 400, str(error))
        if found is None:
            return _refuse(exchange, 404, "no such session: it has ended, and is not kept any more")
        body = msgspec.json.encode(found)
        tag = b'"%s"' % hashlib.blake2b(body, digest_size=12).hexdigest().encode()
        time = (b"tailrace-time", b"%.3f" % self._views.wall())  # beside the body, which does not change with it
        return _reply(exchange, (*_JSON, (b"etag", tag), time), tag, body)

    # --- what can be done ---

    def _act(self, exchange: Exchange, act: Callable[[], str]) -> None:
        """`act` says what is wrong, or ``""``. JSON is asked for: no page of another site can send it unasked."""
        if exchange.method != "POST":
            return _refuse(exchange, 405, "do this with POST", (b"allow", b"POST"))
        kind = (exchange.header(b"content-type") or "").partition(";")[0].strip().lower()
        if kind != "application/json":
            return _refuse(exchange, 415, "send application/json, e.g. {}")
        problem = act()
        if problem:
            return _refuse(exchange, 404, problem)
        return exchange.respond(200, _JSON, b'{"done":true}')

    def _cancel(self, number: str) -> str:
        found = next((one for one in self._recorder.calls.items() if str(one[1].number) == number), None)
        if found is None:
            return "no such call: it has ended"
        call, running = found
        logger.info("a call is cancelled from the console call=%s session=%s", running.label, running.session)
        call.cancel(CallCancelled("cancelled by the server's operator"))
        return ""

    def _close(self, name: str) -> str:
        session = self._recorder.living.get(name)
        if session is None:
            return "no such session: it has ended"
        logger.info("a session is closed from the console session=%s", name)
        session.close("closed by the server's operator", grace=self._grace)
        return ""


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
    if not (given.isascii() and given.isdigit() and len(given) <= 6):
        raise ValueError(f"{name} is a number of at most 6 digits")
    return int(given)
