"""A service before another server: what passes, in both eras on both sides, and what is told when it is away."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any, Literal

import pytest

from tailrace import (
    Context,
    DefinitionError,
    ElicitResult,
    Image,
    PromptResponse,
    ProtocolError,
    Service,
    ToolError,
    ToolResponse,
)
from tailrace.errors import RequestRefused
from tailrace.mcp import Client, proxy
from tailrace.service import Invocation

Era = Literal["modern", "legacy"]
ERAS: list[tuple[Era, Era]] = [("legacy", "legacy"), ("legacy", "modern"), ("modern", "modern"), ("modern", "legacy")]
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "x-note": "kept"}},
    "required": ["n"],
    "allOf": [{"properties": {"n": {"minimum": 0}}}],
}

MODERN_ALONE = """
import json, sys

def answer(method):
    if method == "server/discover":
        return {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}
    if method == "tools/list":
        return {"tools": [{"name": "any", "inputSchema": {"type": "object"}}]}
    return {"content": [{"type": "text", "text": "yes"}]} if method == "tools/call" else None

for line in sys.stdin:
    message = json.loads(line)
    with open(sys.argv[1], "a") as asked:
        asked.write(message["method"] + "\\n")
    if "id" in message:
        result = answer(message["method"])
        said = {"result": result} if result else {"error": {"code": -32601, "message": "what?"}}
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **said}), flush=True)
"""


def behind(*middleware: Any) -> Service:
    svc = Service("behind", instructions="Be kind.", middleware=middleware)
    svc.lent = 0  # type: ignore[attr-defined]

    @svc.tool(input_schema=SCHEMA, meta={"shelf": 1}, title="Double", read_only=True)
    async def double(n: int) -> dict[str, int]:
        return {"twice": 2 * n}

    @svc.tool
    async def picture() -> list[str | Image]:
        return ["look", Image(b"\x01", "image/png")]

    @svc.tool
    async def fail(how: str) -> ToolResponse:
        if how == "bug":
            raise RuntimeError("secret")
        return ToolResponse("no", {"why": how}, is_error=True)

    @svc.tool
    async def count(ctx: Context) -> str:
        await ctx.progress(1, 2, "half")
        await ctx.info("said")
        return "done"

    @svc.tool
    async def book(ctx: Context) -> str:
        said = await ctx.elicit("Seats?", {"type": "object", "properties": {"n": {"type": "integer"}}})
        model = await ctx.sample("Who?", max_tokens=5)
        return f"{said.action} {said.data} {model.text}"

    @svc.tool
    async def lend() -> str:
        svc.lent += 1  # type: ignore[attr-defined]
        return f"lent {svc.lent}"  # type: ignore[attr-defined]

    @svc.resource("library://hours", mime_type="text/x-hours")
    async def hours() -> str:
        return "9 to 18"

    @svc.resource("library://books/{+path}", complete={"path": ["a", "ab"]})
    async def page(path: str) -> bytes:
        return path.encode()

    @svc.prompt(complete={"title": ["Emma"]})
    async def review(title: str, length: int = 3) -> PromptResponse:
        return PromptResponse(f"{title} in {length}", f"On {title}", {"example/n": length})

    return svc


@pytest.fixture(params=ERAS, ids=lambda pair: f"{pair[0]}-before-{pair[1]}")
def eras(request: pytest.FixtureRequest) -> tuple[Era, Era]:
    return request.param


async def test_all_that_is_offered_behind_is_offered_as_it_came(eras: tuple[Era, Era]) -> None:
    front, back = eras
    async with Client(proxy(behind(), era=back), era=front) as client, Client(behind(), era=back) as direct:
        assert client.instructions == "Be kind."
        for method, key in (
            ("resources/list", "resources"),
            ("resources/templates/list", "resourceTemplates"),
            ("prompts/list", "prompts"),
        ):
            assert (await client.request(method))[key] == (await direct.request(method))[key]
        tools, originals = [(await one.request("tools/list"))["tools"] for one in (client, direct)]
        for tool, original in zip(tools, originals, strict=True):
            assert tool["_meta"].pop("io.tailrace/once") is True
            assert {**tool, "_meta": tool["_meta"] or None} == {"_meta": None, **original}
        assert tools[0]["inputSchema"] == SCHEMA


async def test_results_and_errors_come_through(eras: tuple[Era, Era]) -> None:
    front, back = eras
    async with Client(proxy(behind(), era=back), era=front) as client:
        assert (await client.call_tool("double", {"n": 4})).structured_content == {"twice": 8}
        assert [block["type"] for block in (await client.call_tool("picture")).content] == ["text", "image"]
        failed = await client.call_tool("fail", {"how": "so"})
        assert (failed.is_error, failed.structured_content, failed.text) == (True, {"why": "so"}, "no")
        assert "minimum" in (await client.call_tool("double", {"n": -1})).text
        bug = await client.call_tool("fail", {"how": "bug"})
        assert bug.is_error
        assert "secret" not in bug.text
        assert (await client.read_resource("library://hours")).contents[0].mime_type == "text/x-hours"
        assert (await client.read_resource("library://books/a/b")).contents[0].data == b"a/b"
        written = await client.get_prompt("review", {"title": "Emma"})
        assert (written.messages[0].text, written.description) == ("Emma in 3", "On Emma")
        assert (written.meta or {})["example/n"] == 3
        with pytest.raises(ProtocolError, match="title"):
            await client.get_prompt("review", {})
        with pytest.raises(ProtocolError) as missing:
            await client.call_tool("nothing")
        assert missing.value.code == -32602


async def test_completions_come_through(eras: tuple[Era, Era]) -> None:
    front, back = eras
    async with Client(proxy(behind(), era=back), era=front) as client:
        found = await client.complete("library://books/{+path}", {"name": "path", "value": "a"})
        assert (found.values, found.total, found.has_more) == (["a", "ab"], 2, False)
        assert (await client.complete("review", {"name": "title", "value": "e"})).values == ["Emma"]


async def test_progress_and_log_come_through(eras: tuple[Era, Era]) -> None:
    front, back = eras
    told: list[Any] = []
    logged: list[Any] = []
    async with Client(proxy(behind(), era=back), era=front, on_log=lambda one: logged.append(one.data)) as client:
        await client.call_tool("count", progress=lambda *one: told.append(one))
    assert told == [(1.0, 2.0, "half")]
    assert logged == ["said"]


async def test_questions_go_to_the_client_whose_call_it_is_and_answers_come_back() -> None:
    async def booked(svc: Service, front: Era, seats: int) -> str:
        async with Client(
            svc,
            era=front,
            elicitation=lambda message, schema: ElicitResult("accept", {"n": seats}),
            sampling=lambda params: f"model {seats}",
        ) as client:
            return (await client.call_tool("book")).text

    for front, back in (("legacy", "legacy"), ("legacy", "modern"), ("modern", "modern")):
        svc = proxy(behind(), era=back)
        assert await asyncio.gather(booked(svc, front, 1), booked(svc, front, 2)) == [
            "accept {'n': 1} model 1",
            "accept {'n': 2} model 2",
        ]


async def test_a_server_of_both_eras_is_spoken_to_in_the_era_of_who_can_be_asked() -> None:
    svc = behind()

    @svc.tool
    async def era(ctx: Context) -> str:
        return "modern" if ctx.session is None else "legacy"

    front = proxy(svc)
    asked: dict[str, Any] = {"elicitation": lambda message, schema: ElicitResult("decline")}
    for options, expected in (
        ({"era": "legacy", **asked}, "legacy"),
        ({"era": "legacy"}, "modern"),
        ({"era": "modern", **asked}, "modern"),
    ):
        async with Client(front, **options) as client:
            assert (await client.call_tool("era")).text == expected


async def test_a_server_of_the_modern_era_alone_is_asked_for_the_older_one_once(tmp_path: Path) -> None:
    program = tmp_path / "modern.py"
    program.write_text(MODERN_ALONE)
    front = proxy([sys.executable, str(program), str(tmp_path / "asked")])
    for _ in range(2):
        async with Client(front, era="legacy", elicitation=lambda message, schema: ElicitResult("decline")) as client:
            assert (await client.call_tool("any")).text == "yes"
    assert (tmp_path / "asked").read_text().splitlines().count("initialize") == 1


async def test_a_list_that_cannot_be_had_leaves_the_others(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(ctx: Context, invocation: Invocation, next: Any) -> Any:
        if invocation.method == "prompts/list":
            raise ProtocolError(-32603, "no prompts today")
        return await next(invocation)

    async with Client(proxy(behind(broken))) as client:
        assert next(one.name for one in await client.list_tools()) == "double"
        assert await client.list_prompts() == []
    assert "does not list its prompts: no prompts today" in caplog.text


async def test_a_refusal_of_the_client_in_front_reaches_the_server_behind_in_its_own_words() -> None:
    svc = behind()

    @svc.tool
    async def ask(ctx: Context) -> str:
        try:
            return (await ctx.sample("Who?", max_tokens=5)).text
        except RequestRefused as error:
            return f"{error.code} {error} {error.details}"

    def refuse(params: Any) -> str:
        raise ProtocolError(-1, "User rejected sampling request", {"by": "the user"})

    async with Client(proxy(svc), era="legacy", sampling=refuse) as client:
        assert (await client.call_tool("ask")).text == "-1 User rejected sampling request {'by': 'the user'}"


async def test_a_client_that_cannot_be_asked_is_not_declared_to_be() -> None:
    async with Client(proxy(behind(), era="legacy"), era="legacy") as client:
        result = await client.call_tool("book")
        assert result.is_error
        assert "elicitation" in result.text
    async with Client(proxy(behind(), era="modern"), era="legacy") as client:
        with pytest.raises(ProtocolError, match="declared no 'elicitation'"):
            await client.call_tool("book")


async def test_a_cancelled_call_is_cancelled_behind(eras: tuple[Era, Era]) -> None:
    front, back = eras
    begun, ended = asyncio.Event(), asyncio.Event()
    svc = behind()

    @svc.tool
    async def wait(ctx: Context) -> None:
        begun.set()
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    async with Client(proxy(svc, era=back), era=front) as client, asyncio.timeout(60):
        call = asyncio.ensure_future(client.call_tool("wait"))
        await begun.wait()
        call.cancel()
        await ended.wait()


async def test_what_comes_and_goes_behind_comes_and_goes_here_and_clients_are_told(eras: tuple[Era, Era]) -> None:
    front, back = eras
    svc = behind()
    async with Client(proxy(svc, era=back), era=front) as client, client.listen(tools=True) as changes:

        @svc.tool
        async def later() -> str:
            return "late"

        svc.remove_tool("lend")
        async with asyncio.timeout(60):
            names: list[str] = []
            while "later" not in names or "lend" in names:
                await anext(changes)
                names = [one.name for one in await client.list_tools()]
        assert (await client.call_tool("later")).text == "late"


async def test_a_retry_with_the_same_key_does_not_reach_the_server_behind() -> None:
    svc = behind()
    async with Client(proxy(svc)) as client:
        for _ in range(2):
            assert (await client.call_tool("lend", idempotency_key="k1")).text == "lent 1"
        assert (await client.call_tool("lend", idempotency_key="k2")).text == "lent 2"


async def test_each_legacy_session_has_its_own_behind_and_it_ends_with_it() -> None:
    svc = behind()
    sessions: list[Any] = []
    gone = asyncio.Event()

    @svc.on_unregister_session
    async def bye(session: Any) -> None:
        gone.set()

    @svc.tool
    async def whose(ctx: Context) -> str:
        assert ctx.session is not None
        sessions.append(ctx.session.id)
        return "ok"

    front = proxy(svc, era="legacy")
    async with Client(front, era="legacy") as client:
        await client.call_tool("whose")
        await client.call_tool("whose")
        async with Client(front, era="legacy") as other:
            await other.call_tool("whose")
    assert sessions[0] == sessions[1] != sessions[2]
    async with asyncio.timeout(60):
        await gone.wait()


async def test_more_sessions_than_there_may_be_clients_behind_are_refused() -> None:
    async with Client(proxy(behind(), era="legacy", max_upstreams=1), era="legacy") as client:
        with pytest.raises(ProtocolError, match="open already"):
            await client.call_tool("lend")


async def test_a_child_that_ends_fails_its_calls_in_plain_words_and_the_next_call_has_a_new_one(tmp_path: Path) -> None:
    program = tmp_path / "child.py"
    program.write_text(
        "import os\n"
        "from tailrace import Service\n"
        "svc = Service('child')\n"
        "@svc.tool\n"
        "async def pid() -> int:\n    return os.getpid()\n"
        "@svc.tool\n"
        "async def crash() -> None:\n    os._exit(3)\n"
        "svc.run()\n"
    )
    async with Client(proxy([sys.executable, str(program)])) as client:
        first = (await client.call_tool("pid")).data
        crashed = await client.call_tool("crash")
        assert crashed.is_error
        assert "the server behind did not answer" in crashed.text
        assert (await client.call_tool("pid")).data != first


async def test_a_server_that_is_not_there_is_told_when_the_proxy_starts() -> None:
    with pytest.raises(Exception, match="no-such-program"):
        async with Client(proxy(["no-such-program"])):
            pass


def test_targets_that_cannot_work_are_refused_at_once() -> None:
    with pytest.raises(DefinitionError, match="max_upstreams"):
        proxy("http://127.0.0.1:1/mcp", max_upstreams=0)
    with pytest.raises(DefinitionError, match="ftp"):
        proxy("ftp://127.0.0.1")
    assert proxy("http://localhost:1/mcp").name == "localhost"
    assert proxy(["/usr/bin/python", "x.py"]).name == "python"


async def test_a_proxy_is_mounted_like_any_service() -> None:
    gateway = Service("gateway")

    @gateway.tool
    async def b_lend() -> str:
        return "own"

    gateway.mount(proxy(behind()), "b")
    async with Client(gateway) as client:
        assert (await client.call_tool("b_double", {"n": 2})).data == {"twice": 4}
        assert (await client.call_tool("b_lend")).text == "own"


async def test_what_a_tool_says_over_the_protocol_keeps_its_code() -> None:
    svc = behind()

    @svc.tool
    async def refuse() -> None:
        raise ProtocolError(-32099, "not today", {"when": "tomorrow"})

    @svc.resource("library://closed")
    async def closed() -> str:
        raise ToolError("closed")

    async with Client(proxy(svc)) as client:
        with pytest.raises(ProtocolError, match="not today") as refused:
            await client.call_tool("refuse")
        assert (refused.value.code, refused.value.data) == (-32099, {"when": "tomorrow"})
        with pytest.raises(ProtocolError, match="closed"):
            await client.read_resource("library://closed")
