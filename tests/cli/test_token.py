"""`--token` is shown to a server at a URL, and to nobody else."""

from __future__ import annotations

from click.testing import CliRunner

from tailrace.cli import main
from tests.clients.mcp.fake_http import Exchange, modern, serving


async def test_a_token_is_shown_to_a_url(tmp_path: object) -> None:
    import asyncio

    async def tools(x: Exchange) -> None:
        await x.result({"tools": []})

    async with serving(modern(tools)) as server:
        for words in (["ls", server.url, "--token", "secret"], ["ls", server.url]):
            done = await asyncio.to_thread(CliRunner().invoke, main, words)
            assert done.exit_code == 0, done.output
        shown = [x.headers.get("authorization") for x in server.asked("tools/list")]
        assert shown == ["Bearer secret", None]
