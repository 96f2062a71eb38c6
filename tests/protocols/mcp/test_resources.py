"""Resources: what stands at a URI, templates, what is not there, and who hears of changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from tailrace import Annotations, Context, Icon, ResourceContents, ResourceNotFound, Service, ToolError
from tailrace.stores.memory import MemoryStore
from tests.core.support import turns, virtual
from tests.rigs.exchange import LegacySession, SseSession, modern_request, post_modern, request, serving
from tests.rigs.workshop import errors

NOT_FOUND, INVALID_PARAMS, INTERNAL_ERROR, INVALID_REQUEST = -32002, -32602, -32603, -32600


@dataclass
class Order:
    id: int
    item: str


def library() -> Service:
    svc = Service("library")

    @svc.resource("text://note", title="A note", size=5, annotations=Annotations(priority=0.5))
    async def note() -> str:
        """Says hello."""
        return "hello"

    @svc.resource("data://blob", mime_type="image/png", icons=[Icon("https://a/b.png")], meta={"a": 1})
    def blob() -> bytes:
        return b"png"

    @svc.resource("orders://{id}", max_age=2.5, shared=True)
    async def order(ctx: Context, id: int) -> Order | None:
        await ctx.progress(1, 2)
        return Order(id, "tea") if id < 100 else None

    @svc.resource("many://all")
    async def many() -> list[ResourceContents]:
        return [ResourceContents("many://1", "one"), ResourceContents("many://2", blob=b"2", meta={"b": 2})]

    @svc.resource("search://items{?q,tag*,limit}")
    async def search(q: str = "", tag: list[str] | None = None, limit: int = 10) -> dict[str, Any]:
        return {"q": q, "tag": tag, "limit": limit}

    @svc.resource("broken://{how}")
    async def broken(how: str) -> str:
        if how == "gone":
            raise ResourceNotFound("it was here yesterday")
        if how == "said":
            raise ToolError("closed today", {"until": "monday"})
        raise RuntimeError("secret")

    return svc


async def read(session: LegacySession, uri: str) -> Any:
    answer = await session.post(request(1, "resources/read", {"uri": uri})).json()
    return answer.get("result") or answer["error"]


@virtual
async def test_resources_and_templates_are_listed_apart_with_all_that_was_said_of_them() -> None:
    async with serving(library()) as server:
        session = await LegacySession(server).start()
        resources = (await session.post(request(1, "resources/list")).json())["result"]["resources"]
        assert resources[:2] == [
            {
                "name": "note",
                "title": "A note",
                "description": "Says hello.",
                "uri": "text://note",
                "size": 5,
                "annotations": {"priority": 0.5},
            },
            {
                "name": "blob",
                "uri": "data://blob",
                "mimeType": "image/png",
                "icons": [{"src": "https://a/b.png"}],
                "_meta": {"a": 1},
            },
        ]
        templates = (await session.post(request(2, "resources/templates/list")).json())["result"]["resourceTemplates"]
        assert [one["uriTemplate"] for one in templates] == [
            "orders://{id}",
            "search://items{?q,tag*,limit}",
            "broken://{how}",
        ]


@virtual
@pytest.mark.parametrize(
    ("uri", "contents"),
    [
        ("text://note", [{"uri": "text://note", "text": "hello", "mimeType": "text/plain"}]),
        ("data://blob", [{"uri": "data://blob", "blob": "cG5n", "mimeType": "image/png"}]),
        ("orders://7", [{"uri": "orders://7", "text": '{"id":7,"item":"tea"}', "mimeType": "application/json"}]),
        (
            "many://all",
            [{"uri": "many://1", "text": "one"}, {"uri": "many://2", "blob": "Mg==", "_meta": {"b": 2}}],
        ),
        (
            "search://items?tag=a&q=5&tag=b&limit=3",
            [
                {
                    "uri": "search://items?tag=a&q=5&tag=b&limit=3",
                    "text": '{"q":"5","tag":["a","b"],"limit":3}',
                    "mimeType": "application/json",
                }
            ],
        ),
    ],
)
async def test_what_stands_at_a_uri_is_read(uri: str, contents: list[Any]) -> None:
    async with serving(library()) as server:
        session = await LegacySession(server).start()
        assert await read(session, uri) == {"contents": contents}


@virtual
@pytest.mark.parametrize(
    ("uri", "code", "message"),
    [
        ("text://other", NOT_FOUND, "there is no such resource"),
        ("orders://{id}", INVALID_PARAMS, "argument 'id': expected int, got str"),
        ("orders://100", NOT_FOUND, "there is no such resource"),
        ("orders://x", INVALID_PARAMS, "argument 'id': expected int, got str"),
        ("broken://gone", NOT_FOUND, "it was here yesterday"),
        ("broken://said", INTERNAL_ERROR, "closed today"),
    ],
)
async def test_what_cannot_be_read_is_an_error_with_its_code(
    uri: str, code: int, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(library()) as server:
        session = await LegacySession(server).start()
        error = await read(session, uri)
        assert (error["code"], error["message"]) == (code, message)
        assert error.get("data") in ({"uri": uri}, {"until": "monday"}, None)
        assert errors(caplog) == []


@virtual
async def test_a_fault_of_the_resource_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(library()) as server:
        session = await LegacySession(server).start()
        error = await read(session, "broken://down")
        assert error["code"] == INTERNAL_ERROR
        assert "secret" not in error["message"]
        assert "error id" in error["message"]
        assert len(errors(caplog)) == 1


async def test_a_modern_read_says_how_long_it_may_be_kept_and_has_the_newer_code() -> None:
    async with serving(library()) as server:
        post = post_modern(server, modern_request(1, "resources/read", {"uri": "orders://1"}))
        result = (await post.json())["result"]
        assert (result["resultType"], result["ttlMs"], result["cacheScope"]) == ("complete", 2500, "public")
        assert "io.modelcontextprotocol/serverInfo" in result["_meta"]
        post = post_modern(server, modern_request(1, "resources/read", {"uri": "text://note"}))
        result = (await post.json())["result"]
        assert (result["ttlMs"], result["cacheScope"]) == (0, "private")
        absent = post_modern(server, modern_request(2, "resources/read", {"uri": "text://other"}))
        error = (await absent.json())["error"]
        assert (error["code"], error["data"]) == (INVALID_PARAMS, {"uri": "text://other"})
        assert await absent.status_code() == 400


@virtual
async def test_a_read_over_http_sse_is_promised_by_its_202_and_runs_again_after_a_crash() -> None:
    store = MemoryStore(durable=True)
    svc = Service("slow")
    runs: list[str] = []

    @svc.resource("slow://{id}")
    async def slow(ctx: Context, id: str) -> str:
        runs.append(id)
        if len(runs) == 1:
            await ctx.wait_cancelled()
        return f"read {id}"

    async with serving(svc, store) as server:
        session = await SseSession(server).start()
        assert await session.post(request(1, "resources/read", {"uri": "slow://a"})).status_code() == 202
        await turns(20)
        last = session.stream.last_id
    async with serving(svc, store) as server:
        session.server = server
        stream = session.get(last)
        answer = await stream.answer(1)
        assert answer["result"]["contents"][0]["text"] == "read a"
        assert runs == ["a", "a"]


@virtual
async def test_a_read_that_crashed_twice_is_answered_with_an_error() -> None:
    store, svc, runs = MemoryStore(durable=True), Service("slow"), list[int]()

    @svc.resource("slow://it")
    async def slow(ctx: Context) -> str:
        runs.append(1)
        await ctx.wait_cancelled()
        return ""

    async with serving(svc, store) as server:
        session = await SseSession(server).start()
        await session.post(request(1, "resources/read", {"uri": "slow://it"})).status_code()
        await turns(20)
        last = session.stream.last_id
    async with serving(svc, store):
        await turns(20)
    async with serving(svc, store) as server:
        session.server = server
        await turns(20)
        assert len(runs) == 2
        assert (await session.get(last).answer(1))["error"]["code"] == INTERNAL_ERROR


@virtual
async def test_a_prompt_and_a_completion_run_again_after_a_crash_and_what_is_gone_is_an_error() -> None:
    store, svc, first = MemoryStore(durable=True), Service("slow"), list[int]()

    async def wait(ctx: Context) -> None:
        first.append(1)
        if len(first) <= 3:
            await ctx.wait_cancelled()

    async def known(ctx: Context, value: str) -> list[str]:
        await wait(ctx)
        return [value + "!"]

    @svc.prompt(complete={"what": known})
    async def ask(ctx: Context, what: str) -> str:
        await wait(ctx)
        return what

    @svc.prompt
    async def other(ctx: Context) -> str:
        await wait(ctx)
        return ""

    async with serving(svc, store) as server:
        session = await SseSession(server).start()
        asked = {"ref": {"type": "ref/prompt", "name": "ask"}, "argument": {"name": "what", "value": "w"}}
        session.post(request(1, "prompts/get", {"name": "ask", "arguments": {"what": "why"}}))
        session.post(request(2, "completion/complete", asked))
        session.post(request(3, "prompts/get", {"name": "other"}))
        await turns(40)
        last = session.stream.last_id
    svc.remove_prompt("other")
    async with serving(svc, store) as server:
        session.server = server
        stream = session.get(last)
        assert (await stream.answer(1))["result"]["messages"][0]["content"]["text"] == "why"
        assert (await stream.answer(2))["result"]["completion"]["values"] == ["w!"]
        assert "unknown prompt" in (await stream.answer(3))["error"]["message"]


@virtual
@pytest.mark.parametrize("path", ["../x", "a/%2e%2e/b", "/etc/passwd", "%2Fetc/passwd", "C:/x", "a%00b"])
async def test_a_path_that_leads_out_is_not_found(path: str) -> None:
    svc = Service("files")

    @svc.resource("files://{+path}")
    async def file(path: str) -> str:
        return path

    async with serving(svc) as server:
        session = await LegacySession(server).start()
        assert (await read(session, f"files://{path}")).get("code") == NOT_FOUND
        assert (await read(session, "files://a/b"))["contents"][0]["text"] == "a/b"


# --- subscriptions ------------------------------------------------------------------------------


def updates(messages: list[Any]) -> list[str]:
    return [one["params"]["uri"] for one in messages if one.get("method") == "notifications/resources/updated"]


@virtual
async def test_those_who_subscribed_are_told_once_and_nobody_else() -> None:
    svc = library()
    async with serving(svc) as server:
        told, other = await LegacySession(server).start(), await LegacySession(server).start()
        streams = [told.get(), other.get()]
        assert await told.post(request(1, "resources/subscribe", {"uri": "orders://7"})).json() == {
            "jsonrpc": "2.0",
            "id": 1,
            "result": {},
        }
        for uri in ("orders://7", "orders://7", "orders://8"):
            svc.resource_updated(uri)
        await streams[0].message(lambda one: one.get("method") == "notifications/resources/updated")
        await turns(20)
        assert [updates(stream.messages) for stream in streams] == [["orders://7"], []]
        await told.post(request(2, "resources/unsubscribe", {"uri": "orders://7"})).json()
        svc.resource_updated("orders://7")
        await svc.broadcast("notifications/resources/updated", {"uri": "orders://7"})
        svc.tool(lambda_tool)
        await streams[0].message(lambda one: one.get("method") == "notifications/tools/list_changed")
        assert updates(streams[0].messages) == ["orders://7"]


async def lambda_tool() -> str:
    return ""


@virtual
async def test_a_session_that_ends_leaves_no_subscription_behind() -> None:
    async with serving(library()) as server:
        session = await LegacySession(server).start()
        for id in (1, 2):
            await session.post(request(id, "resources/subscribe", {"uri": f"orders://{id}"})).json()
        await session.post(request(3, "resources/unsubscribe", {"uri": "orders://1"})).json()
        updated = {"uri": "orders://2"}
        assert [one.id for one in server.endpoint.subscriptions.of(updated)] == [session.id]
        await session.delete().status_code()
        await turns(20)
        assert list(server.endpoint.subscriptions.of(updated)) == []
        assert len(server.endpoint.subscriptions) == 0


@virtual
async def test_a_subscription_survives_a_restart() -> None:
    store, svc = MemoryStore(durable=True), library()
    async with serving(svc, store) as server:
        session = await LegacySession(server).start()
        await session.post(request(1, "resources/subscribe", {"uri": "text://note"})).json()
    async with serving(svc, store) as server:
        stream = session.on(server).get()
        await turns(20)
        svc.resource_updated("text://note")
        await stream.message(lambda one: one.get("method") == "notifications/resources/updated")
        assert updates(stream.messages) == ["text://note"]


@virtual
@pytest.mark.parametrize(("uri", "code"), [("other://x", NOT_FOUND), ("", NOT_FOUND), ("orders://3", -32000)])
async def test_a_subscription_that_cannot_be_is_refused(uri: str, code: int) -> None:
    async with serving(library(), max_watched=2) as server:
        session = await LegacySession(server).start()
        for id in (1, 2):
            await session.post(request(id, "resources/subscribe", {"uri": f"orders://{id}"})).json()
        answer = await session.post(request(3, "resources/subscribe", {"uri": uri})).json()
        assert answer["error"]["code"] == code


async def test_a_modern_listener_hears_of_the_resources_that_it_named() -> None:
    svc = library()
    async with serving(svc) as server:
        params = {"notifications": {"resourceSubscriptions": ["orders://7"], "resourcesListChanged": True}}
        stream = post_modern(server, modern_request(1, "subscriptions/listen", params))
        await stream.message(lambda one: one.get("method") == "notifications/subscriptions/acknowledged")
        svc.resource_updated("orders://8")
        svc.resource_updated("orders://7")
        svc.remove_resource("data://blob")
        await stream.message(lambda one: one.get("method") == "notifications/resources/updated")
        await stream.message(lambda one: one.get("method") == "notifications/resources/list_changed")
        assert updates(stream.messages) == ["orders://7"]
        stream.disconnect()


# --- before initialize --------------------------------------------------------------------------


@virtual
@pytest.mark.parametrize(
    "method", ["tools/list", "resources/list", "prompts/list", "resources/read", "logging/setLevel"]
)
async def test_over_http_sse_nothing_but_ping_is_answered_before_initialize(method: str) -> None:
    async with serving(library()) as server:
        session = SseSession(server)
        await session.open()
        params = {"uri": "text://note", "level": "info"}
        session.post(request(1, method, params))
        session.post(request(2, "ping"))
        assert (await session.stream.answer(1))["error"]["code"] == INVALID_REQUEST
        assert (await session.stream.answer(2))["result"] == {}
