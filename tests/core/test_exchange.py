"""An exchange tells once that its peer is gone."""

from __future__ import annotations

from typing import Any

from tailrace.core.access import Access
from tailrace.core.exchange import Exchange, Headers, StreamWriter
from tailrace.errors import StreamReset


class Bare(Exchange):
    """The least that a transport brings."""

    __slots__ = ()

    def header(self, name: bytes) -> str | None:
        return None

    def header_values(self, name: bytes) -> list[str]:
        return []

    def fields(self) -> list[tuple[bytes, str]]:
        return []

    def respond(self, status: int, headers: Headers, body: bytes = b"", trailers: Headers = ()) -> None:
        self.replied = True

    def stream(self, status: int, headers: Headers, writer: StreamWriter, first: bytes = b"") -> None:
        self.replied = True


def test_a_new_exchange_is_nobodys_and_has_no_reply_yet() -> None:
    exchange = Bare("POST", "/mcp", b"a=b", "/prefix")
    assert (exchange.method, exchange.path, exchange.query, exchange.prefix) == ("POST", "/mcp", b"a=b", "/prefix")
    assert (exchange.principal, exchange.body) == ("", b"")
    assert (exchange.gone, exchange.replied, exchange.loopback) == (False, False, True)
    assert Bare("GET", "/", b"").prefix == ""


def test_verdicts_are_those_that_the_transport_kept_or_none_yet() -> None:
    kept: dict[str, Any] = {"era": 1}
    assert Bare("GET", "/", b"", verdicts=kept).verdicts is kept
    assert Bare("GET", "/", b"").verdicts == {}


def test_that_the_peer_is_gone_is_told_once() -> None:
    exchange, told = Bare("GET", "/", b""), []
    exchange.on_gone = lambda: told.append(exchange.gone)
    exchange.leave()
    exchange.leave()
    assert told == [True]


def test_a_peer_may_go_while_nobody_listens() -> None:
    exchange = Bare("GET", "/", b"")
    exchange.leave()
    assert exchange.gone
    assert exchange.gone_by is None


def test_what_ended_a_stream_is_what_the_transport_said_first() -> None:
    exchange, reset = Bare("GET", "/", b""), StreamReset()
    exchange.leave(reset)
    exchange.leave()
    assert exchange.gone_by is reset


def test_a_header_that_is_given_twice_is_found_among_those_asked_for() -> None:
    class Doubled(Bare):
        __slots__ = ()

        def header_values(self, name: bytes) -> list[str]:
            return {b"host": ["a", "b"], b"origin": ["a"]}.get(name, [])

    exchange = Doubled("GET", "/", b"")
    assert exchange.doubled(frozenset({b"origin", b"host", b"accept"})) == b"host"
    assert exchange.doubled(frozenset({b"origin", b"accept"})) is None


def test_a_request_that_shows_no_token_that_has_scopes_is_good_for_everything() -> None:
    exchange = Bare("POST", "/mcp", b"")
    assert exchange.covers(["write"])
    exchange.access = Access("ann", frozenset({"read"}))
    assert exchange.covers(["read"])
    assert not exchange.covers(["read", "write"])
