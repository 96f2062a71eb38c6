"""`tailrace guard URL | module:object | -- COMMAND`: serve a proxy before an MCP server that exists already.

It takes the flags of `tailrace run` and serves by the same machinery; what passes through the proxy, and how, is
`tailrace.mcp.proxy`'s.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from tailrace.cli.failures import explained
from tailrace.cli.program import PROGRAM, WithProgram
from tailrace.cli.run import check_flags, run_command
from tailrace.cli.target import looks_like_target

__all__ = ["guard_command"]


@click.command("guard", cls=WithProgram)
@click.argument("target", required=False)
@click.option("--stdio", is_flag=True)
@click.option("--upstream-token", help="Bearer token that the server behind wants.", metavar="TOKEN",
              envvar="TAILRACE_UPSTREAM_TOKEN", show_envvar=True)  # fmt: skip
@click.option("--max-upstreams", help="Sessions with the server behind at most.", type=click.IntRange(min=1),
              default=1000, show_default=True, envvar="TAILRACE_MAX_UPSTREAMS", show_envvar=True)  # fmt: skip
@click.option("--connect-timeout", help="Seconds that the server behind has to start and to answer.",
              type=click.FloatRange(min=0, min_open=True), default=30.0, show_default=True,
              envvar="TAILRACE_CONNECT_TIMEOUT", show_envvar=True)  # fmt: skip
@click.pass_context
def guard_command(
    context: click.Context,
    target: str | None,
    stdio: bool,
    upstream_token: str | None,
    max_upstreams: int,
    connect_timeout: float,
    **flags: Any,
) -> None:
    """Serve an MCP server of any kind with Tailrace before it: resumed streams, durable sessions, retries that run
    once, limits, an end in order.

    It is a URL; the program after ``--``, started over stdio; or file.py:object or pkg.mod:object, an object with a
    method run() that serves stdio, as FastMCP has it, which gets a process of its own.
    """
    check_flags(context, stdio, flags)
    program: list[str] | None = context.meta.get(PROGRAM)
    if (target is None) == (not program):
        raise click.UsageError("give one of a URL, module:object, or -- COMMAND.")
    behind, shown = _behind(target, program)
    if upstream_token is not None and not isinstance(behind, str):
        raise click.UsageError("--upstream-token is for a URL.")
    with explained(debug=flags["log_level"] == "debug"):
        pipes: dict[str, Any] = {}
        if stdio:
            from tailrace.transports.pipes import guard

            pipes["pipes"] = guard()
        from tailrace import server
        from tailrace.mcp import proxy

        options: dict[str, Any] = {} if upstream_token is None else {"auth": upstream_token}
        options["connect_timeout"] = connect_timeout
        name = target if target is not None and not isinstance(behind, str) else None
        service = proxy(behind, name=name, max_upstreams=max_upstreams, **options)
        flags["store"] = _store(flags["store"], stdio, service.name, shown)
        server.run(service, transport="stdio" if stdio else "http", target=shown, **pipes, **flags)


# The flags of `run`, behind those of its own; there is no code of ours to reload.
_OWN = {parameter.name for parameter in guard_command.params} | {"reload"}
guard_command.params[2:2] = [parameter for parameter in run_command.params if parameter.name not in _OWN]
guard_command.params[1] = next(parameter for parameter in run_command.params if parameter.name == "stdio")


def _behind(target: str | None, program: list[str] | None) -> tuple[str | list[str], str]:
    """What the proxy talks to, and how it is called for people and in the store's name."""
    if target is None:
        assert program is not None
        return program, " ".join(program)
    if "://" in target:
        return target, target
    if not looks_like_target(target) or target.endswith(".py"):
        raise click.UsageError(f"{target!r} is no URL and no object: give file.py:object, or a command after --.")
    return [sys.executable, "-m", "tailrace.cli.child", target], target


def _store(wanted: str | None, stdio: bool, name: str, shown: str) -> str:
    """As `run` has it, in a file for each server behind, seen from this folder."""
    if wanted is None:
        wanted = "memory" if stdio else "sqlite"
    if wanted != "sqlite":
        return wanted
    from tailrace.server import places

    path = places.default_store(Path("guard").resolve(), f"{name}:{shown}")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return f"sqlite:{path}"
