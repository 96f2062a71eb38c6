"""The messages of a store, to be listed, put back, or dropped by hand.

Whoever puts them back or drops them owns the store: nobody else has it open, or it is the server that asks for it
(`revive_letters`, `discard_letters`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from typing import TYPE_CHECKING, Protocol

import msgspec

from tailrace.core.outgoing import Message
from tailrace.core.ports import DropEntry, PutEntry, Record
from tailrace.publish.outbox import DEAD, NEVER, WAITING, DeadLetter, encode, place_of

if TYPE_CHECKING:
    from tailrace.core.ports import Store, StoredEntry
    from tailrace.publish.outbox import StoreOutbox

__all__ = ["Entries", "Letter", "discard_letters", "drop_letters", "letters", "retry_letters", "revive_letters"]

_PAGE = 50


class Entries(Protocol):
    """Where messages are read: a store, or what reads another's."""

    async def entries(self, kind: str, *, after: str = "", limit: int = 1000) -> list[StoredEntry]:
        """As `Store.entries`."""
        ...


class Letter(msgspec.Struct, frozen=True):
    """One message, and where it stands.

    Attributes:
        place: Its key in the store.
        message: The message.
        dead: The broker refused it, so often: `attempts`, because of `error`.
    """

    place: str
    message: Message
    dead: bool = False
    attempts: int = 0
    error: str = ""


async def letters(store: Entries, *, dead: bool = False) -> AsyncGenerator[Letter]:
    """All that were refused and (unless `dead`) all that wait, the oldest first of each."""
    decode_dead = msgspec.msgpack.Decoder(DeadLetter).decode
    decode = msgspec.msgpack.Decoder(Message).decode
    async for key, data in _entries(store, DEAD):
        letter = decode_dead(data)
        yield Letter(key, letter.message, True, letter.attempts, letter.error)
    if not dead:
        async for key, data in _entries(store, WAITING):
            yield Letter(key, decode(data))


async def retry_letters(store: Store, ids: set[str] | None) -> int:
    """Put refused messages back, in their order (None: all); how many it were."""
    epoch = await store.next_epoch()
    chosen = [letter async for letter in letters(store, dead=True) if ids is None or letter.message.id in ids]
    for number, letter in enumerate(chosen, 1):
        await _write(
            store,
            [
                DropEntry(DEAD, letter.place),
                PutEntry(WAITING, place_of(epoch, number), encode(letter.message), NEVER),
            ],
        )
    return len(chosen)


async def revive_letters(outbox: StoreOutbox, ids: set[str]) -> int:
    """Put refused messages back, in their order, and let the outbox that is at work deliver them; how many it were.

    One at a time: two that run at once would each put the same ones back.

    Raises:
        StoreError: It could not be committed.
    """
    chosen = [letter async for letter in letters(outbox.store, dead=True) if letter.message.id in ids]
    for letter in chosen:
        await outbox.write([letter.message], [DropEntry(DEAD, letter.place)])
        outbox.dead -= 1
    return len(chosen)


async def discard_letters(outbox: StoreOutbox, ids: set[str]) -> int:
    """Delete refused messages of an outbox that is at work; how many it were. One at a time, as `revive_letters`.

    Raises:
        StoreError: It could not be committed.
    """
    chosen = [letter async for letter in letters(outbox.store, dead=True) if letter.message.id in ids]
    for letter in chosen:
        await _write(outbox.store, [DropEntry(DEAD, letter.place)])
        outbox.dead -= 1
    return len(chosen)


async def drop_letters(store: Store, ids: set[str] | None, *, dead: bool = False) -> int:
    """Delete messages: all that were refused, or those with these ids, wherever they stand (`dead`: among the refused
    alone); how many it were."""
    dead = dead or ids is None
    chosen = [letter async for letter in letters(store, dead=dead) if ids is None or letter.message.id in ids]
    for letter in chosen:
        await _write(store, [DropEntry(DEAD if letter.dead else WAITING, letter.place)])
    return len(chosen)


async def _entries(store: Entries, kind: str) -> AsyncGenerator[tuple[str, bytes]]:
    after = ""
    while page := await store.entries(kind, after=after, limit=_PAGE):
        for entry in page:
            yield entry.key, entry.data
        after = page[-1].key


async def _write(store: Store, records: Iterable[Record]) -> None:
    store.write(list(records))
    await store.flush()
