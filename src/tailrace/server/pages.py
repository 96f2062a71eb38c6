"""The pages of the admin address. Whoever has one more adds it here; how they are guarded is `admin`'s."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailrace.core.pages import Page, Readers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailrace.core.exchange import Exchange
    from tailrace.server import Server

__all__ = ["pages_of"]

_TEXT = ((b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store"))


def pages_of(running: Server) -> Sequence[Page]:
    """All pages about one server, which has started when they are asked for."""
    return [Page("/healthz", _healthz, Readers.ANYBODY)]


def _healthz(exchange: Exchange) -> None:
    exchange.respond(200, _TEXT, b"ok\n")
