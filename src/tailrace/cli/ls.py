"""`tailrace ls`: what a server offers, seen from a shell."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import click

from tailrace.cli.failures import explained
from tailrace.cli.program import WithProgram
from tailrace.cli.where import Where, json_option, timeout_option, token_for, token_option, where_is

if TYPE_CHECKING:
    from collections.abc import Sequence


__all__ = ["ls_command"]


@click.command("ls", cls=WithProgram, options_metavar="[OPTIONS]")
@click.argument("server", required=False, metavar="URL | FILE.py | -- COMMAND...")
@json_option
@timeout_option
@token_option
@click.pass_context
def ls_command(context: click.Context, server: str | None, as_json: bool, timeout: float, token: str | None) -> None:
    """List what a server offers: its tools, resources, templates and prompts, with their arguments.

    \b
    tailrace ls http://127.0.0.1:8000/mcp
    tailrace ls examples/orders.py
    tailrace ls -- npx some-mcp-server --its-flags
    """
    import asyncio

    with explained():
        where = where_is(context, server)
        offered = asyncio.run(_offered(where, timeout, token_for(where, token)))
        if as_json:
            click.echo(json.dumps(offered, ensure_ascii=False, indent=2))
            return
        from tailrace.cli.render import print_offered

        print_offered(offered)


async def _offered(where: Where, timeout: float, token: str | None) -> dict[str, list[dict[str, Any]]]:
    """All four lists under their names in MCP; empty where the server does not know the method."""
    import asyncio

    from tailrace.mcp import Client

    async with asyncio.timeout(timeout), Client(where, auth=token) as client:
        has_resources = "resources" in client.capabilities
        return {
            "tools": await _listed(client.list_tools),
            "resources": await _listed(client.list_resources, has_resources),
            "resourceTemplates": await _listed(client.list_resource_templates, has_resources),
            "prompts": await _listed(client.list_prompts, "prompts" in client.capabilities),
        }


async def _listed(ask: Callable[[], Awaitable[Sequence[Any]]], declared: bool = True) -> list[dict[str, Any]]:
    import msgspec

    from tailrace.errors import ProtocolError
    from tailrace.wire.jsonrpc import METHOD_NOT_FOUND

    try:
        found = await ask() if declared else ()
    except ProtocolError as error:
        if error.code != METHOD_NOT_FOUND:
            raise
        found = ()
    return [{key: value for key, value in msgspec.to_builtins(one).items() if value is not None} for one in found]
