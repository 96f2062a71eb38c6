"""Calls of every kind and what comes with them, in three protocols, over HTTP/1.1 and HTTP/2."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as ProtobufAny

from tailrace.connect import (
    BidiMethod,
    Call,
    Client,
    ClientStreamMethod,
    Code,
    Metadata,
    RpcDeadlineExceeded,
    RpcError,
    ServerStreamMethod,
    StreamEnded,
    UnaryMethod,
)
from tailrace.errors import DefinitionError
from tailrace.schema.messages import InvalidMessage
from tailrace.wire import connect, grpc
from tailrace.wire.envelopes import envelope
from tests.clients.connect.support import (
    PATH,
    BytesValue,
    Spoken,
    StringValue,
    each_way,
    eventually,
    served,
    text,
    told,
    within,
)
from tests.rigs.peers import Request, running_peer

pytestmark = pytest.mark.timeout(60)


async def answer_unary(spoken: Spoken, request: Request, answer: str, *headers: tuple[str, str]) -> None:
    data = await request.whole()
    if spoken.protocol == "connect":
        value = StringValue.FromString(data).value
        trailers = [(f"trailer-{name}", given) for name, given in (("t-one", "1"), ("t-bin", "AAE"))]
        await spoken.begin(request, *headers, *trailers, unary=True)
        await request.data(StringValue(value=f"{answer} {value}").SerializeToString())
        return await request.end()
    value = StringValue.FromString(data[5:]).value
    await spoken.begin(request, *headers)
    await spoken.message(request, f"{answer} {value}")
    return await spoken.end(request, **{"t-one": "1", "t-bin": b"\0\1"})  # type: ignore[arg-type]


async def refuse_unary(spoken: Spoken, request: Request, error: RpcError) -> None:
    await request.whole()
    if spoken.protocol == "connect":
        await request.head(418, [("content-type", "application/json"), ("h-one", "1"), ("trailer-t-one", "2")])
        await request.data(connect.encode_error(error))
        return await request.end()
    if spoken.protocol == "grpc-web":
        await spoken.begin(request, ("h-one", "1"))
        return await spoken.end(request, error, **{"t-one": "2"})
    status = grpc.status_trailers(error, Metadata({"t-one": "2"}))
    fields = [(name.decode(), value.decode()) for name, value in status]
    await request.head(200, [("content-type", "application/grpc+proto"), ("h-one", "1"), *fields])
    return await request.end()


# --- the four kinds -----------------------------------------------------------------------------------


@each_way
async def test_a_unary_call_gives_the_answer_and_what_came_with_it(spoken: Spoken) -> None:
    async def answer(request: Request) -> None:
        await answer_unary(spoken, request, "hello", ("h-one", "a"), ("h-one", "b"), ("h-bin", "AAE="))

    call = Call()
    async with served(spoken, answer) as (client, peer):
        reply = await client.unary(PATH, text("there"), response=StringValue, headers={"x-mine": "yes"}, call=call)
        request = await peer.request()
    assert reply.value == "hello there"
    assert (call.answer_headers.all("h-one"), call.answer_headers["h-bin"]) == (["a", "b"], b"\0\1")
    assert (call.answer_trailers["t-one"], call.answer_trailers["t-bin"]) == ("1", b"\0\1")
    assert (call.status, call.attempts, request.path) == (200, 1, f"/{PATH}")
    assert (request.headers["x-mine"], request.headers["user-agent"][:9]) == ("yes", "tailrace/")
    assert "unary test.v1.Test/Call attempts=1" in repr(call)


@each_way
async def test_an_error_has_its_code_text_details_and_all_that_came_with_it(spoken: Spoken) -> None:
    detail = ProtobufAny()
    detail.Pack(StringValue(value="more"))
    sent = RpcError(Code.NOT_FOUND, "no such % thing ü", [detail])

    async with served(spoken, lambda request: refuse_unary(spoken, request, sent)) as (client, _):
        with pytest.raises(RpcError) as raised:
            await client.unary(PATH, text("there"), response=StringValue)
    error = raised.value
    assert (error.code, error.message) == (Code.NOT_FOUND, "no such % thing ü")
    found = StringValue()
    assert error.details[0].Unpack(found)
    assert found.value == "more"
    if spoken.protocol != "grpc":  # of an answer that is all trailers, headers are trailers
        assert error.metadata["h-one"] == ["1"]
    assert error.metadata["t-one"] == ["2"]
    assert "content-type" not in error.metadata  # a method that raises it again can send the rest on


@each_way
async def test_a_deadline_that_the_server_saw_pass_is_raised_as_our_own(spoken: Spoken) -> None:
    late = RpcError(Code.DEADLINE_EXCEEDED, "too late")
    async with served(spoken, lambda request: refuse_unary(spoken, request, late)) as (client, _):
        with pytest.raises(RpcDeadlineExceeded, match="too late"):
            await client.unary(PATH, text("there"), response=StringValue)


@each_way
async def test_a_server_stream_gives_its_messages_and_what_came_with_them(spoken: Spoken) -> None:
    async def answer(request: Request) -> None:
        await request.whole()
        await spoken.begin(request, ("h-one", "a"))
        await spoken.message(request, "one")
        await spoken.message(request, "two")
        await spoken.end(request, **{"t-one": "1"})

    async with served(spoken, answer) as (client, peer):
        async with client.server_stream(PATH, text("go"), response=StringValue) as stream:
            assert (await stream.open())["h-one"] == "a"
            assert [one.value async for one in stream] == ["one", "two"]
            assert await stream.receive() is None  # and from then on
        request = await peer.request()
    assert stream.trailers["t-one"] == "1"
    assert StringValue.FromString(bytes(request.body)[5:]).value == "go"
    assert stream.call.status == 200


@each_way
async def test_a_client_stream_sends_messages_and_gives_the_answer(spoken: Spoken) -> None:
    async def answer(request: Request) -> None:
        data = await request.whole()
        await spoken.begin(request)
        await spoken.message(request, str(len(data)))
        await spoken.end(request)

    async with (
        served(spoken, answer) as (client, _),
        client.client_stream(PATH, response=StringValue) as stream,
    ):
        for number in range(10):
            await stream.send(text(str(number)))
        assert (await stream.close_and_receive()).value == str(10 * (5 + 3))
        assert (await stream.close_and_receive()).value == "80"


@each_way
async def test_a_stream_both_ways_talks_at_the_same_time(spoken: Spoken) -> None:
    async def converse(request: Request) -> None:
        await spoken.begin(request)
        seen = 0
        while not (request.ended.is_set() and seen == len(request.body)):
            await request.arrived.wait()
            request.arrived.clear()
            fresh, seen = bytes(request.body[seen:]), len(request.body)
            if fresh:
                await request.data(fresh)
        await spoken.end(request)

    async with (
        served(spoken, converse) as (client, _),
        client.bidi(PATH, request=StringValue, response=StringValue) as stream,
    ):
        for number in range(5):
            await stream.send(text(str(number)))
            one = await stream.receive()
            assert one is not None
            assert one.value == str(number)
        await stream.close_send()
        assert await stream.receive() is None


@each_way
async def test_a_stream_that_is_refused_says_so_at_the_first_message(spoken: Spoken) -> None:
    async def answer(request: Request) -> None:
        await spoken.begin(request)
        await spoken.end(request, RpcError(Code.PERMISSION_DENIED, "not you"), **{"t-one": "1"})

    async with (
        served(spoken, answer) as (client, _),
        client.server_stream(PATH, text("go"), response=StringValue) as stream,
    ):
        for _ in range(2):
            with pytest.raises(RpcError, match="not you") as error:
                await stream.receive()
            assert error.value.code is Code.PERMISSION_DENIED
        assert stream.trailers["t-one"] == "1"


@each_way
async def test_messages_before_an_error_are_given_first(spoken: Spoken) -> None:
    async def answer(request: Request) -> None:
        await spoken.begin(request)
        await spoken.message(request, "one")
        await spoken.end(request, RpcError(Code.ABORTED, "enough"))

    got: list[str] = []

    async def collect(client: Client) -> None:
        async with client.server_stream(PATH, text("go"), response=StringValue) as stream:
            while (one := await stream.receive()) is not None:
                got.append(one.value)

    async with served(spoken, answer) as (client, peer):
        for _ in range(5):
            with pytest.raises(RpcError, match="enough"):
                await collect(client)
        assert peer.connections < 5  # an error in order costs no connection
    assert got == ["one"] * 5


# --- sending when nobody wants it -----------------------------------------------------------------------


async def send_until_it_fails(stream: Any) -> None:
    async with within(0):
        while True:
            await stream.send(text("more"))
            await asyncio.sleep(0.001)


@each_way
async def test_a_server_that_refuses_early_is_heard_by_who_sends(spoken: Spoken) -> None:
    async def answer(request: Request) -> None:
        await spoken.begin(request)
        await spoken.end(request, RpcError(Code.PERMISSION_DENIED, "not you"))
        if spoken.http2:
            request.forget()
        else:  # a reset of the connection drops what the client has not read yet (RFC 9112, 9.6): give it a moment
            asyncio.get_running_loop().call_later(0.3, request.abort)

    async with (
        served(spoken, answer) as (client, peer),
        client.client_stream(PATH, response=StringValue) as stream,
    ):
        with pytest.raises(RpcError) as error:
            await send_until_it_fails(stream)
        assert error.value.code is Code.PERMISSION_DENIED
        peer.requests[0].over = True


@each_way
async def test_sending_on_an_ended_stream_says_that_it_ended_and_receiving_how(spoken: Spoken) -> None:
    async def answer(request: Request) -> None:
        await spoken.begin(request)
        await spoken.message(request, "one")
        await spoken.end(request, RpcError(Code.ABORTED, "enough"))
        if spoken.http2:
            request.forget()

    async with served(spoken, answer) as (client, _), client.bidi(PATH, response=StringValue) as stream:
        first = await stream.receive()
        assert first is not None
        assert first.value == "one"
        with pytest.raises(RpcError, match="enough"):
            await stream.receive()
        with pytest.raises(StreamEnded, match="receive"):
            await send_until_it_fails(stream)


async def test_misuse_is_told_and_ends_nothing() -> None:
    spoken = Spoken("connect", True)
    async with served(spoken, spoken.echo) as (client, _):
        stream = client.bidi(PATH, response=StringValue)
        with pytest.raises(RuntimeError, match="opened by its block"):
            await stream.receive()
        async with stream:
            reading = asyncio.create_task(stream.receive())
            await asyncio.sleep(0.02)
            with pytest.raises(RuntimeError, match="one task at a time"):
                await stream.receive()
            await stream.send(text("one"))
            await stream.close_send()
            await stream.close_send()
            with pytest.raises(RuntimeError, match="after close_send"):
                await stream.send(text("two"))
            one = await reading
            assert one is not None
            assert one.value == "one"
        with pytest.raises(RuntimeError, match="used once"):
            async with stream:
                pass
        for ended in (client.bidi(PATH, response=StringValue), client.bidi(PATH, response=StringValue)):
            await ended.aclose()  # never opened
            assert ended.closed
            with pytest.raises(RuntimeError, match="used once"):
                async with ended:
                    pass


async def test_a_closed_client_makes_no_calls() -> None:
    spoken = Spoken("connect", False)
    async with served(spoken, spoken.echo) as (client, peer):
        client.close_nowait()
        client.close_nowait()
        with pytest.raises(RpcError, match="the client is closed"):
            await client.unary(PATH, text("x"), response=StringValue)
        with pytest.raises(RpcError, match="the client is closed"):
            async with client.bidi(PATH, response=StringValue):
                pass
        assert peer.requests == []


# --- types and codecs -----------------------------------------------------------------------------------


@each_way
async def test_messages_as_bytes_go_and_come_as_they_are(spoken: Spoken) -> None:
    async with (
        served(spoken, spoken.echo) as (client, _),
        client.bidi(PATH, response=bytes) as stream,
    ):
        await stream.send(b"\x0a\x01x")
        await stream.send(text("y"))
        await stream.close_send()
        assert [one async for one in stream] == [b"\x0a\x01x", b"\x0a\x01y"]


@dataclass
class Told:
    value: str


@each_way
@pytest.mark.parametrize("codec", ["proto", "json"])
async def test_messages_in_typed_python_need_no_generated_classes(spoken: Spoken, codec: str) -> None:
    async def echo(request: Request) -> None:
        data = await request.whole()
        await request.head(200, [("content-type", request.headers["content-type"])])
        await request.data(data)
        await spoken.end(request)

    async with served(spoken, echo, codec=codec) as (client, _):
        async with client.bidi(PATH, request=Told, response=Told) as stream:
            await stream.send(Told("one"))
            await stream.send({"value": "two"})  # type: ignore[arg-type]  # as what it is made of
            await stream.close_send()
            assert [one async for one in stream] == [Told("one"), Told("two")]
        async with client.server_stream(PATH, Told("three"), response=Told) as stream:
            assert [one async for one in stream] == [Told("three")]
        async with client.client_stream(PATH, request=list[int], response=list[int]) as sending:
            await sending.send([1, 2])
            assert await sending.close_and_receive() == [1, 2]
        with pytest.raises(InvalidMessage, match="expected Told"):
            await client.unary(PATH, 7, request=Told, response=Told)


async def test_json_is_spoken_where_it_is_asked_for() -> None:
    async def answer(request: Request) -> None:
        value = json.loads(await request.whole())
        await request.head(200, [("content-type", "application/json")])
        await request.data(json.dumps(f"{value}!").encode())
        await request.end()

    spoken = Spoken("connect", False)
    async with served(spoken, answer, codec="json") as (client, peer):
        assert (await client.unary(PATH, text("hi"), response=StringValue)).value == "hi!"
        assert (await peer.request()).headers["content-type"] == "application/json"


@each_way
async def test_a_message_that_cannot_be_read_is_the_servers_fault(spoken: Spoken) -> None:
    async def answer(request: Request) -> None:
        await spoken.begin(request)
        await request.data(envelope(0, b"\xff\xff"))
        await asyncio.Event().wait()

    async with (
        served(spoken, answer) as (client, _),
        client.server_stream(PATH, text("go"), response=StringValue) as stream,
    ):
        with pytest.raises(RpcError, match="cannot be read") as error:
            await stream.receive()
        assert error.value.code is Code.INTERNAL


async def test_what_cannot_be_sent_is_said_before_anything_is_sent() -> None:
    spoken = Spoken("connect", False)
    async with served(spoken, spoken.echo) as (client, peer):
        with pytest.raises(DefinitionError, match="no protobuf form"):
            await client.unary(PATH, 1j, response=StringValue)
        with pytest.raises(DefinitionError, match="no protobuf form"):
            await client.unary(PATH, text("x"), response=complex)
        with pytest.raises(ValueError, match="the protocol's own"):
            await client.unary(PATH, text("x"), response=StringValue, headers={"content-type": "text/plain"})
        with pytest.raises(TypeError, match="takes bytes"):
            await client.unary(PATH, text("x"), response=StringValue, headers={"x-bin": "text"})
        assert issubclass(InvalidMessage, ValueError)
        assert peer.requests == []


@pytest.mark.parametrize(
    ("base", "options", "what"),
    [
        ("localhost:80", {}, "no address"),
        ("http://x/?q", {}, "no address"),
        ("http://x", {"protocol": "soap"}, "none of connect, grpc, grpc-web"),
        ("http://x", {"codec": "xml"}, "neither proto nor json"),
        ("http://x", {"protocol": "grpc", "http_version": "1.1"}, "gRPC needs HTTP/2"),
        ("http://x", {"send_compression": "lzma"}, "compression 'lzma' is not here"),
        ("http://x", {"accept_compression": ["lzma"]}, "compression 'lzma' is not here"),
        ("http://x", {"ca_cert": "/nowhere/ca.pem"}, "neither PEM nor a file"),
        ("http://x", {"ca_cert": b"-----BEGIN NONSENSE"}, "certificate or key"),
    ],
)
def test_options_that_cannot_work_are_refused(base: str, options: dict[str, Any], what: str) -> None:
    with pytest.raises(DefinitionError, match=what):
        Client(base, **options)


@each_way
async def test_methods_with_types_call_as_the_client_does(spoken: Spoken) -> None:
    async def answer(request: Request) -> None:
        if request.headers["content-type"] == "application/proto":
            return await answer_unary(spoken, request, "hello")
        data = await request.whole()
        await spoken.begin(request)
        await request.data(data)
        return await spoken.end(request)

    one = UnaryMethod(PATH, StringValue, StringValue, idempotent=True)
    many = ServerStreamMethod(PATH, StringValue, StringValue)
    collect = ClientStreamMethod(PATH, StringValue, StringValue)
    both = BidiMethod(PATH, StringValue, StringValue)
    async with served(spoken, answer) as (client, peer):
        assert (await one(client, text("x"), idempotency_key="k")).value in ("hello x", "x")
        assert peer.requests[0].headers["idempotency-key"] == "k"
        async with many(client, text("y"), timeout=60.0) as stream:
            assert [found.value async for found in stream] == ["y"]
        async with collect(client) as sending:
            await sending.send(text("z"))
            assert (await sending.close_and_receive()).value == "z"
        async with both(client) as talking:
            await talking.send(text("w"))
            await talking.close_send()
            assert [found.value async for found in talking] == ["w"]
    assert BytesValue is not StringValue


# --- the connection -------------------------------------------------------------------------------------


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    async with running_peer(Spoken("connect", False).echo, http2=False) as peer:
        gone = peer.url
    async with Client(gone) as client:
        with pytest.raises(RpcError, match=r"cannot connect: .*refused.*nothing was sent") as error:
            await client.unary(PATH, text("x"), response=StringValue)
        assert error.value.code is Code.UNAVAILABLE
        async with client.bidi(PATH, response=StringValue) as stream:
            with pytest.raises(RpcError, match="cannot connect"):
                await stream.open()
            with pytest.raises(RpcError, match="cannot connect"):
                await stream.send(text("x"))


@each_way
async def test_a_connection_that_breaks_is_told_as_such(spoken: Spoken) -> None:
    received = asyncio.Event()

    async def answer(request: Request) -> None:
        await spoken.begin(request)
        await spoken.message(request, "one")
        await received.wait()
        peer.hang_up()

    async with (
        served(spoken, answer) as (client, peer),
        client.server_stream(PATH, text("go"), response=StringValue) as stream,
    ):
        await stream.receive()
        received.set()
        with pytest.raises(RpcError, match="the connection broke") as error:
            await stream.receive()
        assert error.value.code is Code.UNAVAILABLE


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (8, Code.CANCELED),
        (7, Code.UNAVAILABLE),
        (11, Code.RESOURCE_EXHAUSTED),
        (12, Code.PERMISSION_DENIED),
        (2, Code.INTERNAL),
    ],
)
async def test_a_reset_has_the_code_that_grpc_gives_it(code: int, expected: Code) -> None:
    spoken, received = Spoken("grpc", True), asyncio.Event()

    async def answer(request: Request) -> None:
        await spoken.begin(request)
        await spoken.message(request, "one")
        await received.wait()
        request.abort(code)

    async with (
        served(spoken, answer) as (client, _),
        client.server_stream(PATH, text("go"), response=StringValue) as stream,
    ):
        await stream.receive()
        received.set()
        with pytest.raises(RpcError, match="reset") as error:
            await stream.receive()
        assert error.value.code is expected


async def test_a_stream_that_the_server_resets_at_the_deadline_has_passed_it() -> None:
    """grpc-go resets with CANCEL when the deadline it was told passes; our own timer may be a moment behind."""
    spoken = Spoken("grpc", True)
    passed = asyncio.Event()

    async def answer(request: Request) -> None:
        await spoken.begin(request)
        await passed.wait()
        request.abort(8)

    async with (
        served(spoken, answer) as (client, _),
        client.server_stream(PATH, text("go"), response=StringValue) as stream,
    ):
        await stream.open()
        stream.call.deadline = asyncio.get_running_loop().time()
        passed.set()
        with pytest.raises(RpcDeadlineExceeded):
            await stream.receive()


async def test_a_deadline_that_has_passed_sends_nothing() -> None:
    spoken = Spoken("connect", True)
    async with served(spoken, spoken.echo) as (client, peer):
        with pytest.raises(RpcDeadlineExceeded, match="before the call was sent"):
            await client.unary(PATH, text("x"), response=StringValue, timeout=0)
        with pytest.raises(RpcDeadlineExceeded):
            async with client.bidi(PATH, response=StringValue, timeout=-1):
                pass
        assert peer.requests == []
        await eventually(lambda: client.statistics() == {"open": 0}, "nothing is kept of them")


@each_way
async def test_a_stream_can_be_left_before_a_byte_of_it_came(spoken: Spoken) -> None:
    async with served(spoken, spoken.silent) as (client, peer):
        stream = client.server_stream(PATH, text("go"), response=StringValue)
        opening = asyncio.create_task(stream.__aenter__())
        await opening
        waiting = asyncio.create_task(stream.open())
        request = await peer.request()
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        await told(request, spoken)
        await stream.__aexit__(None, None, None)
