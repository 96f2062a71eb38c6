"""`Mcp-Param-*` at the server: a modern call whose headers are not as its body is refused before its tool runs."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from msgspec import Meta

from tailrace import DefinitionError, Service
from tests.rigs.exchange import LegacySession, modern_request, post_modern, serving, text_of

HEADER_MISMATCH = -32020
INVALID_PARAMS = -32602
svc = Service("regions")
seen: list[str] = []


@svc.tool
async def deploy(region: Annotated[str, Meta(extra_json_schema={"x-mcp-header": "Region"})] = "") -> str:
    seen.append(region)
    return region


def call_deploy(arguments: dict[str, Any] | None, name: str = "deploy") -> dict[str, Any]:
    return modern_request(1, "tools/call", {"name": name} | ({} if arguments is None else {"arguments": arguments}))


async def test_a_call_whose_header_is_as_its_body_runs() -> None:
    async with serving(svc) as server:
        post = post_modern(server, call_deploy({"region": "eu"}), None, ("Mcp-Param-Region", "eu"))
        assert text_of(await post.json()) == "eu"


@pytest.mark.parametrize("arguments", [None, {}])
async def test_without_the_argument_there_is_no_header(arguments: dict[str, Any] | None) -> None:
    async with serving(svc) as server:
        assert await post_modern(server, call_deploy(arguments)).status_code() == 200


@pytest.mark.parametrize("headers", [(), (("Mcp-Param-Region", "us"),)])
async def test_a_call_that_differs_is_refused_and_does_not_run(headers: tuple[tuple[str, str], ...]) -> None:
    seen.clear()
    async with serving(svc) as server:
        post = post_modern(server, call_deploy({"region": "eu"}), None, *headers)
        assert await post.status_code() == 400
        answer = await post.json()
        assert (answer["id"], answer["error"]["code"]) == (1, HEADER_MISMATCH)
        assert "Mcp-Param-Region" in answer["error"]["message"]
        assert seen == []


async def test_an_unknown_tool_stays_unknown() -> None:
    async with serving(svc) as server:
        post = post_modern(server, call_deploy({}, "other"), None, ("Mcp-Param-Region", "eu"))
        assert (await post.json())["error"]["code"] == INVALID_PARAMS


async def test_the_legacy_era_has_no_such_headers() -> None:
    async with serving(svc) as server:
        session = await LegacySession(server).start()
        assert text_of(await session.call(1, "deploy", {"region": "eu"}).answer(1)) == "eu"


def test_a_tool_that_clients_would_have_to_drop_is_refused_where_it_is_defined() -> None:
    with pytest.raises(DefinitionError, match=r"cannot be part of a header's name"):

        @Service("other").tool
        async def tool(region: Annotated[str, Meta(extra_json_schema={"x-mcp-header": "a b"})]) -> str:
            return region
