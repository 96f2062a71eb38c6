"""A call with an `Idempotency-Key` runs once (G1b): attached to, replayed, refused; in all three protocols."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from tailrace import Code, Context, RpcError
from tailrace.errors import StoreError
from tailrace.stores.memory import MemoryStore
from tests.protocols.connect.support import PROTOCOLS, Order, Request, Shop, call, send
from tests.protocols.connect.test_ends import until
from tests.rigs.exchange import serving


@dataclass
class Payment:
    item: str = ""
    request_id: str = ""


class Till(Shop):
    """`Pay` runs once a key, when its gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[str] = []

        @self.service.rpc(once=True)
        async def pay(request: Order, ctx: Context) -> Order:
            assert ctx.rpc is not None
            ctx.rpc.response_headers["x-paid"] = "yes"
            self.context = ctx
            self.runs.append(request.item)
            await self.gate.wait()
            if request.item == "sold out":
                raise RpcError(Code.NOT_FOUND, "no more")
            if request.item == "bug":
                raise ValueError("secret")
            return Order(request.item, len(self.runs))

        @self.service.rpc(once="request_id")
        async def pay_by_field(request: Payment) -> Order:
            self.runs.append(request.item)
            return Order(request.item, len(self.runs))


def paying(key: str | None, item: str = "tea", protocol: str = "connect", **more: Any) -> Request:
    headers = [("idempotency-key", key)] if key is not None else []
    return Request("/shop.v1.Shop/Pay", {"item": item}, protocol=protocol, headers=headers, **more)


@PROTOCOLS
async def test_a_retry_attaches_to_the_run_and_a_later_one_gets_its_answer(protocol: str) -> None:
    till = Till()
    async with serving(till.service) as server:
        first, second = (send(server, paying("k", protocol=protocol)) for _ in range(2))
        await until(lambda: till.runs)
        till.gate.set()
        answers = [await request.done() for request in (first, second)]
        third = await send(server, paying('"k"', protocol="connect")).done()  # quoted, and in another protocol
        assert till.runs == ["tea"]
        assert [answer.messages for answer in (*answers, third)] == [[{"item": "tea", "qty": "1"}]] * 3
        assert [answer.headers.get("x-paid") for answer in (*answers, third)] == ["yes", "yes", None]
        assert [answer.headers.get("idempotent-replayed") for answer in (*answers, third)] == [None, None, "true"]


async def test_two_calls_without_a_key_are_two_calls_and_so_are_two_keys_or_two_callers() -> None:
    till = Till()
    till.gate.set()
    async with serving(till.service) as server:
        for request in (paying(None), paying(None), paying("a"), paying("b"), paying("a", principal="somebody else")):
            assert (await send(server, request).done()).error is None
        assert len(till.runs) == 5


@pytest.mark.parametrize("item", ["sold out", "bug"])
async def test_an_error_is_remembered_too(item: str) -> None:
    till = Till()
    till.gate.set()
    async with serving(till.service) as server:
        answers = [await send(server, paying("k", item)).done() for _ in range(2)]
        assert till.runs == [item]
        assert answers[0].code is answers[1].code is (Code.NOT_FOUND if item == "sold out" else Code.INTERNAL)
        assert answers[0].error is not None
        assert answers[1].error is not None
        assert answers[0].error.message == answers[1].error.message
        assert "secret" not in answers[0].error.message


async def test_a_key_that_stands_for_another_call_is_refused() -> None:
    till = Till()
    till.gate.set()
    async with serving(till.service) as server:
        assert (await send(server, paying("k")).done()).error is None
        assert (await send(server, paying("k", "rum")).done()).code is Code.INVALID_ARGUMENT
        assert (await send(server, paying("x" * 256)).done()).code is Code.INVALID_ARGUMENT
        assert (await send(server, paying("")).done()).code is Code.INVALID_ARGUMENT
        assert till.runs == ["tea"]


async def test_a_client_that_goes_does_not_end_the_run_whose_handler_is_told() -> None:
    till = Till()
    async with serving(till.service) as server:
        request = send(server, paying("k"))
        await until(lambda: till.runs)
        request.disconnect()
        await until(lambda: till.context is not None and till.context.cancelled)
        till.gate.set()
        await until(lambda: not server.tasks.calls)
        answer = await send(server, paying("k")).done()
        assert (answer.messages, till.runs) == ([{"item": "tea", "qty": "1"}], ["tea"])


async def test_a_deadline_is_the_requests_own() -> None:
    till = Till()
    async with serving(till.service) as server:
        headers = [("idempotency-key", "k"), ("connect-timeout-ms", "10")]
        answer = await call(server, "/shop.v1.Shop/Pay", {"item": "tea"}, headers=headers)
        assert answer.code is Code.DEADLINE_EXCEEDED
        till.gate.set()
        assert (await send(server, paying("k")).done()).messages == [{"item": "tea", "qty": "1"}]


async def test_the_key_may_be_a_field_of_the_message() -> None:
    till = Till()
    async with serving(till.service) as server:
        path = "/shop.v1.Shop/PayByField"
        for _ in range(2):
            answer = await call(server, path, {"item": "tea", "requestId": "k"})
            assert answer.messages == [{"item": "tea", "qty": "1"}]
        differing = [("idempotency-key", "other")]
        answer = await call(server, path, {"item": "tea", "requestId": "k"}, headers=differing)
        assert answer.code is Code.INVALID_ARGUMENT


async def test_a_server_that_ends_leaves_the_outcome_to_the_next_one_which_says_that_it_is_unknown() -> None:
    till, store = Till(), MemoryStore()
    store.durable = True
    async with serving(till.service, store) as server:
        request = send(server, paying("k"))
        await until(lambda: till.runs)
        await server.drain()
        await server.end_sessions(0.2)
        assert (await request.done()).code is Code.UNAVAILABLE
    async with serving(till.service, store) as server:
        answer = await send(server, paying("k")).done()
        assert answer.code is Code.UNKNOWN
        assert answer.error is not None
        assert "unknown" in answer.error.message
    assert till.runs == ["tea"]
    await asyncio.sleep(0)


async def test_who_waits_for_an_answer_that_is_withheld_for_too_long_is_told_to_ask_again_and_gets_it_then(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    till, store, sure = Till(), MemoryStore(), [True]
    monkeypatch.setattr(MemoryStore, "is_held", property(lambda store: sure[0]))
    async with serving(till.service, store) as server:
        ledger = server.endpoint.once.ledger
        request = send(server, paying("k"))
        await until(lambda: till.runs)
        sure[0] = False  # another process may have the store
        store.fail_commits(StoreError("there is no answer"))
        till.gate.set()
        asked = asyncio.ensure_future(request.done())
        await until(lambda: ledger.turn_away() or asked.done())
        assert (await asked).code is Code.UNAVAILABLE
        assert "the store fails" not in caplog.text  # that it does is said of the commit
        again = send(server, paying("k"))
        await until(lambda: ledger.attached == 1)
        store.fail_commits(None)
        sure[0] = True
        ledger.tell_withheld()
        assert (await again.done()).messages == [{"item": "tea", "qty": "1"}]
    assert till.runs == ["tea"]
