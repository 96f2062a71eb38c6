"""How the members of one service reach each other through Valkey: each reads a stream of its own, all write to it.

Under ``{tailrace:SERVICE}:i:MEMBER`` there is one stream for each member, which lives for a lease unless its member
renews it: whoever was away for longer finds it gone, and then knows that pieces are lost. Nothing is sent to a member
whose stream is not there. What was read is deleted soon; so is the oldest
of more than some thousand entries, should a member not read, which it notices by their numbers.

The way out is `valkey_post`. What the pieces say is left to those who speak.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import msgspec

from tailrace.core.ports import Inbox
from tailrace.core.tasks import Tasks
from tailrace.core.threads import Threads
from tailrace.errors import StoreError
from tailrace.stores.valkey_link import Link, Unreachable
from tailrace.stores.valkey_post import Entry, Post
from tailrace.stores.valkey_scripts import Script

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ValkeyInbox"]

logger = logging.getLogger("tailrace.stores.valkey")

_MANY = 256  # entries of one read
_TRIM_ENTRIES, _TRIM_BYTES = 64, 262_144  # read and not yet deleted
_MEMBERS = 4_096  # senders whose numbers are known; over it those who were silent for the longest are forgotten
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0  # seconds between two tries

_decode_entry = msgspec.msgpack.Decoder(Entry).decode

# Make the stream if it is not there; else see how far it goes.
_HOLD = Script(
    """
local inbox = string.match(KEYS[1], '^{.-}:') .. 'i:' .. ARGV[1]
if redis.call('PEXPIRE', inbox, ARGV[2]) == 0 then
  local id = redis.call('XADD', inbox, '*', 'o', '1')
  redis.call('PEXPIRE', inbox, ARGV[2])
  return {'new', id}
