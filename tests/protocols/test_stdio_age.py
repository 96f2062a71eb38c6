"""A conversation over pipes is as old as its process; modern clients never initialize it."""

from __future__ import annotations

from tailrace import Service
from tailrace.core.session import Lifecycle
from tailrace.core.settings import Settings
from tailrace.server import Server
from tailrace.stores.memory import MemoryStore


async def test_a_conversation_that_is_never_initialized_is_not_taken_for_an_infant() -> None:
    server = Server(Service("old"), Settings(), MemoryStore())
    await server.start()
    try:
        session = server.converse().session
        session.log.attach(0)
        server.endpoint.sessions.expire(server.endpoint.now() + 3600.0)
        assert session.lifecycle is Lifecycle.OPEN
    finally:
        await server.stop()
