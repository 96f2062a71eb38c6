"""Every client we know by name, the ways it reaches a server, and what it was found to do there.

`WAYS` is what the tests hold true and what the table in `docs/clients.md` is made of: a client that learns something
new fails a test, and the page is corrected. Drivers are processes of their own; what they are asked to do and what they
say is in `drivers/python/plan.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import os
import re
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tests.e2e import installing
from tests.e2e.installing import DRIVERS

Transport: TypeAlias = Literal["streamable", "sse", "stdio"]
Era: TypeAlias = Literal["legacy", "auto"]
Cut: TypeAlias = Literal["reset", "closed", "ended"]
PATHS = {"streamable": "/mcp", "sse": "/sse"}
NONE = "-"  # in the table: there is no such thing, or it was not tried
LIMIT = 150.0  # seconds for one driver; it gives up by itself before

# What became of a call whose stream was cut just before the rest of its progress and its answer, and of its client:
# "goes on" can list tools afterwards, "is dead" cannot. "No answer" is none within the drivers' 5 s.
RESUMES = "resumes"
FAILS = "error; goes on"
DIES = "error; is dead"
WAITS = "no answer; goes on"
STUCK = "no answer; is dead"


@dataclass(frozen=True, slots=True)
class Way:
    """One client over one transport.

    Attributes:
        client: A key of `CLIENTS`.
        transport: How it reaches the server.
        era: `auto` asks for the modern version first, where the client can.
        protocol: What is negotiated; None where the client does not say.
        cancels: Of a call that the user cancels, the server learns (`told`) or not (`untold`); None: it cannot cancel.
        cut: What becomes of a call when its stream breaks off (`closed`, `reset`) or ends in order without the answer.
        lacks: Keys of the report that this client cannot fill.
        drops_late_progress: Progress that arrives together with the answer can be lost.
    """

    client: str
    transport: Transport
    era: Era
    protocol: str | None
    cancels: Literal["told", "untold"] | None = "told"
    cut: Mapping[Cut, str] = field(default_factory=dict)
    lacks: tuple[str, ...] = ()
    drops_late_progress: bool = False

    @property
    def modern(self) -> bool:
        return self.protocol == "2026-07-28"

    def __str__(self) -> str:
        return f"{self.client}-{self.transport}-{self.era}"


def _same(outcome: str, *cuts: Cut) -> dict[Cut, str]:
    return dict.fromkeys(cuts or ("reset", "closed", "ended"), outcome)


_OLD, _NEW = "2025-11-25", "2026-07-28"
_CLI = ("protocol", "server", "progress", "cancelled")
WAYS = [
    Way("python2", "streamable", "legacy", _OLD, cut=_same(RESUMES)),
    Way("python2", "streamable", "auto", _NEW, cut={"closed": FAILS}),
    Way("python2", "sse", "auto", _OLD, cut=_same(DIES, "closed", "ended")),
    Way("python2", "stdio", "auto", _NEW),
    Way("python1", "streamable", "legacy", _OLD, cancels="untold", cut=_same(RESUMES)),
    Way("python1", "sse", "legacy", _OLD, cancels="untold", cut=_same(DIES, "closed", "ended")),
    Way("python1", "stdio", "legacy", _OLD, cancels="untold"),
    Way("fastmcp4", "streamable", "legacy", _OLD, cut=_same(RESUMES)),
    Way("fastmcp4", "streamable", "auto", _NEW, cut={"closed": FAILS}),
    Way("fastmcp4", "sse", "auto", _OLD, cut=_same(DIES, "closed", "ended")),
    Way("fastmcp4", "stdio", "auto", _NEW),
    Way("typescript2", "streamable", "legacy", _OLD, cut=_same(RESUMES)),
    Way("typescript2", "streamable", "auto", _NEW, cut={"closed": WAITS}),
    Way("typescript2", "sse", "legacy", _OLD, cut=_same(WAITS, "closed", "ended")),
    Way("typescript2", "stdio", "auto", _NEW),
    Way("typescript1", "streamable", "legacy", _OLD, cut=_same(RESUMES)),
    Way("typescript1", "sse", "legacy", None, cut=_same(WAITS, "closed", "ended")),
    Way("typescript1", "stdio", "legacy", None),
    Way("mcpgo", "streamable", "legacy", _OLD, cancels="untold", cut={**_same(FAILS), "ended": RESUMES}),
    Way("mcpgo", "streamable", "auto", _NEW, cut={"closed": FAILS}),
    Way("mcpgo", "sse", "auto", _OLD, cancels="untold", cut=_same(STUCK, "closed", "ended")),
    Way("mcpgo", "stdio", "auto", _NEW),
    Way("gosdk", "streamable", "legacy", _OLD, cut=_same(RESUMES)),
    Way("gosdk", "streamable", "auto", _NEW, cut={"closed": FAILS}),
    Way("gosdk", "sse", "auto", _OLD, cut=_same(DIES, "closed", "ended")),
    Way("gosdk", "stdio", "auto", _NEW),
    Way("inspector", "streamable", "legacy", None, cancels=None, lacks=_CLI),
    Way("inspector", "sse", "legacy", None, cancels=None, lacks=_CLI),
    Way("inspector", "stdio", "legacy", None, cancels=None, lacks=_CLI),
    Way("mcp-remote", "streamable", "legacy", None, cut=_same(RESUMES), drops_late_progress=True),
    Way("mcp-remote", "sse", "legacy", None, cut=_same(FAILS, "closed", "ended")),
]


@dataclass(frozen=True, slots=True)
class Client:
    """What a client is called, which version of it is locked, and how its driver is started."""

    name: str
    version: Callable[[], str]
    command: Callable[[], list[str]]
    more: Callable[[], dict[str, Any]] = dict  # options for the driver on top of the usual ones


def _pinned(file: Path, name: str) -> str:
    found = re.search(rf"^\s*{re.escape(name)}(?:==| v)(\S+)", file.read_text(), re.MULTILINE)
    assert found is not None, f"{name} is not in {file}"
    return found[1]


def _npm(lock: Path, name: str) -> str:
    return json.loads(lock.read_text())["packages"][f"node_modules/{name}"]["version"]


def _python(driver: str, python: Callable[[], Path]) -> list[str]:
    return [str(python()), str(DRIVERS / "python" / f"{driver}.py")]


def _drive_mjs() -> list[str]:
    return [str(installing.node()), str(installing.HERE / "node" / "drive.mjs")]


_TOOLS = DRIVERS / "tools" / "package-lock.json"
_NODE = installing.HERE / "node" / "package-lock.json"
_GO = DRIVERS / "go" / "go.mod"
CLIENTS = {
    "python2": Client(
        "official Python SDK, 2.x",
        lambda: importlib.metadata.version("mcp"),
        lambda: _python("python2", lambda: Path(sys.executable)),
    ),
    "python1": Client(
        "official Python SDK, 1.x",
        lambda: _pinned(DRIVERS / "python" / "python1.txt", "mcp"),
        lambda: _python("python1", lambda: installing.python_with("python1")),
    ),
    "fastmcp4": Client(
        "FastMCP",
        lambda: _pinned(DRIVERS / "python" / "fastmcp4.txt", "fastmcp"),
        lambda: _python("fastmcp4", lambda: installing.python_with("fastmcp4")),
    ),
    "typescript2": Client(
        "official TypeScript client, 2.x",
        lambda: _npm(_NODE, "@modelcontextprotocol/client"),
        _drive_mjs,
        lambda: {"client": "client"},
    ),
    "typescript1": Client(
        "official TypeScript SDK, 1.x",
        lambda: _npm(_NODE, "@modelcontextprotocol/sdk"),
        _drive_mjs,
        lambda: {"client": "sdk"},
    ),
    "mcpgo": Client(
        "mcp-go",
        lambda: _pinned(_GO, "github.com/mark3labs/mcp-go"),
        lambda: [str(installing.go_programs() / "mcpgo")],
    ),
    "gosdk": Client(
        "official Go SDK",
        lambda: _pinned(_GO, "github.com/modelcontextprotocol/go-sdk"),
        lambda: [str(installing.go_programs() / "gosdk")],
    ),
    "inspector": Client(
        "Inspector `--cli`",
        lambda: _npm(_TOOLS, "@modelcontextprotocol/inspector"),
        lambda: _python("inspector", lambda: Path(sys.executable)),
        lambda: {
            "client": str(installing.node_tools() / "@modelcontextprotocol/inspector/clients/launcher/build/index.js")
        },
    ),
    # Whoever speaks stdio can stand before the bridge; here it is the official TypeScript SDK, 1.x.
    "mcp-remote": Client(
        "mcp-remote", lambda: _npm(_TOOLS, "mcp-remote"), _drive_mjs, lambda: {"client": "sdk", "transport": "stdio"}
    ),
}


async def drive(
    way: Way,
    target: str | list[str],
    plan: Mapping[str, Any],
    folder: Path,
    *,
    env: Mapping[str, str] | None = None,
    at: Mapping[str, Callable[[], Awaitable[None]]] | None = None,
    patience: float = 5.0,
) -> dict[str, Any]:
    """Put a client through a plan.

    Args:
        way: Which client, and how.
        target: The server's address without a path; over stdio its command.
        plan: The steps; see `drivers/python/plan.py`.
        folder: What the client may write to.
        env: Of a stdio server.
        at: Awaited when the driver says that it is there: `cut`, `leaving`.
        patience: Seconds for the answer of a call whose stream was cut, and for the list after it.

    Returns:
        The report, or `{"failed": text}`.

    Raises:
        Missing: The client cannot be set up here.
    """
    client = CLIENTS[way.client]
    if isinstance(target, str):
        target += PATHS[way.transport]
    options: dict[str, Any] = {"transport": way.transport, "target": target, "era": way.era, "env": dict(env or {})}
    options |= {"plan": plan, "patience": patience}
    if way.client == "mcp-remote":
        kind = {"streamable": "http-only", "sse": "sse-only"}[way.transport]
        bridge = installing.node_tools() / "mcp-remote" / "dist" / "proxy.js"
        options["target"] = [str(installing.node()), str(bridge), target, "--transport", kind, "--allow-http"]
        options["env"] = {"MCP_REMOTE_CONFIG_DIR": str(folder)}
    command = [*client.command(), json.dumps({**options, **client.more()})]
    with (folder / f"{way}.stderr").open("w+b") as stderr:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=stderr, env=_with_node(), limit=1 << 20
        )
        try:
            async with asyncio.timeout(LIMIT):
                report = await _talk(process, at or {})
                code = await process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        stderr.seek(0)
        said = stderr.read()[-2000:].decode("utf-8", "replace")
    return report if report is not None else {"failed": f"exit code {code} without a report\n{said}"}


async def _talk(
    process: asyncio.subprocess.Process, at: Mapping[str, Callable[[], Awaitable[None]]]
) -> dict[str, Any] | None:
    """Follow what the driver says; the last line is its report."""
    assert process.stdout is not None
    assert process.stdin is not None
    report = None
    while line := await process.stdout.readline():
        report = json.loads(line)
        if "at" in report:
            place, report = report["at"], None
            if place in at:
                await at[place]()
            if place == "leaving":
                process.stdin.write(b"\n")
    return report


def _with_node() -> dict[str, str]:
    return {**os.environ, "PATH": f"{installing.BIN}{os.pathsep}{os.environ.get('PATH', '')}"}


def outcome(cut: Mapping[str, Any]) -> str:
    """The report of a cut in one of the words above."""
    if cut["text"] is not None:
        return RESUMES
    waits, goes_on = cut["problem"] == "no answer", isinstance(cut["later"], int)
    if waits:
        return WAITS if goes_on else STUCK
    return FAILS if goes_on else DIES


def table() -> Iterable[str]:
    """The rows of the table in `docs/clients.md`."""
    names = {"streamable": "Streamable HTTP", "sse": "HTTP+SSE", "stdio": "stdio"}
    says = {"told": "yes", "untold": "not told", None: NONE}
    for way in WAYS:
        client = CLIENTS[way.client]
        protocol = way.protocol or ("modern first" if way.era == "auto" else "legacy")
        progress = NONE if "progress" in way.lacks else "yes"
        broken, ended = way.cut.get("closed", NONE), way.cut.get("ended", NONE)
        cells = [client.name, client.version(), names[way.transport], protocol, "yes", progress, "yes"]
        yield "| " + " | ".join([*cells, says[way.cancels], broken, ended]) + " |"
