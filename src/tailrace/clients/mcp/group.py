"""Several servers as one: their tools and prompts under the servers' names, as `mcpServers` files list them.

Each server has a client of its own; one that cannot be reached fails the whole, before anything was called.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import msgspec

from tailrace.clients.mcp.client import Client, Target
from tailrace.clients.mcp.links import StdioCommand
from tailrace.errors import DefinitionError

if TYPE_CHECKING:
    from tailrace.clients.mcp.offers import PromptInfo, PromptResult, ReadResult, ResourceInfo
    from tailrace.clients.mcp.results import ToolInfo, ToolResult

__all__ = ["ClientGroup", "read_servers"]

_VARIABLE = re.compile(r"\$\{(?:env:)?(?P<name>\w+)(?::-(?P<default>[^}]*))?\}")
_SEPARATOR = "_"


class ClientGroup:
    """Clients of several servers. Use it as ``async with ClientGroup(servers) as group:``, once.

    A tool ``forecast`` of the server ``weather`` is ``weather_forecast`` here, and so is a prompt; resources keep their
    URIs and are read where they were listed. ``group["weather"]`` is the server's own client.

    Args:
        servers: Targets by name; a mapping with ``mcpServers``, or the path of a JSON file with one.
        client: Makes the clients; gets the target and `options`.
        options: For every client, as for `Client`; a server's headers in a file come on top.

    Raises:
        DefinitionError: There are no servers, or a name or an entry cannot work.
    """

    def __init__(
        self,
        servers: Mapping[str, Any] | str | os.PathLike[str],
        *,
        client: Callable[..., Client] = Client,
        **options: Any,
    ) -> None:
        self._clients: dict[str, Client] = {}
        for name, (target, own) in read_servers(servers).items():
            self._clients[name] = client(target, **{**options, **own})
        self._exits = AsyncExitStack()
        self._owners: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        """Connect to all of them, one after the other; raises as `Client` does, and then to none."""
        async with AsyncExitStack() as exits:
            for client in self._clients.values():
                await exits.enter_async_context(client)
            self._exits = exits.pop_all()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._exits.__aexit__(*error)

    def __getitem__(self, name: str) -> Client:
        return self._clients[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._clients)

    def __len__(self) -> int:
        return len(self._clients)

    async def list_tools(self) -> list[ToolInfo]:
        """The tools of all servers, under their names here."""
        return [
            msgspec.structs.replace(tool, name=f"{name}{_SEPARATOR}{tool.name}")
            for name, client in self._clients.items()
            for tool in await client.list_tools()
        ]

    async def call_tool(self, name: str, arguments: Mapping[str, Any] | None = None, **options: Any) -> ToolResult:
        """Call a tool by its name here; options and errors are those of `Client.call_tool`."""
        client, own = self._find(name)
        return await client.call_tool(own, arguments, **options)

    async def list_prompts(self) -> list[PromptInfo]:
        """The prompts of all servers that have some, under their names here."""
        return [
            msgspec.structs.replace(prompt, name=f"{name}{_SEPARATOR}{prompt.name}")
            for name, client in self._with("prompts")
            for prompt in await client.list_prompts()
        ]

    async def get_prompt(self, name: str, arguments: Mapping[str, Any] | None = None) -> PromptResult:
        """A prompt by its name here."""
        client, own = self._find(name)
        return await client.get_prompt(own, arguments)

    async def list_resources(self) -> list[ResourceInfo]:
        """The resources of all servers that have some; of a URI that two have, the first server's is read."""
        found: list[ResourceInfo] = []
        for name, client in self._with("resources"):
            for resource in await client.list_resources():
                self._owners.setdefault(resource.uri, name)
                found.append(resource)
        return found

    async def read_resource(self, uri: str) -> ReadResult:
        """What a resource holds that `list_resources` gave.

        Raises:
            DefinitionError: Nobody listed it; one that only a template knows is read by its server's own client.
        """
        if uri not in self._owners:
            await self.list_resources()
        if uri not in self._owners:
            raise DefinitionError(f"no server lists {uri!r}; read it by group[name].read_resource")
        return await self._clients[self._owners[uri]].read_resource(uri)

    # --- inside ---

    def _find(self, name: str) -> tuple[Client, str]:
        """Whose it is; of two servers whose names both fit, the longer."""
        fitting = [server for server in self._clients if name.startswith(server + _SEPARATOR)]
        if not fitting:
            raise DefinitionError(f"{name!r} is of none of {', '.join(self._clients)}: names begin with the server's")
        server = max(fitting, key=len)
        return self._clients[server], name[len(server) + len(_SEPARATOR) :]

    def _with(self, capability: str) -> list[tuple[str, Client]]:
        return [(name, client) for name, client in self._clients.items() if capability in client.capabilities]


def read_servers(servers: Mapping[str, Any] | str | os.PathLike[str]) -> dict[str, tuple[Target, dict[str, Any]]]:
    """Targets, and options of their own, by name.

    An entry of a file is ``{"command": …, "args": […], "env": {…}, "cwd": …}`` or ``{"url": …, "headers": {…},
    "transport": "http" | "sse"}``; ``${NAME}`` and ``${NAME:-default}`` stand for variables of the environment.

    Raises:
        DefinitionError: The file cannot be read, or an entry cannot work.
    """
    if not isinstance(servers, Mapping):
        path = Path(servers).expanduser()
        try:
            read: Any = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DefinitionError(f"{path} cannot be read: {error}") from None
        servers = cast("Mapping[str, Any]", read if isinstance(read, Mapping) else {})
        if not isinstance(servers.get("mcpServers", servers.get("servers")), Mapping):
            raise DefinitionError(f'{path} has no "mcpServers"')
    listed: Any = servers.get("mcpServers", servers.get("servers", servers))
    if not listed:
        raise DefinitionError("there are no servers")
    return {name: _entry(name, given) for name, given in cast("Mapping[str, Any]", listed).items()}


def _entry(name: str, given: Any) -> tuple[Target, dict[str, Any]]:
    if not isinstance(given, Mapping):
        return given, {}
    entry: dict[str, Any] = _expanded(dict(cast("Mapping[str, Any]", given)))
    if isinstance(entry.get("command"), str):
        args: Sequence[str] = entry.get("args", ())
        return StdioCommand(command=entry["command"], args=args, env=entry.get("env"), cwd=entry.get("cwd")), {}
    if isinstance(entry.get("url"), str):
        own: dict[str, Any] = {"headers": entry["headers"]} if entry.get("headers") else {}
        if entry.get("transport", entry.get("type")) == "sse":
            own["transport"] = "sse"
        return entry["url"], own
    raise DefinitionError(f'the server {name!r} has neither a "command" nor a "url"')


def _expanded(value: Any) -> Any:
    if isinstance(value, str):
        return _VARIABLE.sub(lambda found: os.environ.get(found["name"], found["default"] or ""), value)
    if isinstance(value, list):
        return [_expanded(one) for one in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {key: _expanded(one) for key, one in cast("dict[str, Any]", value).items()}
    return value
