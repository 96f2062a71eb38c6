"""A service whose calls a test holds in its hands: they wait until they are let go, and say what became of them."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict

import pytest

from tailrace import Context, Service, Session

__all__ = ["Workshop", "errors"]


class Workshop:
    """Its `service` has tools that wait; `seen` tells in order what happened.

    Attributes:
        gates: By key: `work` goes on when its gate is set.
        seen: ``begin KEY``, ``end KEY``, ``cancelled KEY``; ``register``, ``restore``, ``unregister``.
        sessions: Every session that a hook got.
    """

    def __init__(self) -> None:
        self.gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.seen: list[str] = []
        self.sessions: list[Session] = []
        self.service = service = Service("workshop", version="1.0.0")

        @service.tool
        async def echo(text: str) -> str:
            return text

        @service.tool
        async def work(ctx: Context, key: str, progress: int = 0) -> str:
            """Report progress, wait for the gate, answer with the key."""
            self.seen.append(f"begin {key}")
            for done in range(1, progress + 1):
                await ctx.progress(done, progress, f"step {done} of {key}")
            try:
                await self.gates[key].wait()
            except asyncio.CancelledError:
                self.seen.append(f"cancelled {key}")
                raise
            self.seen.append(f"end {key}")
            return key

        @service.tool
        async def report(ctx: Context, key: str, after: int = 0) -> str:
            """Wait for the gate, then report progress, then answer at once."""
            await self.gates[key].wait()
            for done in range(after):
                await ctx.progress(done + 1, after, f"late {done + 1} of {key}")
            return key

        @service.tool
        async def remember(ctx: Context, name: str, value: str) -> str:
            assert ctx.session is not None
            ctx.session.state[name] = value
            return "ok"

        @service.tool
        async def recall(ctx: Context, name: str) -> str:
            assert ctx.session is not None
            return str(ctx.session.state.get(name))

        @service.on_register_session
        async def registered(session: Session) -> None:
            self.note("register", session)

        @service.on_restore_session
        async def restored(session: Session) -> None:
            self.note("restore", session)

        @service.on_unregister_session
        async def unregistered(session: Session) -> None:
            self.note("unregister", session)

    def note(self, what: str, session: Session) -> None:
        self.seen.append(what)
        self.sessions.append(session)

    def open(self, *keys: str) -> None:
        """Let the calls with these keys go on."""
        for key in keys:
            self.gates[key].set()


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The texts of all ERROR records so far."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