end
local facts = redis.call('XINFO', 'STREAM', inbox)
for i = 1, #facts, 2 do if facts[i] == 'last-generated-id' then return {'ok', facts[i + 1]} end end
return {'ok', '0-0'}
""",
    fenced=False,
)


class ValkeyInbox(Inbox):
    """One member's inbox, in Valkey (7 or newer) or Redis (6.2 or newer).

    Args:
        url: As of `ValkeyStore`.
        member: Whose it is.
        service: Whose members these are.
        lease: Seconds for which the inbox is there unless it is renewed, which happens three times as often.
        max_queued: Bytes that may wait to be sent; over it `send` raises.
        timeout: Seconds for one answer of Valkey's.
        retry_for: Seconds for which sending is tried again while Valkey cannot be reached; then what was to be sent is
            lost, and `send` raises until it can be reached.
        probe_interval: Seconds between two tries whether it can be.
        close_timeout: Seconds for sending what is queued when it is closed.

    Raises:
        DefinitionError: No such URL, or redis-py is not installed.
    """

    def __init__(
        self,
        url: str,
        member: str,
        *,
        service: str = "tailrace",
        lease: float = 5.0,
        max_queued: int = 67_108_864,
        timeout: float = 5.0,
        retry_for: float = 5.0,
        probe_interval: float = 1.0,
        close_timeout: float = 5.0,
    ) -> None:
        self.member = member
        self.on_lost: Callable[[], None] | None = None
        self._in = Link(url, service, timeout=timeout + lease / 3)
        self._out = Link(url, service, timeout=timeout)
        prefix = self._in.key.removesuffix("owner") + "i:"
        self._key, self._prefix = prefix + member, prefix
        self._lease = lease
        self._close_timeout = close_timeout
        self._options: dict[str, Any] = {
            "max_queued": max_queued,
            "retry_for": retry_for,
            "probe_interval": probe_interval,
        }
        self._loop: asyncio.AbstractEventLoop
        self._post: Post | None = None
        self._task: asyncio.Task[Any] | None = None
        self._is_open = False
        self._is_held = False  # the stream is known to be there
        self._last = (0, 0)  # the newest entry that was read
        self._renewed = 0.0  # loop time
        self._read, self._read_bytes = 0, 0  # entries that are not deleted yet
        self._numbers: dict[str, int] = {}  # of the last entry of each sender, in the order in which they spoke
        self._received = self._lost = 0

    async def open(self) -> None:
        """As `Inbox.open`."""
        if self._is_open:
            raise StoreError(f"the inbox of {self.member} is open already")
        self._loop = asyncio.get_running_loop()
        self._numbers.clear()
        self._last, self._read, self._read_bytes = (0, 0), 0, 0
        try:
            await self._hold()
        except BaseException:
            await self._in.drop()
            raise
        self._post = Post(self._out, self.member, self._prefix, self._lose, **self._options)
        self._task = Tasks(Threads(size=1)).start(self._post.run(), name="tailrace-valkey-post", lasting=True)
        self._is_open = True

    async def close(self) -> None:
        """As `Inbox.close`; it waits at most `close_timeout`."""
        if not self._is_open:
            return
        self._is_open = False
        post, task = self._post, self._task
        assert post is not None and task is not None  # noqa: PT018 - since it was open
        post.end()
        try:
            async with asyncio.timeout(self._close_timeout):
                await asyncio.wait([task])
                await self._out.ask("DEL", self._key)
        except (StoreError, TimeoutError):
            pass  # it ends with its lease
        finally:
            task.cancel()
            await self._in.drop()  # whoever waits in `receive` learns of it
            await self._out.drop()

    def send(self, to: str, piece: bytes) -> None:
        """As `Inbox.send`."""
        if not self._is_open or self._post is None:
            raise StoreError(f"the inbox of {self.member} is not open")
        if self._loop.time() - self._renewed > self._lease:  # this process slept, or Valkey does: no answer would come
            raise StoreError(f"{self._in.name} did not confirm this member's lease in time")
        self._post.put(to, piece)

    async def receive(self) -> list[tuple[str, bytes]]:
        """As `Inbox.receive`. While Valkey cannot be reached it waits for it."""
        pause = _FIRST_PAUSE
        while self._is_open:
            try:
                if not self._is_held:
                    await self._hold()
                pieces = await self._look()
            except Unreachable:
                self._is_held = False
                if self._is_open:
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            except StoreError as error:  # the rights, memory: it may be mended
                logger.error("%s: the inbox cannot be read: %s", self._in.name, error)
                self._is_held = False
                await asyncio.sleep(_LONGEST_PAUSE)
                continue
            if pieces:
                return pieces
        raise StoreError(f"the inbox of {self.member} is closed")

    def statistics(self) -> dict[str, int]:
        """Numbers for people: pieces sent and received, bytes that wait, and how often some may have been lost."""
        post = self._post
        return {
            "sent": 0 if post is None else post.sent,
            "received": self._received,
            "queued_bytes": 0 if post is None else post.queued,
            "lost": self._lost,
        }

    # --- within ---

    async def _hold(self) -> None:
        """Have the stream, on a new connection: is it the one of before?"""
        asked = self._loop.time()
        state, last = await self._in.call(_HOLD, self.member, int(self._lease * 1000))
        self._renewed = asked
        self._is_held = True
        reached = _id(last)
        if (state == b"new" and self._last != (0, 0)) or reached < self._last:
            self._last = reached
            self._lose()
        elif self._last == (0, 0):
            self._last = reached

    async def _look(self) -> list[tuple[str, bytes]]:
        """One read, which waits for a third of the lease at most."""
        now = self._loop.time()
        trim = ("XTRIM", self._key, "MINID", f"{self._last[0]}-{self._last[1] + 1}")
        if now - self._renewed >= self._lease / 3:
            there, _ = await self._in.ask_all([("PEXPIRE", self._key, int(self._lease * 1000)), trim])
            self._read = self._read_bytes = 0
            self._is_held = bool(there)  # else it is made anew
            if not there:
                return []
            self._renewed = now
        commands: list[tuple[Any, ...]] = []
        if self._read >= _TRIM_ENTRIES or self._read_bytes >= _TRIM_BYTES:
            commands.append(trim)
            self._read = self._read_bytes = 0
        last = f"{self._last[0]}-{self._last[1]}"
        block = max(1, int((self._renewed + self._lease / 3 - now) * 1000))
        commands.append(("XREAD", "COUNT", _MANY, "BLOCK", block, "STREAMS", self._key, last))
        answers = await self._in.ask_all(commands)
        found = answers[-1]
        if not found:
            return []
        entries = found[0][1]
        self._last = _id(entries[-1][0])
        self._read += len(entries)
        pieces = self._unpack(entries)
        if self._loop.time() - self._renewed > self._lease:
            self._lose()  # this process was held up: what is here is of a time that is over
            return []
        return pieces

    def _unpack(self, entries: list[Any]) -> list[tuple[str, bytes]]:
        pieces: list[tuple[str, bytes]] = []
        for _, fields in entries:
            if fields[0] != b"e":
                continue
            self._read_bytes += len(fields[1])
            try:
                entry = _decode_entry(fields[1])
            except msgspec.MsgspecError as error:
                logger.error("%s: what stands in an inbox cannot be read: %s", self._in.name, error)
                self._lose()
                continue
            sender, number = entry.sender, entry.number
            before = self._numbers.pop(sender, 0)
            if number <= before and not (number == 1 < before):
                self._numbers[sender] = before
                continue  # it was sent again, because nobody had said that it had arrived
            self._numbers[sender] = number
            if number != before + 1 and number != 1:
                self._lose()
            pieces += [(sender, piece) for piece in entry.pieces]
        while len(self._numbers) > _MEMBERS:
            del self._numbers[next(iter(self._numbers))]
        self._received += len(pieces)
        return pieces

    def _lose(self) -> None:
        self._lost += 1
        if self.on_lost is not None:
            self.on_lost()


def _id(text: bytes) -> tuple[int, int]:
    milliseconds, _, number = text.partition(b"-")
    return int(milliseconds), int(number)
