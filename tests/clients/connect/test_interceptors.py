"""Interceptors see all calls and streams, in order, and may change them."""

from __future__ import annotations

from typing import Any

import pytest

from tailrace.connect import Call, Client, Interceptor, Messages, Retries, RpcError
from tailrace.errors import Code, DefinitionError
from tests.clients.connect.support import PATH, Spoken, StringValue, each_way, served, text
from tests.clients.connect.test_calls import answer_unary
from tests.clients.connect.test_retries import fails
from tests.rigs.peers import Request

pytestmark = pytest.mark.timeout(60)


class Notes(Interceptor):
    """Writes down what passes, and marks it."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name = name
        self.notes = notes

    async def unary(self, call: Call, message: Any, proceed: Any) -> Any:
        self.notes.append(f"{self.name} {call.kind} {message.value}")
        call.headers[f"x-{self.name}"] = "seen"
        reply = await proceed(call, StringValue(value=f"{message.value}{self.name}"))
        self.notes.append(f"{self.name} got {reply.value}")
        return reply

    async def stream(self, call: Call, proceed: Any) -> Messages:
        self.notes.append(f"{self.name} {call.kind}")
        call.headers[f"x-{self.name}"] = "seen"
        return Marked(await proceed(call), self)


class Marked:
    def __init__(self, inner: Messages, notes: Notes) -> None:
        self.inner = inner
        self.notes = notes

    async def send(self, message: Any) -> None:
        await self.inner.send(StringValue(value=message.value + self.notes.name))

    async def close_send(self) -> None:
        self.notes.notes.append(f"{self.notes.name} closed")
        await self.inner.close_send()

    async def receive(self) -> Any:
        message = await self.inner.receive()
        self.notes.notes.append(f"{self.notes.name} {None if message is None else message.value}")
        return message


@each_way
async def test_the_first_is_the_outermost_of_a_unary_call(spoken: Spoken) -> None:
    notes: list[str] = []
    both = [Notes("a", notes), Notes("b", notes)]
    async with served(spoken, lambda request: answer_unary(spoken, request, "hello"), interceptors=both) as (
        client,
        peer,
    ):
        assert (await client.unary(PATH, text("x"), response=StringValue)).value == "hello xab"
        request = await peer.request()
    assert notes == ["a unary x", "b unary xa", "b got hello xab", "a got hello xab"]
    assert (request.headers["x-a"], request.headers["x-b"]) == ("seen", "seen")


@each_way
async def test_they_see_each_message_of_a_stream_and_its_end(spoken: Spoken) -> None:
    notes: list[str] = []
    both = [Notes("a", notes), Notes("b", notes)]
    async with served(spoken, spoken.echo, interceptors=both) as (client, _):
        async with client.bidi(PATH, request=StringValue, response=StringValue) as stream:
            await stream.send(text("x"))
            await stream.close_send()
            assert [one.value async for one in stream] == ["xab"]
        assert notes == ["a bidi", "b bidi", "a closed", "b closed", "b xab", "a xab", "b None", "a None"]
        async with client.server_stream(PATH, text("y"), response=StringValue) as watching:
            assert [one.value async for one in watching] == ["yab"]
        async with client.client_stream(PATH, request=StringValue, response=StringValue) as sending:
            await sending.send(text("z"))
            assert (await sending.close_and_receive()).value == "zab"


async def test_one_that_raises_opens_nothing_and_leaves_nothing() -> None:
    class Refuses(Interceptor):
        async def unary(self, call: Call, message: Any, proceed: Any) -> Any:
            raise RpcError(Code.PERMISSION_DENIED, "not today")

        async def stream(self, call: Call, proceed: Any) -> Messages:
            await proceed(call)
            raise RpcError(Code.PERMISSION_DENIED, "not today")

    spoken = Spoken("connect", True)
    async with served(spoken, spoken.echo, interceptors=[Refuses()]) as (client, _):
        with pytest.raises(RpcError, match="not today"):
            await client.unary(PATH, text("x"), response=StringValue)
        with pytest.raises(RpcError, match="not today"):
            await client.bidi(PATH, response=StringValue).__aenter__()
        assert client.statistics() == {"open": 0}


async def test_one_that_does_not_go_on_is_told_so() -> None:
    class Stops(Interceptor):
        async def stream(self, call: Call, proceed: Any) -> Any:
            return None

    async with Client("http://127.0.0.1:9", interceptors=[Stops()]) as client:
        with pytest.raises(DefinitionError, match="proceed"):
            await client.bidi(PATH, response=StringValue).__aenter__()


async def test_one_may_open_a_stream_again_and_the_first_is_let_go() -> None:
    class Twice(Interceptor):
        async def stream(self, call: Call, proceed: Any) -> Messages:
            await proceed(call)
            return await proceed(call)

    spoken = Spoken("connect", True)
    async with (
        served(spoken, spoken.echo, interceptors=[Twice()]) as (client, _),
        client.bidi(PATH, response=StringValue) as stream,
    ):
        assert client.statistics() == {"open": 1}
        await stream.send(text("x"))
        await stream.close_send()
        assert [one.value async for one in stream] == ["x"]


async def test_the_base_class_lets_all_pass() -> None:
    spoken = Spoken("connect", True)

    async def answer(request: Request) -> None:
        if request.headers["content-type"] == "application/proto":
            return await answer_unary(spoken, request, "hello")
        return await spoken.echo(request)

    async with served(spoken, answer, interceptors=[Interceptor()]) as (client, _):
        assert (await client.unary(PATH, text("x"), response=StringValue)).value == "hello x"
        async with client.server_stream(PATH, text("y"), response=StringValue) as stream:
            assert [one.value async for one in stream] == ["y"]


async def test_a_call_that_is_tried_again_is_one_call_for_them() -> None:
    notes: list[str] = []
    spoken = Spoken("connect", False)
    options = {"interceptors": [Notes("a", notes)], "retries": Retries(backoff=0.001)}
    async with served(spoken, fails(spoken, 2), **options) as (client, peer):
        await client.unary(PATH, text("x"), response=StringValue, idempotent=True)
        assert len(peer.requests) == 3
    assert notes == ["a unary x", "a got hello xa"]
