"""The pages of the admin address. Whoever has one more adds it here; how they are guarded is `admin`'s."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tailrace.console.pages import Console
from tailrace.console.questions import Answers
from tailrace.console.views import Views
from tailrace.core.pages import Page, Readers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailrace.server import Server

__all__ = ["answers_of", "pages_of"]


def pages_of(running: Server) -> Sequence[Page]:
    """All pages about one server, which has started when they are asked for."""
    return [
        *(Page(path, running.requests.routes[path], Readers.ANYBODY) for path in ("/healthz", "/readyz")),
        *_metrics(running),
        *_console(running),
    ]


def _metrics(running: Server) -> Sequence[Page]:
    """Where something is measured (`Server.measure`)."""
    if running.times is None:
        return ()
    from tailrace.server.metrics import Metrics, registry_of

    return [Page("/metrics", Metrics(registry_of(running, running.times)).handle, Readers.LOCAL)]


def _console(running: Server) -> Sequence[Page]:
    """Where something is recorded (`Server.record`)."""
    answers = answers_of(running)
    return () if answers is None else Console(answers.ask, time.time).pages()


def answers_of(running: Server) -> Answers | None:
    """Who answers what the console asks of a server that has started, where something is recorded."""
    if running.recorder is None:
        return None
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
        lambda: running.store,
        limits,
        wall=time.time,
        now=running.tasks.loop.time,
    )
    return Answers(views, grace=settings.grace)
