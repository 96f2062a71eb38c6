"""One stored record that cannot be read keeps neither the server nor the other sessions from coming back."""

from __future__ import annotations

import logging

import pytest

from tailrace import Service
from tailrace.core.ports import PutCall, PutSession
from tailrace.core.settings import Settings
from tailrace.server import Server
from tailrace.stores.memory import MemoryStore
from tests.rigs.workshop import errors


async def test_a_damaged_record_is_named_and_the_others_come_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    store = MemoryStore(durable=True)
    await store.open()
    whole = b'{"transport":"sse","version":"2025-11-25"}'
    store.write([PutSession("bad", b"b" * 9, "", b"{damaged", 1.0), PutCall("bad", 1, 0, b"{}")])
    call = b'{"request_id":7,"tool":"gone","arguments":{}}'
    store.write([PutSession("good", b"g" * 9, "", whole, 1.0), PutCall("good", 2, 0, call)])
    await store.close()
    server = Server(Service("again"), Settings(), store)
    await server.start()
    try:
        assert list(server.endpoint.sessions.by_id) == ["good"]
        assert len(errors(caplog)) == 1
        assert "cannot be read" in errors(caplog)[0]
    finally:
        await server.stop()
