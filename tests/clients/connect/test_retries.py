"""Calls that may run twice are tried again, within bounds; no other call is ever sent twice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tailrace.connect import Call, Code, Retries, RpcError
from tests.clients.connect.support import PATH, Spoken, StringValue, at_its_deadline, each_way, served, text
from tests.clients.connect.test_calls import answer_unary, refuse_unary
from tests.rigs.peers import Request

pytestmark = pytest.mark.timeout(60)
QUICK = Retries(backoff=0.001)


def fails(spoken: Spoken, times: int, code: Code = Code.UNAVAILABLE) -> Any:
    """A server that refuses `times` times and answers then."""
    left = times

    async def answer(request: Request) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            return await refuse_unary(spoken, request, RpcError(code, "not now"))
        return await answer_unary(spoken, request, "hello")

    return answer


@each_way
@pytest.mark.parametrize("why", [{"idempotent": True}, {"idempotency_key": "k"}, {"get": True}])
async def test_a_call_that_may_run_twice_is_tried_again(spoken: Spoken, why: dict[str, Any]) -> None:
    call = Call()
    async with served(spoken, fails(spoken, 2), retries=QUICK, get_max_url_bytes=0) as (client, peer):
        reply = await client.unary(PATH, text("x"), response=StringValue, call=call, **why)
    assert (reply.value, call.attempts, len(peer.requests)) == ("hello x", 3, 3)
    assert {request.headers.get("idempotency-key") for request in peer.requests} == {why.get("idempotency_key")}


@each_way
async def test_no_other_call_is_sent_twice(spoken: Spoken) -> None:
    async with served(spoken, fails(spoken, 1), retries=QUICK) as (client, peer):
        with pytest.raises(RpcError, match="not now"):
            await client.unary(PATH, text("x"), response=StringValue)
        assert len(peer.requests) == 1


async def test_attempts_and_codes_are_bounded() -> None:
    spoken = Spoken("connect", False)
    async with served(spoken, fails(spoken, 99), retries=QUICK) as (client, peer):
        with pytest.raises(RpcError, match="not now"):
            await client.unary(PATH, text("x"), response=StringValue, idempotent=True)
        assert len(peer.requests) == 3
    async with served(spoken, fails(spoken, 99, Code.INTERNAL), retries=QUICK) as (client, peer):
        with pytest.raises(RpcError, match="not now"):
            await client.unary(PATH, text("x"), response=StringValue, idempotent=True)
        assert len(peer.requests) == 1


async def test_the_deadline_holds_for_all_attempts_together() -> None:
    spoken = Spoken("connect", False)
    slow = Retries(attempts=10_000, backoff=0.05, max_backoff=0.05)
    for seconds in (0.3, 3.0, 30.0):  # more, where a busy machine lets it pass before a second attempt
        async with served(spoken, fails(spoken, 10_000), retries=slow) as (client, peer):
            async with asyncio.timeout(60):
                with pytest.raises(RpcError) as error:
                    await client.unary(PATH, text("x"), response=StringValue, idempotent=True, timeout=seconds)
            assert error.value.code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED)
            assert len(peer.requests) <= seconds / 0.025 + 1
            if len(peer.requests) >= 2:
                break
    else:
        raise AssertionError("it was never tried again")
    async with served(spoken, spoken.silent, retries=slow) as (client, peer):
        await at_its_deadline(
            peer,
            lambda seconds: client.unary(PATH, text("x"), response=StringValue, idempotent=True, timeout=seconds),
            0.1,
        )
        assert len(peer.requests) == 1


async def test_a_pause_that_is_cancelled_stays_cancelled() -> None:
    spoken = Spoken("connect", False)
    async with served(spoken, fails(spoken, 9), retries=Retries(backoff=60, max_backoff=60)) as (client, peer):
        task = asyncio.ensure_future(client.unary(PATH, text("x"), response=StringValue, idempotent=True, timeout=600))
        await peer.request()
        while client.statistics()["open"] or not task.get_stack():
            await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


@pytest.mark.parametrize(("after", "requests"), [("0", 2), ("900", 1), ("soon", 2)])
async def test_a_server_that_says_when_is_waited_for_or_not_tried_again(after: str, requests: int) -> None:
    spoken = Spoken("connect", False)

    async def answer(request: Request) -> None:
        if len(peer.requests) > 1:
            return await answer_unary(spoken, request, "hello")
        await request.whole()
        await request.head(503, [("content-type", "text/plain"), ("retry-after", after)])
        await request.data(b"busy")
        return await request.end()

    async with served(spoken, answer, retries=QUICK) as (client, peer):
        if requests == 1:
            with pytest.raises(RpcError, match="HTTP 503"):
                await client.unary(PATH, text("x"), response=StringValue, idempotent=True)
        else:
            await client.unary(PATH, text("x"), response=StringValue, idempotent=True)
        assert len(peer.requests) == requests


def test_pauses_grow_and_have_a_random_part_and_a_bound() -> None:
    retries = Retries(backoff=1.0, max_backoff=5.0)
    for failed, most in ((1, 1.0), (2, 2.0), (3, 4.0), (4, 5.0), (50, 5.0)):
        pauses = {retries.pause(failed, None) for _ in range(50)}
        assert all(pause is not None and most / 2 <= pause <= most for pause in pauses)
        assert len(pauses) > 1
    assert (retries.pause(1, 4.0), retries.pause(1, 6.0)) == (4.0, None)
