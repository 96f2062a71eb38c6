"""A page is its operator's, unless it says otherwise."""

from __future__ import annotations

from tailrace.core.exchange import Exchange
from tailrace.core.pages import Page, Readers


def handle(exchange: Exchange) -> None:
    exchange.respond(200, ())


def test_a_page_that_says_nothing_asks_for_the_token() -> None:
    assert Page("/console/calls", handle).readers is Readers.OPERATOR
