"""The pages of the admin address. Whoever has one more adds it here; how they are guarded is `admin`'s."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tailrace.console.pages import Console
from tailrace.console.views import Views
from tailrace.core.pages import Page, Readers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailrace.core.exchange import Exchange
    from tailrace.server import Server

__all__ = ["pages_of"]

_TEXT = ((b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store"))


def pages_of(running: Server) -> Sequence[Page]:
    """All pages about one server, which has started when they are asked for."""
    return [Page("/healthz", _healthz, Readers.ANYBODY), *_metrics(running), *_console(running)]


def _metrics(running: Server) -> Sequence[Page]:
    """Where something is measured (`Server.measure`)."""
    if running.times is None:
        return ()
    from tailrace.server.metrics import Metrics

    return [Page("/metrics", Metrics(running, running.times).handle, Readers.LOCAL)]


def _console(running: Server) -> Sequence[Page]:
    """Where something is recorded (`Server.record`)."""
    if running.recorder is None:
        return ()
    settings, service = running.settings, running.service
    limits = {
        "sessions": settings.max_sessions,
        "calls": settings.max_calls,
        "detached": settings.max_detached,
        "log_bytes": settings.server_log,
        "outbox": settings.max_outbox,
    }
    views = Views(
        running.recorder,
        (service.name, service.version),
        running.statistics,
        running.store,
        limits,
        wall=time.time,
        now=running.tasks.loop.time,
    )
    return Console(views, grace=settings.grace).pages()


def _healthz(exchange: Exchange) -> None:
    exchange.respond(200, _TEXT, b"ok\n")
