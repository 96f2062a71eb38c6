"""`tailrace ls` and `tailrace call`: a server's tools, seen and used from a shell."""

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
from tailrace.cli.target import load, looks_like_target

if TYPE_CHECKING:
    from tailrace.clients.mcp.results import ToolInfo, ToolResult
    from tailrace.service import Service

__all__ = ["call_command", "ls_command"]


_json_option = click.option("--json", "as_json", is_flag=True, help="Print what the server sent, as JSON.")
_timeout_option = click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=300.0, show_default=True,
    envvar="TAILRACE_TIMEOUT", show_envvar=True, help="Seconds to wait for the answer.",
)  # fmt: skip

_token_option = click.option("--token", metavar="TOKEN", envvar="TAILRACE_TOKEN", show_envvar=True,
                             help="Bearer token to show; for a URL.")  # fmt: skip


@click.command("ls", cls=WithProgram, options_metavar="[OPTIONS]")
@click.argument("server", required=False, metavar="URL | FILE.py | -- COMMAND...")
@_json_option
@_timeout_option
@_token_option
@click.pass_context
def ls_command(context: click.Context, server: str | None, as_json: bool, timeout: float, token: str | None) -> None:
    """List a server's tools with their arguments.

    \b
    tailrace ls http://127.0.0.1:8000/mcp
    tailrace ls examples/orders.py
    tailrace ls -- npx some-mcp-server --its-flags
    """
    import asyncio

    with explained():
        where = _where(context, server)
        tools = asyncio.run(_tools(where, timeout, _token_for(where, token)))
        if as_json:
            click.echo(json.dumps({"tools": tools}, ensure_ascii=False, indent=2))
            return
        from tailrace.cli.render import print_tools

        print_tools(tools)


@click.command("call", cls=WithProgram, options_metavar="[OPTIONS]")
@click.argument("words", nargs=-1, metavar="URL|FILE.py TOOL [NAME=VALUE | JSON]...", type=click.UNPROCESSED)
@click.option("--idempotency-key", "key", metavar="KEY", help="Under the same key a `once` tool runs once.")
@_json_option
@_timeout_option
@_token_option
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
        where = _where(context, server)
        result = asyncio.run(_call(where, rest[0], rest[1:], timeout, key, _token_for(where, token)))
    if as_json:
        click.echo(json.dumps(result, ensure_ascii=False, indent=2))
    else:
        from tailrace.cli.render import print_result

        print_result(result)
    if result.get("isError"):
        raise SystemExit(1)


def _where(context: click.Context, server: str | None) -> str | list[str] | Service:
    """What `tailrace.mcp.Client` takes: a URL, a program to start, or a service in this process."""
    program: list[str] | None = context.meta.get(PROGRAM)
    if program is not None:
        if server is not None:
            raise click.UsageError("give a server before --, or a program after it, not both.")
        if not program:
            raise click.UsageError("after -- comes the program to start.")
        return program
    if server is None:
        raise click.UsageError("say where: a URL, a file with a service, or -- and a program to start.")
    if server.startswith(("http://", "https://")):
        return server
    if "://" in server:
        raise click.UsageError(f"{server!r}: only http:// and https:// are known.")
    if not looks_like_target(server) and not Path(server).exists():
        raise click.UsageError(f"{server!r} is no URL and no file; to start a program, write: -- {server}")
    return load(server).service


def _token_for(where: str | list[str] | Service, token: str | None) -> str | None:
    """Nobody but a server at a URL is shown one; in the environment it may stand for all calls."""
    return token if isinstance(where, str) else None


def _read(name: str) -> str:
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"cannot read {name!r}: {getattr(error, 'strerror', None) or error}") from None


# --- asking ---------------------------------------------------------------------------------------


async def _tools(where: str | list[str] | Service, timeout: float, token: str | None) -> list[dict[str, Any]]:
    import asyncio

    from tailrace.mcp import Client

    async with asyncio.timeout(timeout), Client(where, auth=token) as client:
        return [_tool_json(tool) for tool in await client.list_tools()]


async def _call(
    where: str | list[str] | Service, name: str, words: list[str], timeout: float, key: str | None, token: str | None
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


def _tool_json(tool: ToolInfo) -> dict[str, Any]:
    """The tool as MCP writes it."""
    import msgspec

    return {key: value for key, value in msgspec.to_builtins(tool).items() if value is not None}


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
