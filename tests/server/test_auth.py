"""A server that asks who is there: what is open, what is not, and that nobody sees what is another's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tailrace import Context, Service
from tailrace.errors import DefinitionError
from tailrace.server import Server, asgi, make_server, run
from tests.core.support import turns
from tests.rigs.exchange import FakeExchange, LegacySession, call, modern_headers, modern_request, send

JSON = ("content-type", "application/json")
ANN, BOB = "ann-s-token", "bob-s-token"


def make_service() -> Service:
    service = Service("vault")

    @service.tool
    async def whose(ctx: Context) -> str:
        assert ctx.session is not None
        return ctx.session.principal

    return service


@asynccontextmanager
async def guarded(**options: Any) -> AsyncIterator[Server]:
    server = make_server(make_service(), {"drain": 0.0}, **(options or {"auth_token": [ANN, BOB]}))
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


class Session(LegacySession):
    """A session whose requests carry a token, and no principal but what the server makes of it."""

    token = ANN

    def _headers(self) -> list[tuple[str, str]]:
        return [*super()._headers(), ("authorization", f"Bearer {self.token}")]


class Bobs(Session):
    token = BOB


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/mcp"), ("GET", "/mcp"), ("DELETE", "/mcp"), ("GET", "/sse"), ("POST", "/messages/"), ("GET", "/other")],
)
async def test_without_a_token_nothing_is_served(method: str, path: str) -> None:
    async with guarded() as server:
        for more in ([], [("authorization", "Bearer nobody's")]):
            exchange = send(server, FakeExchange(method, path, None, [JSON, *more]))
            assert await exchange.status_code() == 401
            assert exchange.headers["www-authenticate"].startswith("Bearer")
            assert (await exchange.json())["error"]["code"] == -32600


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_supervisors_need_no_token(path: str) -> None:
    async with guarded() as server:
        assert await send(server, FakeExchange("GET", path)).status_code() == 200


async def test_a_page_that_may_call_a_method_can_read_that_it_needs_a_token() -> None:
    server = make_server(make_service(), {"drain": 0.0, "allow_origins": ("https://app.example",)}, auth_token=[ANN])
    await server.start()
    try:
        page = ("origin", "https://app.example")
        refused = send(server, FakeExchange("POST", "/Vault/Whose", {}, [JSON, page]))
        assert await refused.status_code() == 401
        assert refused.headers["access-control-allow-origin"] == "https://app.example"
        assert "www-authenticate" in refused.headers
        elsewhere = send(server, FakeExchange("POST", "/Vault/Other", {}, [JSON, page]))
        assert await elsewhere.status_code() == 401
        assert "access-control-allow-origin" not in elsewhere.headers
    finally:
        await server.stop()


async def test_a_strange_host_is_refused_before_it_is_asked_for_a_token() -> None:
    async with guarded() as server:
        exchange = send(server, FakeExchange("POST", "/mcp", None, [JSON, ("host", "evil.example")]))
        assert await exchange.status_code() == 421


async def test_a_session_is_its_principals() -> None:
    async with guarded() as server:
        session = await Session(server).start()
        answer = await session.call(1, "whose").answer(1)
        whose = answer["result"]["structuredContent"]["result"]
        assert whose.startswith("token-")
        stranger = Bobs(server, id=session.id)
        for exchange in (stranger.call(2, "whose"), stranger.get(), stranger.delete()):
            assert await exchange.status_code() == 404
        assert (await session.call(3, "whose").answer(3))["result"]["structuredContent"]["result"] == whose
        assert (await (await Bobs(server).start()).call(1, "whose").answer(1))["result"]["structuredContent"][
            "result"
        ] != whose


async def test_an_event_id_is_its_principals_also_over_http_sse() -> None:
    async with guarded() as server:
        mine = [("accept", "text/event-stream"), ("authorization", f"Bearer {ANN}")]
        stream = send(server, FakeExchange("GET", "/sse", None, mine))
        url = (await stream.event_count(1))[0].data
        resume = ("last-event-id", stream.last_id)
        theirs = [("accept", "text/event-stream"), ("authorization", f"Bearer {BOB}")]
        assert await send(server, FakeExchange("GET", "/sse", None, [*theirs, resume])).status_code() == 404
        foreign = [JSON, ("authorization", f"Bearer {BOB}")]
        assert await send(server, FakeExchange("POST", url, call(1, "whose"), foreign)).status_code() == 404
        again = send(server, FakeExchange("GET", "/sse", None, [*mine, resume]))
        assert await again.status_code() == 200
        again.disconnect()
        stream.disconnect()


async def test_a_function_judges_the_tokens_of_every_request() -> None:
    asked: list[str] = []

    async def verify(token: str) -> str | None:
        asked.append(token)
        await asyncio.sleep(0)
        return "ann" if token == ANN else None

    async with guarded(auth=verify) as server:
        session = await Session(server).start()
        assert (await session.call(1, "whose").answer(1))["result"]["structuredContent"]["result"] == "ann"
        assert await Bobs(server).call(1, "whose").status_code() == 401
        assert asked == [ANN, ANN, ANN, BOB]


async def test_a_client_that_leaves_while_its_token_is_judged_starts_nothing() -> None:
    gate = asyncio.Event()

    async def verify(token: str) -> str:
        await gate.wait()
        return "ann"

    async with guarded(auth=verify) as server:
        message = modern_request(1, "tools/list")
        headers = [*modern_headers(message).items(), ("authorization", f"Bearer {ANN}")]
        exchange = send(server, FakeExchange("POST", "/mcp", message, headers))
        exchange.disconnect()
        gate.set()
        routed: list[str] = []
        server.requests.routes["/mcp"] = lambda exchange: routed.append("routed")
        await turns()
        assert routed == []


async def test_a_token_that_is_judged_while_the_server_ends_is_answered() -> None:
    async def verify(token: str) -> str:
        await asyncio.sleep(3600)
        return "ann"

    async with guarded(auth=verify) as server:
        exchange = send(server, FakeExchange("GET", "/mcp", None, [("authorization", f"Bearer {ANN}")]))
        assert not exchange.replied
    assert await exchange.status_code() == 503


def test_an_application_takes_them_too() -> None:
    app = asgi(make_service(), auth_token=ANN)
    assert app.server.bearer is not None  # type: ignore[attr-defined]
    with pytest.raises(DefinitionError, match="not both"):
        asgi(make_service(), auth_token=ANN, auth=lambda token: None)


def test_an_address_that_others_reach_needs_authentication(monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[str] = []

    def listen(host: str, port: int, uds: str | None) -> Any:
        reached.append(host)
        raise OSError("far enough")

    monkeypatch.setattr("tailrace.server.sockets.listen", listen)
    with pytest.raises(DefinitionError, match="--auth-token"):
        run(make_service(), transport="http", host="0.0.0.0")
    with pytest.raises(OSError, match="far enough"):
        run(make_service(), transport="http", host="0.0.0.0", auth_token=(ANN,))
    assert reached == ["0.0.0.0"]
