"""`tailrace.asgi.Background` in FastAPI: spawn and publish after the answer, drained at the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import pytest
from fastapi import BackgroundTasks, FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

from tailrace import AnswerWritten, ClientGone, Context, current
from tailrace.asgi import Background
from tailrace.errors import StoreError
from tailrace.publish.publishers import MemoryPublisher
from tailrace.stores.memory import MemoryStore

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class Shop:
    """An application whose handlers say what they saw."""

    def __init__(self, **options: Any) -> None:
        self.publisher = MemoryPublisher()
        self.seen: list[Any] = []
        self.contexts: list[Context] = []
        self.gate = asyncio.Event()

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            self.seen.append("up")
            yield
            self.seen.append("down")

        app = FastAPI(lifespan=lifespan)
        self.middleware = Background(app, publish=self.publisher, **options)

        @app.get("/order/{item}")
        async def order(item: str, status: int = 200, wait: bool = False, if_gone: str = "publish") -> Any:
            ctx = current()
            self.contexts.append(ctx)
            await ctx.publish("orders", {"item": item}, key=item, if_gone=if_gone)  # type: ignore[arg-type]
            if wait:
                await self.gate.wait()
            return JSONResponse({"ordered": item}, status_code=status)

        @app.post("/body")
        async def body(request: Request) -> Any:
            data = await request.body()
            await current().publish("orders", data)
            return {"bytes": len(data)}

        @app.post("/unread")
        async def unread() -> Any:
            self.contexts.append(current())
            await self.gate.wait()
            return {}

        @app.get("/bug")
        async def bug() -> Any:
            await current().publish("orders", "never")
            raise RuntimeError("bug")

        @app.get("/later")
        async def later(background: BackgroundTasks) -> Any:
            async def mail() -> None:
                await self.gate.wait()
                self.seen.append(("mail", current().correlation_id, current().cancelled))
                await current().publish("mails", "sent")

            async def after() -> None:
                self.seen.append(("after", type(current().error)))
                await current().publish("mails", "after")

            current().spawn(mail)
            background.add_task(after)
            return {"ok": True}

        @app.get("/stream")
        async def stream() -> Any:
            async def parts() -> AsyncIterator[bytes]:
                yield b"one"
                await current().publish("orders", "in the stream")
                yield b"two"

            return StreamingResponse(parts())

    @property
    def published(self) -> list[bytes]:
        return [message.value for message in self.publisher.messages]


class Peer:
    """A server of the application, and one client."""

    def __init__(self, shop: Shop) -> None:
        self.app = shop.middleware
        self._to_app: asyncio.Queue[Any] = asyncio.Queue()
        self._from_app: asyncio.Queue[Any] = asyncio.Queue()

    async def __aenter__(self) -> Peer:
        self._lifespan = asyncio.ensure_future(
            self.app({"type": "lifespan"}, self._to_app.get, self._from_app.put)  # type: ignore[arg-type]
        )
        await self._to_app.put({"type": "lifespan.startup"})
        assert (await self._from_app.get())["type"] == "lifespan.startup.complete"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._to_app.put({"type": "lifespan.shutdown"})
        assert (await self._from_app.get())["type"] == "lifespan.shutdown.complete"
        await self._lifespan

    async def ask(
        self, path: str, *headers: tuple[bytes, bytes], body: bytes | None = None, leave: asyncio.Event | None = None
    ) -> tuple[int, bytes]:
        """One request; `leave` set: the client goes away."""
        path, _, query = path.partition("?")
        given = [*headers, (b"content-length", b"%d" % len(body))] if body is not None else list(headers)
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "path": path, "raw_path": path.encode(),
            "method": "GET" if body is None else "POST", "query_string": query.encode(), "headers": given,
            "root_path": "", "scheme": "http", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
        }  # fmt: skip
        requests = [{"type": "http.request", "body": body or b"", "more_body": False}]
        answered = leave or asyncio.Event()
        sent: list[Any] = []

        async def receive() -> Any:
            if requests:
                return requests.pop()
            await answered.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                answered.set()

        await self.app(scope, receive, send)
        return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_request_that_succeeds_publishes_with_its_trace() -> None:
    shop = Shop()
    async with Peer(shop) as peer:
        trace = (b"traceparent", f"00-{TRACE}-00f067aa0ba902b7-01".encode())
        assert await peer.ask("/order/tea", trace) == (200, b'{"ordered":"tea"}')
        await until(lambda: shop.published)
    (message,) = shop.publisher.messages
    assert message.value == b'{"item":"tea"}'
    assert dict(message.headers)["correlation-id"] == TRACE.encode()
    assert shop.seen == ["up", "down"]


@pytest.mark.parametrize("path", ["/order/tea?status=500", "/order/tea?status=404", "/bug"])
async def test_a_request_that_fails_publishes_nothing(path: str) -> None:
    shop = Shop()
    async with Peer(shop) as peer:
        with pytest.raises(RuntimeError, match="bug") if path == "/bug" else nullcontext():
            assert (await peer.ask(path))[0] >= 400
        await peer.ask("/order/sentinel")
        await until(lambda: shop.published)
    assert shop.published == [b'{"item":"sentinel"}']


async def test_a_body_arrives_whole() -> None:
    shop = Shop()
    async with Peer(shop) as peer:
        assert await peer.ask("/body", body=b"x" * 1000) == (200, b'{"bytes":1000}')
    assert shop.published == [b"x" * 1000]


async def test_a_context_ends_with_the_answer_or_with_the_client_and_says_which() -> None:
    shop = Shop()
    async with Peer(shop) as peer:
        await peer.ask("/order/tea")
        leave = asyncio.Event()
        leaving = asyncio.ensure_future(peer.ask("/order/left?wait=true", leave=leave))
        await until(lambda: len(shop.contexts) == 2)
        assert not shop.contexts[1].cancelled
        leave.set()
        await shop.contexts[1].wait_cancelled()
        shop.gate.set()
        await leaving
    assert type(shop.contexts[0].error) is AnswerWritten
    assert type(shop.contexts[1].error) is ClientGone


@pytest.mark.parametrize(("if_gone", "published"), [("publish", [b'{"item":"left"}']), ("skip", [])])
async def test_a_client_that_left_matters_only_if_that_was_said(if_gone: str, published: list[bytes]) -> None:
    shop = Shop()
    async with Peer(shop) as peer:
        leave = asyncio.Event()
        leaving = asyncio.ensure_future(peer.ask(f"/order/left?wait=true&if_gone={if_gone}", leave=leave))
        await until(lambda: shop.contexts)
        leave.set()
        await shop.contexts[0].wait_cancelled()
        shop.gate.set()
        await leaving
    assert shop.published == published


async def test_a_client_that_leaves_is_seen_also_where_the_application_does_not_read_the_body() -> None:
    shop = Shop()
    async with Peer(shop) as peer:
        leave = asyncio.Event()
        leaving = asyncio.ensure_future(peer.ask("/unread", body=b"not read", leave=leave))
        await until(lambda: shop.contexts)
        leave.set()
        async with asyncio.timeout(60):
            await shop.contexts[0].wait_cancelled()
        shop.gate.set()
        await leaving
    assert type(shop.contexts[0].error) is ClientGone


async def test_spawned_work_outlives_the_answer_and_is_waited_for_at_shutdown_before_the_application_ends() -> None:
    shop = Shop()
    async with Peer(shop) as peer:
        assert (await peer.ask("/later", (b"x-request-id", b"r-1")))[0] == 200
        assert peer.app.statistics()["detached"]["running"] == 1
        asyncio.get_running_loop().call_later(0.05, shop.gate.set)
    assert shop.seen == ["up", ("after", AnswerWritten), ("mail", "r-1", False), "down"]
    assert sorted(shop.published) == [b"after", b"sent"]


async def test_what_never_ends_is_dropped_by_name(caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop(drain=0.05)
    async with Peer(shop) as peer:
        await peer.ask("/later", (b"x-request-id", b"r-1"))
    assert "detached work dropped name=mail" in caplog.text
    assert "correlation_id=r-1" in caplog.text


async def test_while_a_response_streams_messages_are_written_at_once() -> None:
    shop = Shop()
    async with Peer(shop) as peer:
        assert await peer.ask("/stream") == (200, b"onetwo")
    assert shop.published == [b"in the stream"]


class Full(MemoryStore):
    def write(self, records: Any) -> int:
        raise StoreError("the disk is full")


async def test_a_request_whose_messages_cannot_be_committed_fails(caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop(store=Full())
    async with Peer(shop) as peer:
        assert (await peer.ask("/order/tea"))[0] == 500
    assert shop.published == []
    assert "disk is full" in caplog.text


async def test_without_a_lifespan_it_begins_at_the_first_request() -> None:
    shop = Shop()
    assert (await Peer(shop).ask("/order/tea"))[0] == 200
    await until(lambda: shop.published)
    await shop.middleware._stop()


async def test_a_store_whose_outbox_could_not_be_read_is_opened_anew_for_the_next_request() -> None:
    class Moody(MemoryStore):
        failures = 1

        async def count(self, kind: str) -> int:
            if self.failures:
                self.failures -= 1
                raise StoreError("the disk is asleep")
            return await super().count(kind)

    shop = Shop(store=Moody())
    with pytest.raises(StoreError, match="asleep"):
        await Peer(shop).ask("/order/tea")
    assert (await Peer(shop).ask("/order/tea"))[0] == 200
    await until(lambda: shop.published)
    await shop.middleware._stop()
