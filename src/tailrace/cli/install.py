"""`tailrace install claude|cursor|vscode TARGET`: a service becomes a stdio server of an application on this machine.

The application starts it by the interpreter that runs now, with absolute paths, because it has another folder and
another PATH. Its file belongs to its user: what else is in there stays, and a file that cannot be read as plain JSON
(comments, a slip) is left alone.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, cast

import click

from tailrace.cli.failures import explained
from tailrace.cli.files import replace_file
from tailrace.cli.target import load

__all__ = ["CLIENTS", "config_file", "install_command"]

_MAX_FILE = 16 * 1024 * 1024  # bytes; far above any real one


@dataclass(frozen=True, slots=True)
class Application:
    """One application that starts MCP servers.

    Attributes:
        title: How people call it.
        key: Where its file lists the servers.
        typed: Each entry says its transport.
    """

    title: str
    key: str
    typed: bool = False


CLIENTS: Mapping[str, Application] = {
    "claude": Application("Claude Desktop", "mcpServers"),
    "cursor": Application("Cursor", "mcpServers"),
    "vscode": Application("VS Code", "servers", typed=True),
}


def config_file(client: str, *, platform: str, home: PurePath, environ: Mapping[str, str]) -> PurePath:
    """The file in which an application's user keeps its servers.

    Args:
        client: A key of `CLIENTS`.
        platform: As `sys.platform`.
        home: The user's folder.
        environ: Where APPDATA (Windows) and XDG_CONFIG_HOME (elsewhere, not macOS) are looked up.
    """
    if client == "cursor":
        return home / ".cursor" / "mcp.json"
    kind = type(home)
    if platform == "win32":
        settings = kind(environ["APPDATA"]) if environ.get("APPDATA") else home / "AppData" / "Roaming"
    elif platform == "darwin":
        settings = home / "Library" / "Application Support"
    else:
        settings = kind(environ["XDG_CONFIG_HOME"]) if environ.get("XDG_CONFIG_HOME") else home / ".config"
    if client == "vscode":
        return settings / "Code" / "User" / "mcp.json"
    return settings / "Claude" / "claude_desktop_config.json"


def _variables(_: click.Context, __: click.Parameter, given: Sequence[str]) -> dict[str, str]:
    variables: dict[str, str] = {}
    for word in given:
        name, equals, value = word.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise click.BadParameter(f"{word!r}: give NAME=VALUE.")
        variables[name] = value
    return variables


@click.command("install")
@click.argument("client", type=click.Choice(list(CLIENTS)))
@click.argument("target")
@click.option("--name", help="What the application calls the server. Default: the Service's name.")
@click.option("--env", "env", multiple=True, callback=_variables, metavar="K=V",
              help="A variable of the server's environment (repeatable).")  # fmt: skip
@click.option("--file", "file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Another file than the user's own, e.g. a project's .cursor/mcp.json.")  # fmt: skip
@click.option("--print", "only_print", is_flag=True, help="Print the entry, and change nothing.")
def install_command(
    client: str, target: str, name: str | None, env: dict[str, str], file: Path | None, only_print: bool
) -> None:
    """Have Claude Desktop, Cursor or VS Code start the Service in TARGET (file.py, file.py:svc or pkg.mod:svc).

    The application's file gets an entry, or the entry of that name is replaced; the file as it was is kept beside it
    with `.bak` added.
    """
    application = CLIENTS[client]
    path = file or Path(config_file(client, platform=sys.platform, home=Path.home(), environ=os.environ))
    with explained():
        found = load(target)
        name = name or found.service.name
        entry = _entry(application, found.resolved, env)
        if only_print:
            click.echo(json.dumps({application.key: {name: entry}}, indent=2, ensure_ascii=False))
            click.echo(f"it belongs into {path}", err=True)
            return
        try:
            said = _install(path.resolve(), application, name, entry)
        except OSError as error:
            raise click.ClickException(f"{path} cannot be written: {error.strerror or error}") from None
        click.echo(f"{said}; restart {application.title} to see it", err=True)


def _entry(application: Application, target: str, env: dict[str, str]) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "stdio"} if application.typed else {}
    entry["command"] = sys.executable
    entry["args"] = ["-m", "tailrace", "run", target, "--stdio"]
    if env:
        entry["env"] = env
    return entry


def _install(path: Path, application: Application, name: str, entry: dict[str, Any]) -> str:
    """Merge the entry into the file; what was done, in words."""
    before = _read(path)
    config = _parse(path, before)
    servers: Any = config.setdefault(application.key, {})
    if not isinstance(servers, dict):
        raise _refused(path, f'its "{application.key}" is no object')
    listed = cast("dict[str, Any]", servers)
    if listed.get(name) == entry:
        return f"{path} has {name!r} as it should be"
    verb = "replaced" if name in listed else "added"
    listed[name] = entry
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = ""
    if before is not None:
        backup = path.with_name(path.name + ".bak")
        replace_file(backup, before, mode=path.stat().st_mode & 0o777)
        kept = f" (as it was: {backup})"
    # An entry may carry secrets in its variables, so a new file is its user's alone.
    replace_file(path, json.dumps(config, indent=2, ensure_ascii=False) + "\n", mode=0o600)
    return f"{verb} {name!r} in {path}{kept}"


def _read(path: Path) -> str | None:
    if not path.exists():
        return None
    if path.stat().st_size > _MAX_FILE:
        raise _refused(path, f"it is larger than {_MAX_FILE} bytes")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise _refused(path, "it is not UTF-8") from None


def _parse(path: Path, text: str | None) -> dict[str, Any]:
    if text is None or not text.strip():
        return {}
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refused(path, f"it is not plain JSON ({error})") from None
    if not isinstance(config, dict):
        raise _refused(path, "it is no JSON object")
    return cast("dict[str, Any]", config)


def _refused(path: Path, why: str) -> click.ClickException:
    return click.ClickException(f"{path} is left as it is: {why}. `--print` shows what to add by hand.")
