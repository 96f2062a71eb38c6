"""The public door: `tailrace.mcp.Client` takes a service of this process as well."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

import tailrace.clients.mcp
import tailrace.mcp
from tailrace.errors import DefinitionError

from .test_calls import Peer, answering


async def test_a_service_is_connected_to_by_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Peer(answer=answering())
    connected: list[Any] = []

    async def connect(service: Any) -> Any:
        connected.append(service)
        return peer.link

    server = types.ModuleType("tailrace.server")
    server.connect = connect  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tailrace.server", server)
    service: Any = object()
    async with tailrace.mcp.Client(service) as c:
        assert (await c.call_tool("any")).data == 1
    assert connected == [service]
    assert peer.closed == 1


async def test_below_the_door_a_service_is_no_target() -> None:
    with pytest.raises(DefinitionError, match=r"tailrace\.mcp\.Client"):
        async with tailrace.clients.mcp.Client(object()):  # type: ignore[arg-type]
            pass


def test_the_door_is_the_client() -> None:
    assert issubclass(tailrace.mcp.Client, tailrace.clients.mcp.Client)
    assert tailrace.mcp.Client.__doc__
