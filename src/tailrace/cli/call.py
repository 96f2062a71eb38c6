"""`tailrace call`: a server's tools, used from a shell."""

from __future__ import annotations

import difflib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tailrace.cli.arguments import ArgumentError, parse_arguments
from tailrace.cli.failures import explained
from tailrace.cli.program import PROGRAM, WithProgram
from tailrace.cli.where import Where, json_option, timeout_option, token_for, token_option, where_is

if TYPE_CHECKING:
    from tailrace.clients.mcp.results import ToolResult

__all__ = ["call_command"]


@click.command("call", cls=WithProgram, options_metavar="[OPTIONS]")
@click.argument("words", nargs=-1, metavar="URL|FILE.py TOOL [NAME=VALUE | JSON]...", type=click.UNPROCESSED)
@click.option("--idempotency-key", "key", metavar="KEY", help="Under the same key a `once` tool runs once.")
@json_option
@timeout_option
@token_option
@click.pass_context
def call_command(
    context: click.Context, words: tuple[str, ...], key: str | None, as_json: bool, timeout: float, token: str | None
) -> None:
    """Call a tool and print its answer.

    \b
    tailrace call http://127.0.0.1:8000/mcp place item=tea qty=2
    tailrace call examples/orders.py place '{"item": "tea", "qty": 2}'
    tailrace call slow seconds=3 -- python server.py

    \b
    name=value      typed by the tool's schema; repeat it for a list
    a.b=value       nested
    name:=JSON      as it is
    name=@FILE      the text of a file; name:=@FILE its JSON; @FILE alone: all arguments. @- is standard input

    Progress and log records go to standard error. Exit code 1 if the tool answers with an error.
    """
    rest = list(words)
    server = None if PROGRAM in context.meta else rest.pop(0) if rest else None
    if not rest:
        raise click.UsageError("say where and what: tailrace call URL TOOL [NAME=VALUE]...")
    import asyncio

    with explained():
        where = where_is(context, server)
        try:
            result = asyncio.run(_call(where, rest[0], rest[1:], timeout, key, token_for(where, token)))
        except KeyboardInterrupt:
            if key is not None and isinstance(where, str):
                click.echo(f"left: a `once` tool goes on; the same command with key {key!r} gets its answer", err=True)
            raise
    if as_json:
        click.echo(json.dumps(result, ensure_ascii=False, indent=2))
    else:
        from tailrace.cli.render import print_result

        print_result(result)
    if result.get("isError"):
        raise SystemExit(1)


def _read(name: str) -> str:
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"cannot read {name!r}: {getattr(error, 'strerror', None) or error}") from None


# --- asking ---------------------------------------------------------------------------------------


async def _call(
    where: Where, name: str, words: list[str], timeout: float, key: str | None, token: str | None
) -> dict[str, Any]:
    import asyncio

    from tailrace.cli.render import CallView
    from tailrace.mcp import Client

    with CallView() as view:
        async with asyncio.timeout(timeout), Client(where, auth=token, on_log=view.log, on_warning=view.warn) as client:
            tools = {tool.name: tool for tool in await client.list_tools()}
            if name not in tools:
                raise click.ClickException(_no_tool(name, list(tools)))
            try:
                arguments = await asyncio.to_thread(parse_arguments, words, tools[name].input_schema, _read)
            except ArgumentError as error:
                raise click.UsageError(str(error)) from None
            result = await client.call_tool(
                name, arguments, progress=view.progress, timeout=timeout, idempotency_key=key
            )
            return _result_json(result)


def _result_json(result: ToolResult) -> dict[str, Any]:
    """The result as MCP writes it."""
    plain: dict[str, Any] = {"content": result.content, "isError": result.is_error}
    if result.structured_content is not None:
        plain["structuredContent"] = result.structured_content
    if result.meta:
        plain["_meta"] = result.meta
    return plain


def _no_tool(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=3) or sorted(names)[:20]
    return f"there is no tool {name!r}" + (f"; there is: {', '.join(near)}" if near else "; there are none")
