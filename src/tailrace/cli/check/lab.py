"""What a trial works with: fresh clients of the server, calls of its tools by role, the witness file, the process."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from tailrace.cli.check.http import leave_all
from tailrace.cli.check.model import Failed, NotApplicable, Options, Way
from tailrace.cli.check.shared_stream import HttpSse
from tailrace.cli.check.streamable import Modern, Streamable
from tailrace.cli.check.talk import Call, Conversation, Running, shorten

if TYPE_CHECKING:
    from tailrace.cli.check.pipes import Stdio
    from tailrace.cli.check.process import Process
    from tailrace.cli.check.target import Target
    from tailrace.cli.check.tools import Tool

__all__ = ["Lab", "Witness", "together", "unique"]

T = TypeVar("T")
_POLL = 0.02  # seconds between two looks at what another process does
_BLIND = 0.4  # seconds after which a call is taken to run, where nothing tells
_numbers = itertools.count(1)
_run = secrets.token_hex(3)  # a witness file may have lines of earlier runs


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run all at once, and wait for all; the first failure is raised, and ends the others."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except BaseExceptionGroup as errors:
        raise _first(errors) from None
    return [task.result() for task in tasks]


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    first = errors.exceptions[0]
    return _first(cast("BaseExceptionGroup[BaseException]", first)) if isinstance(first, BaseExceptionGroup) else first


class Witness:
    """The file to which the tool in the role `effect` appends `start KEY` and `end KEY`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def count(self, what: str, key: str) -> int:
        """How often `start` or `end` stands there for a key."""
        try:
            lines = self.path.read_text(errors="replace").splitlines()
        except OSError:
            return 0
        return lines.count(f"{what} {key}")


class Lab:
    """The means of one trial; `leave` releases all of it.

    Args:
        target: The server.
        way: How it is spoken to.
        options: Limits.
        tools: By role; a text in place of a tool says why there is none.
        witness: None if nobody can read one.
    """

    def __init__(
        self, target: Target, way: Way, options: Options, tools: dict[str, Tool | str], witness: Witness | None
    ) -> None:
        self.target = target
        self.way = way
        self.options = options
        self._tools = tools
        self._witness = witness
        self._open: list[Conversation] = []

    # --- clients ----------------------------------------------------------------------------------

    async def client(self) -> Conversation:
        """A new client with its handshake done."""
        client = self.target.conversation(self.way)
        self._open.append(client)
        await client.open()
        return client

    async def streamable(self) -> Streamable:
        """The same, for a trial of sessions over Streamable HTTP."""
        return cast("Streamable", await self.client())

    async def modern(self) -> Modern:
        """The same, for a trial of the stateless form."""
        return cast("Modern", await self.client())

    async def sse(self, *, small: bool = False) -> HttpSse:
        """The same, for a trial of HTTP+SSE. `small`: with a small receive buffer."""
        client = HttpSse(self.target.ways[Way.SSE], small=small)
        self._open.append(client)
        await client.open()
        return client

    async def stdio(self) -> Stdio:
        """The same, for a trial of standard input and output."""
        return cast("Stdio", await self.client())

    async def leave(self) -> None:
        """Close all clients; none holds this up for long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(10.0):
                for client in reversed(self._open):
                    with suppress(Failed):
                        await client.close()
        leave_all()

    # --- calls ------------------------------------------------------------------------------------

    def has(self, role: str) -> bool:
        """Whether there is a tool for this role."""
        return not isinstance(self._tools[role], str)

    def tool(self, role: str) -> Tool:
        """The tool for a role.

        Raises:
            NotApplicable: There is none.
        """
        found = self._tools[role]
        if isinstance(found, str):
            raise NotApplicable(found)
        return found

    def call(self, role: str, *, id: int | str | None = None, once: str | None = None, **values: Any) -> Call:
        """A call of the tool in this role, with an id and a progress token of its own.

        Args:
            role: A key of `tools.ROLES`.
            id: Its JSON-RPC id; None for a new one.
            once: An idempotency key.
            values: What the tool is told: text, seconds, count, size, pause or key.
        """
        tool = self.tool(role)
        number = next(_numbers)
        return Call(tool.name, tool.arguments(**values), number if id is None else id, f"token-{number}", once)

    async def sent(self, client: Conversation, call: Call, *, small: bool = False) -> Running:
        """Send a call; its connection is closed at the trial's end. `small`: with a small receive buffer."""
        if isinstance(client, Streamable | Modern):
            return await client.begin(call, small=small)
        return await client.begin(call)

    async def working(
        self, client: Conversation, seconds: float, *, id: int | str | None = None
    ) -> tuple[Running, str]:
        """A call that takes so long, and runs by now; with the key of its trace, empty if it leaves none."""
        if not self.has("effect"):
            running = await self.sent(client, self.call("slow", id=id, seconds=seconds))
            await asyncio.sleep(min(_BLIND, seconds / 2))  # there is no way to see it run
            return running, ""
        key = unique("work")
        running = await self.sent(client, self.call("effect", id=id, key=key, seconds=seconds))
        await self.started(key)
        return running, key

    async def started(self, key: str) -> None:
        """Wait until the effect of this key has begun.

        Raises:
            Failed: It has not, in the time that a quick call may take.
        """
        limit = self.options.answer_within
        if not await self.until(lambda: self.witness.count("start", key) > 0, limit):
            raise Failed(f"an accepted call was not started within {limit:g} s")

    @property
    def witness(self) -> Witness:
        """What `effect` wrote."""
        assert self._witness is not None
        return self._witness

    @property
    def process(self) -> Process:
        """The server's process.

        Raises:
            NotApplicable: It was not started here.
        """
        if self.target.process is None:
            raise NotApplicable(_NO_PROCESS)
        return self.target.process

    # --- waiting ----------------------------------------------------------------------------------

    async def until(self, check: Callable[[], bool], limit: float) -> bool:
        """Whether it became true within `limit` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit):
                while not check():  # noqa: ASYNC110 - another process does it, and tells nobody
                    await asyncio.sleep(_POLL)
                return True
        return check()

    async def answers(self, what: str = "afterwards") -> None:
        """A new client is served.

        Raises:
            Failed: It is not, in the time that a quick call may take; `what` says when.
        """
        limit = self.options.answer_within
        client = self.target.conversation(self.way)
        try:
            async with asyncio.timeout(limit):
                await client.open()
                await self.greet(client)
        except TimeoutError:
            raise Failed(f"{what}: a new client was not served within {limit:g} s") from None
        except Failed as error:
            raise Failed(f"{what}: a new client was not served: {error}") from None
        finally:
            with suppress(Failed, TimeoutError):
                async with asyncio.timeout(3.0):
                    await client.close()

    async def greet(self, client: Conversation) -> None:
        """One quick call of a client is answered with what it asked for.

        Raises:
            Failed: It is not.
        """
        limit = self.options.answer_within
        if not self.has("echo"):
            answer = await client.ask("tools/list", limit=limit)
            if "result" not in answer:
                raise Failed(f"tools/list was answered with {shorten(answer)}")
            return
        text = unique("hello")
        running = await client.finish(await self.sent(client, self.call("echo", text=text)), limit)
        if text not in shorten(running.result(), 100_000):
            raise Failed(f"echo of {text} was answered with {shorten(running.result())}")


_NO_PROCESS = "the server was not started here: give its command after -- (with --http PORT or --url URL)"


def unique(word: str) -> str:
    """A word that no other call of this run has."""
    return f"{word}-{_run}-{next(_numbers)}"
