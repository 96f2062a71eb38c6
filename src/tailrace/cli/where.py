"""How a shell says which server is meant: a URL, a file with a service, or a program after ``--``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import click

from tailrace.cli.program import PROGRAM
from tailrace.cli.target import load, looks_like_target

if TYPE_CHECKING:
    from tailrace.service import Service

__all__ = ["Where", "json_option", "no_place", "timeout_option", "token_for", "token_option", "where_is"]

_ADDRESS = re.compile(r"[\w.-]+:\d+(/|$)")  # a URL's, without its scheme
Where: TypeAlias = "str | list[str] | Service"

json_option = click.option("--json", "as_json", is_flag=True, help="Print what the server sent, as JSON.")
timeout_option = click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=300.0, show_default=True,
    envvar="TAILRACE_TIMEOUT", show_envvar=True, help="Seconds to wait for the answer.",
)  # fmt: skip

token_option = click.option("--token", metavar="TOKEN", envvar="TAILRACE_TOKEN", show_envvar=True,
                             help="Bearer token to show; for a URL.")  # fmt: skip


def where_is(context: click.Context, server: str | None) -> Where:
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
        raise no_place(server)
    return load(server).service


def no_place(server: str) -> click.UsageError:
    """What `server` might have been meant to be."""
    if _ADDRESS.match(server):
        return click.UsageError(f"{server!r} is no URL; did you mean http://{server}?")
    return click.UsageError(f"{server!r} is no URL and no file; to start a program, write: -- {server}")


def token_for(where: Where, token: str | None) -> str | None:
    """Nobody but a server at a URL is shown one; in the environment it may stand for all calls."""
    return token if isinstance(where, str) else None
