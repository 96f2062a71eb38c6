"""Dependencies by type: who takes one gets it, once a call; what has an end is ended; what cannot work is refused."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any, NewType

import pytest

from tailrace import Context, DefinitionError, Service, ToolError
from tests.core.support import virtual
from tests.rigs.exchange import LegacySession, request, serving, text_of

Tenant = NewType("Tenant", str)


@dataclass
class Database:
    tenant: str
    open: bool = True


def bank() -> tuple[Service, list[str]]:
    svc, notes = Service("bank"), list[str]()

    @svc.provide
    def tenant(ctx: Context) -> Tenant:
        assert ctx.call is not None
        notes.append("tenant")
        return Tenant("acme")

    @svc.provide
    async def database(name: Tenant) -> AsyncIterator[Database]:
        notes.append("open")
        database = Database(name)
        try:
            yield database
        finally:
            database.open = False
            notes.append("close")

    @svc.tool
    async def balance(db: Database, account: int, who: Annotated[Tenant, "whose"]) -> str:
        assert db.open
        return f"{db.tenant} {who} {account}"

    @svc.tool
    def plain(account: int, db: Database) -> str:
        if account < 0:
            raise ToolError("no such account")
        return f"{db.tenant} {account}"

    @svc.tool
    async def entries(db: Database):
        for n in range(2):
            assert db.open
            yield n

    @svc.resource("accounts://{id}")
    async def account(id: int, db: Database) -> str:
        return f"{db.tenant} {id}"

    @svc.prompt
    async def ask(db: Database, what: str) -> str:
        return f"{db.tenant} {what}"

    return svc, notes


def test_what_is_provided_is_no_argument() -> None:
    svc, _ = bank()
    assert list(svc.tools["balance"].arguments.names) == ["account"]
    assert list(svc.prompts["ask"].arguments.names) == ["what"]
    assert svc.resources["accounts://{id}"].arguments.names == ("id",)


async def test_each_call_gets_its_own_once_and_it_is_ended_after_the_call() -> None:
    svc, notes = bank()
    async with serving(svc, hold=60.0) as server:  # threads run in real time; answers are JSON however long they take
        session = await LegacySession(server).start()
        assert text_of(await session.call(1, "balance", {"account": 7}).json()) == "acme acme 7"
        assert notes == ["tenant", "open", "close"]
        assert text_of(await session.call(2, "plain", {"account": 8}).json()) == "acme 8"
        assert notes == ["tenant", "open", "close"] * 2
        assert text_of(await session.call(3, "plain", {"account": -1}).json()) == "no such account"
        assert notes == ["tenant", "open", "close"] * 3
        answer = (await session.call(4, "entries").answer(4))["result"]
        assert answer["content"][0]["text"] == "[0,1]"
        assert notes[-1] == "close"
        read = await session.post(request(5, "resources/read", {"uri": "accounts://3"})).json()
        assert read["result"]["contents"][0]["text"] == "acme 3"
        got = await session.post(request(6, "prompts/get", {"name": "ask", "arguments": {"what": "x"}})).json()
        assert got["result"]["messages"][0]["content"]["text"] == "acme x"
        assert notes == ["tenant", "open", "close"] * 6


@virtual
async def test_a_context_manager_provides_as_well() -> None:
    svc, notes = Service("bank"), list[str]()

    @svc.provide
    @contextlib.asynccontextmanager
    async def database() -> AsyncIterator[Database]:
        yield Database("x")
        notes.append("close")

    @svc.tool
    async def name(db: Database) -> str:
        return db.tenant

    async with serving(svc) as server:
        session = await LegacySession(server).start()
        assert text_of(await session.call(1, "name").json()) == "x"
        assert notes == ["close"]


def refused(svc: Service, fn: Any) -> str:
    with pytest.raises(DefinitionError) as error:
        svc.provide(fn)
    assert "test_providers.py:" in str(error.value)
    return str(error.value)


def test_what_cannot_be_provided_is_refused_where_it_is_defined() -> None:
    svc = Service("bank")

    def nothing(): ...

    def a_string() -> str: ...

    def a_list() -> list[Database]: ...

    def needy(x: int) -> Database: ...

    def generator() -> Any:
        yield Database("x")

    assert "by its return annotation" in refused(svc, nothing)
    assert "by its return annotation" in refused(svc, a_string)
    assert "by its return annotation" in refused(svc, a_list)
    assert "nobody provides its parameter 'x'" in refused(svc, needy)
    assert "make it `async def`" in refused(svc, generator)

    @svc.provide
    def database() -> Database:
        return Database("x")

    def again() -> Database: ...

    assert "provides the same type" in refused(svc, again)


def test_a_provider_stands_above_those_that_use_it() -> None:
    svc = Service("bank")

    @svc.tool
    async def name(db: Database) -> str:
        return db.tenant

    def database() -> Database: ...

    assert "define it above name() at" in refused(svc, database).replace(
        "test_a_provider_stands_above_those_that_use_it.<locals>.", ""
    )
