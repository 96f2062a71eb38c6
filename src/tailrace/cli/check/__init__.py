"""`tailrace check`: lifecycle trials for any MCP server, in any language.

This file reads the flags. `runner` makes the trials, `trials/` tells them, `target` is the server, `talk` speaks with
it, and `report` shows what came of it.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from tailrace.cli.failures import explained
from tailrace.cli.program import PROGRAM, WithProgram

if TYPE_CHECKING:
    from tailrace.cli.check.runner import Plan, Report
    from tailrace.cli.check.target import Target

__all__ = ["check_command"]

_ROLES = ("echo", "slow", "burst", "effect")
_WAYS = ("streamable", "sse", "modern", "stdio")
_SECONDS = click.FloatRange(min=0, min_open=True)


def _arguments(_: click.Context, parameter: click.Parameter, value: str | None) -> Any:
    if value is None:
        return None
    try:
        found = json.loads(value)
    except ValueError as error:
        raise click.BadParameter(f"no JSON: {error}") from None
    if not isinstance(found, dict):
        raise click.BadParameter('give an object, such as {"message": "$text"}')
    return found  # pyright: ignore[reportUnknownVariableType]


def _tool_options(command: Any) -> Any:
    shapes = {"echo": "$text", "slow": "$seconds", "burst": "$count, $size, $pause", "effect": "$key, $seconds"}
    for role in reversed(_ROLES):
        command = click.option(
            f"--{role}-args", metavar="JSON", callback=_arguments,
            help=f"Its arguments, with {shapes[role]}. Default: found in its schema.",
        )(command)  # fmt: skip
        command = click.option(f"--{role}", metavar="TOOL", default=role, show_default=True,
                               help=f"The tool in the role of {role}; see docs/check.md.")(command)  # fmt: skip
    return command


@click.command("check", cls=WithProgram, options_metavar="[OPTIONS]")
@click.argument("url", required=False, metavar="URL | -- COMMAND...")
@click.option(
    "--url",
    "serving",
    metavar="URL",
    help="Where COMMAND serves, in place of standard input and output; {port} is the one of --http.",
)
@click.option(
    "--http",
    "port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="COMMAND serves HTTP on this port; 0 picks one, and {port} in COMMAND becomes it.",
)
@_tool_options
@click.option(
    "--witness",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="What `effect` appends to, of a server that runs already. One that is started here is told by "
    "TAILRACE_WITNESS.",
)
@click.option(
    "--only", multiple=True, metavar="TRIAL", help="Make only these: resume, resume/sse, 'sigterm-*'; repeatable."
)
@click.option("--skip", multiple=True, metavar="TRIAL", help="Leave these out; repeatable.")
@click.option("--way", "ways", multiple=True, type=click.Choice(_WAYS), help="Speak only so; repeatable.")
@click.option("--list", "listing", is_flag=True, help="Say what trials there are, and make none.")
@click.option("--timeout", type=_SECONDS, default=60.0, show_default=True, help="Seconds one trial may take.")
@click.option("--seconds", type=_SECONDS, default=900.0, show_default=True, help="Seconds all of them may take.")
@click.option(
    "--answer-within",
    type=_SECONDS,
    default=10.0,
    show_default=True,
    help="Seconds until a quick call must be answered, whatever else goes on.",
)
@click.option("--exit-within", type=_SECONDS, default=30.0, show_default=True, help="Seconds from SIGTERM to the end.")
@click.option(
    "--growth-mb",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="MiB of memory that a client which does not read may cost.",
)
@click.option(
    "--session-kb",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="KiB of memory that an idle session may cost.",
)
@click.option(
    "--allow-remote",
    is_flag=True,
    help="Check a server on another machine. It will be strained, and calls will be cut: have its owner's consent.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, allow_dash=True),
    metavar="FILE|-",
    help="Write what came of it as JSON.",
)
@click.option("--junit", "junit_file", type=click.Path(dir_okay=False), metavar="FILE", help="Write it as JUnit XML.")
@click.pass_context
def check_command(context: click.Context, **flags: Any) -> None:
    """Try how an MCP server, in any language, keeps its calls, sessions and streams when things go wrong.

    \b
    tailrace check http://127.0.0.1:8000/mcp                 one that runs
    tailrace check -- python server.py                       over stdio
    tailrace check --http 0 -- my-server --port {port}       over HTTP, with SIGTERM and kill -9 as well

    It calls the tools echo, slow, burst and effect, or those you name; trials whose tool is missing say so.
    Exit code 0 if no trial failed, 1 if one did, 2 for wrong use.
    """
    if flags["listing"]:
        from tailrace.cli.check.report import print_trials
        from tailrace.cli.check.trials import TRIALS

        print_trials(TRIALS)
        return
    import asyncio
    import tempfile

    with explained(), tempfile.TemporaryDirectory(prefix="tailrace-check-") as folder:
        target, plan = _read(context, flags, Path(folder))
        _give_out(asyncio.run(_run(target, plan)), flags)


async def _run(target: Target, plan: Plan) -> Report:
    import asyncio

    from tailrace.cli.check.http import leave_all
    from tailrace.cli.check.model import Failed
    from tailrace.cli.check.report import View
    from tailrace.cli.check.runner import run

    try:
        with View() as view:
            return await run(target, plan, view)
    except Failed as error:
        raise click.ClickException(str(error)) from None
    finally:
        leave_all()
        await target.stop()
        await asyncio.sleep(0)  # the loop closes sockets one turn later


def _give_out(report: Report, flags: dict[str, Any]) -> None:
    """Write what is asked for, and end with the exit code."""
    from tailrace.cli.check.report import as_json, as_junit, print_report

    if flags["junit_file"]:
        Path(flags["junit_file"]).write_bytes(as_junit(report))
    if flags["json_file"] == "-":
        click.echo(as_json(report))
    elif flags["json_file"]:
        Path(flags["json_file"]).write_text(as_json(report) + "\n", encoding="utf-8")
    again = shlex.join(["tailrace", *sys.argv[1:]])
    print_report(report, again, stderr=flags["json_file"] == "-")
    if not report.passed:
        raise SystemExit(1)


# --- flags ------------------------------------------------------------------------------------------


def _read(context: click.Context, flags: dict[str, Any], folder: Path) -> tuple[Target, Plan]:
    from tailrace.cli.check.lab import Witness
    from tailrace.cli.check.model import Options, Way
    from tailrace.cli.check.runner import Plan, known
    from tailrace.cli.check.target import Target

    for pattern in (*flags["only"], *flags["skip"]):
        if not known(pattern):
            raise click.UsageError(f"there is no trial {pattern!r}; see --list")
    url, command = _where(context, flags)
    ways = tuple(Way(way) for way in flags["ways"])
    if any((way is Way.STDIO) != (url is None) for way in ways):
        raise click.UsageError("--way stdio is for a command, the other ways are for a URL.")
    if url is not None and not flags["allow_remote"]:
        _check_loopback(url)
    options = Options(timeout=flags["timeout"], answer_within=flags["answer_within"], exit_within=flags["exit_within"],
                      max_growth=flags["growth_mb"] << 20, max_session=flags["session_kb"] << 10)  # fmt: skip
    witness = Path(flags["witness"]).resolve() if flags["witness"] else folder / "witness" if command else None
    environment = {} if witness is None else {"TAILRACE_WITNESS": str(witness)}
    plan = Plan(
        options, flags["seconds"], ways, flags["only"], flags["skip"], {role: flags[role] for role in _ROLES},
        {role: given for role in _ROLES if (given := flags[f"{role}_args"]) is not None},
        None if witness is None else Witness(witness),
    )  # fmt: skip
    return Target(url, command, folder, environment), plan


def _where(context: click.Context, flags: dict[str, Any]) -> tuple[str | None, list[str] | None]:
    """The address and the command."""
    command: list[str] | None = context.meta.get(PROGRAM)
    url: str | None = flags["serving"] or flags["url"]
    if flags["serving"] and flags["url"]:
        raise click.UsageError("give one URL.")
    if command is None and (flags["port"] is not None or flags["serving"]):
        raise click.UsageError(
            "--http and --url are for a command after --; a server that runs is named by its URL alone."
        )
    if command is None and url is None:
        raise click.UsageError("say what: a URL, or -- and a command to start.")
    if command is not None:
        if not command:
            raise click.UsageError("after -- comes the command to start.")
        if flags["url"]:
            raise click.UsageError("a command that serves a URL: give the URL with --url.")
        if flags["port"] is not None:
            url, command = _with_port(url, command, flags["port"])
    if url is not None and not url.startswith(("http://", "https://")):
        raise click.UsageError(f"{url!r}: only http:// and https:// can be checked.")
    return url, command


def _with_port(url: str | None, command: list[str], port: int) -> tuple[str, list[str]]:
    from tailrace.cli.check.target import free_port

    chosen = str(port or free_port())
    if not port and not any("{port}" in word for word in command):
        raise click.UsageError("--http 0 picks a port: put {port} into the command where it takes one.")
    url = (url or "http://127.0.0.1:{port}").replace("{port}", chosen)
    return url, [word.replace("{port}", chosen) for word in command]


def _check_loopback(url: str) -> None:
    from tailrace.transports.guard import is_loopback

    host = urlsplit(url).hostname or ""
    if not is_loopback(host):
        raise click.UsageError(
            f"{host or url} is not this machine: the trials strain a server and cut its calls. "
            "If it is yours to strain, say --allow-remote."
        )
