"""Steps: the parts of a handler that run once, though the handler runs again (multi round-trip requests, `rerun`).

A step is recorded before it begins and when it has ended, under its call's identity and its own name; a later run of
the same call gets what was recorded. It runs in a task of its own, so that the end of the run that began it is not its
end. What began and did not end in another process life is said to be unknown, and not begun again.

Where a service has several partitions, their steps are common to all: one is begun on the condition that nobody has
begun it, and one that goes on in another process is waited for. What a partition has begun is listed in it besides, for
whoever takes it over.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import inspect
import logging
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from tailrace.core.ports import DropEntry, PutEntry
from tailrace.core.waiters import Waiters
from tailrace.errors import EntryTaken, LimitError, StepError, StoreError, ToolError

if TYPE_CHECKING:
    from tailrace.core.context import Context
    from tailrace.core.ledger import Write
    from tailrace.core.ports import Record, Store
    from tailrace.core.tasks import Tasks

__all__ = ["BEGUN_STEPS", "MAX_STEPS", "Steps", "check_name", "run_here"]

logger = logging.getLogger("tailrace.steps")

MAX_STEPS = 100  # of one run of a handler
_KIND = "step"
BEGUN_STEPS = "step-begun"  # kind of what one of several partitions has begun; not shared
_MAX_NAME = 128  # characters
_RECOUNT = 5.0  # seconds between two looks at how many are kept, where that is too many
_PAGE = 1000
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5  # seconds between two looks at a step of another process
_BEGUN, _RESULT, _REFUSED, _FAILED = b"b", b"r", b"t", b"f"  # how a record begins: what follows is JSON
_UNKNOWN = b"u"  # it was begun, and who began it cannot say what came of it


class _Refusal(msgspec.Struct, frozen=True):
    message: str
    data: Any = None


class _Step:
    """One that runs: those who wait for it, and what came of it."""

    __slots__ = ("error", "forgotten", "result", "waiters")

    def __init__(self) -> None:
        self.waiters = Waiters()
        self.forgotten = False
        self.result: bytes | None = None
        self.error: Exception | None = None

    async def outcome(self) -> Any:
        await self.waiters.wait()
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return msgspec.json.decode(self.result)


class Steps:
    """The steps of one server's calls. All methods belong to its event loop.

    Args:
        store: Where records are read from.
        write: Hands records to it and tells when they are safe, as the ledger's; never raises.
        tasks: Where steps run: as detached work, which a shutdown waits for.
        ttl: Seconds for which a record is kept.
        max_result: Bytes of one result, as JSON.
        max_entries: Records of the whole server; over it no step begins.
        clock: Wall clock, seconds.
    """

    def __init__(
        self,
        store: Store,
        write: Write,
        tasks: Tasks,
        *,
        ttl: float = 86_400.0,
        max_result: int = 64 * 1024,
        max_entries: int = 100_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.ttl = ttl
        self.max_result = max_result
        self.max_entries = max_entries
        self._store = store
        self._write = write
        self._tasks = tasks
        self._clock = clock
        self._count = max_entries  # until it was looked at
        self._counted = float("-inf")
        self._running: dict[str, _Step] = {}
        self._shared = bool(store.partition)
        self._unsettled: dict[str, bytes] = {}  # how those ended whose record of that is not committed

    async def recover(self) -> None:
        """At the start, where others have the same steps: they need not wait for those that another owner of this
        partition has begun.

        Raises:
            StoreError: The store cannot be read.
        """
        while self._shared and (page := await self._store.entries(BEGUN_STEPS, limit=_PAGE)):
            expires = self._clock() + self.ttl
            records: list[Record] = [PutEntry(_KIND, entry.key, _UNKNOWN, expires) for entry in page]
            error = await self._commit(*records, *(DropEntry(BEGUN_STEPS, entry.key) for entry in page))
            if error is not None:
                raise error

    def settle(self) -> None:
        """Every few seconds: how those ended of which that could not be recorded. Until it is, it is unknown, and other
        processes wait for it."""
        ends, self._unsettled = self._unsettled, {}
        for key, end in ends.items():
            self._write(self._ended(key, end), partial(self._settled, key, end))

    async def run(self, context: Context, identity: str, name: str, fn: Callable[..., Any], args: Any) -> Any:
        """The result of a step: of this run, of one that goes on, or as it was recorded.

        Args:
            context: Of the call; the step has its values, and not its end.
            identity: Of the call, the same in each of its runs.
            name: Of the step, unique within the call.
            fn: Async, or plain (which then runs in a thread).
            args: Its arguments.

        Raises:
            StepError: An earlier run of it failed, or nobody knows what came of it.
            LimitError: Too much is running, or recorded; the result is too large.
            StoreError: It could not be recorded, and did not begin.
            Exception: What it raised itself.
        """
        key = _key(identity, name)
        while True:
            if key not in self._running:
                recorded = await self._recorded(key, name)
                if recorded is not None:
                    return msgspec.json.decode(recorded)
            step = self._running.get(key)
            if step is None:
                step = self._running[key] = _Step()
                try:
                    self._tasks.spawn(context.detach(), self._work, (key, name, step, fn, args), name=f"step {name}")
                except LimitError:
                    del self._running[key]
                    raise
            with contextlib.suppress(EntryTaken):  # somebody was faster to begin it
                return await step.outcome()

    def forget(self, identity: str, names: Iterable[str]) -> None:
        """Nobody can ask for these any more."""
        ended: list[str] = []
        for name in names:
            key = _key(identity, name)
            if (step := self._running.get(key)) is not None:
                step.forgotten = True
            else:
                ended.append(key)
        self._drop(ended)

    # --- inside ---

    def _drop(self, keys: list[str]) -> None:
        self._count -= len(keys)
        for key in keys:
            self._unsettled.pop(key, None)
        self._write([DropEntry(_KIND, key) for key in keys], None)

    async def _work(self, key: str, name: str, step: _Step, fn: Callable[..., Any], args: Any) -> None:
        try:
            step.result = await self._run(key, name, fn, args)
        except Exception as error:
            step.error = error
        finally:
            if step.result is None and step.error is None:  # cut off, at the end of the server
                step.error = _unknown(name)
            del self._running[key]
            step.waiters.wake()
            if step.forgotten:
                self._drop([key])

    async def _recorded(self, key: str, name: str) -> bytes | None:
        """The result that is recorded, also by another process that is at it; None if nobody has begun."""
        pause = _FIRST_PAUSE
        while True:
            entry = await self._store.entry(_KIND, key)
            if entry is None:
                return None
            if entry.data != _BEGUN or not self._shared:
                break
            await asyncio.sleep(pause)  # it goes on elsewhere, or is settled by whoever takes that over
            pause = min(1.5 * pause, _LONGEST_PAUSE)
        kind, rest = entry.data[:1], entry.data[1:]
        if kind == _RESULT:
            return rest
        if kind == _REFUSED:
            refusal = msgspec.json.decode(rest, type=_Refusal)
            raise ToolError(refusal.message, refusal.data)
        if kind == _FAILED:
            raise StepError(f"the step {name!r} has failed before, and is not run again", unknown=False)
        raise _unknown(name)

    async def _run(self, key: str, name: str, fn: Callable[..., Any], args: Any) -> bytes:
        await self._check_room()
        expires = self._clock() + self.ttl
        self._count += 1
        ours = [PutEntry(BEGUN_STEPS, key, b"", expires)] if self._shared else []
        error = await self._commit(PutEntry(_KIND, key, _BEGUN, expires, claim=True), *ours)
        if error is not None:
            self._count -= 1
            if isinstance(error, EntryTaken):
                raise error
            raise StoreError(f"the step {name!r} could not be recorded, and was not begun") from error
        try:
            result = _encoded(await _call(self._tasks, fn, args))
            if len(result) > self.max_result:
                raise LimitError("step", f"the result of the step {name!r} is over {self.max_result} bytes")
        except ToolError as error:
            await self._record(key, _refusal(error))
            raise
        except Exception:
            await self._record(key, _FAILED)
            raise
        except BaseException:  # it was cancelled from inside, or cut off: by the server's end, after which none settles
            self._unsettled[key] = _UNKNOWN
            raise
        error = await self._record(key, _RESULT + result)
        if error is not None:
            logger.error("the result of a step is not recorded: it counts as unknown name=%s error=%s", name, error)
        return result

    async def _record(self, key: str, end: bytes) -> StoreError | None:
        error = await self._commit(*self._ended(key, end))
        self._settled(key, end, error)
        return error

    def _settled(self, key: str, end: bytes, error: StoreError | None) -> None:
        if error is not None:
            self._unsettled[key] = end

    def _ended(self, key: str, end: bytes) -> list[Record]:
        records: list[Record] = [PutEntry(_KIND, key, end, self._clock() + self.ttl)]
        return [*records, DropEntry(BEGUN_STEPS, key)] if self._shared else records

    async def _check_room(self) -> None:
        now = self._tasks.loop.time()
        if self._count >= self.max_entries and now - self._counted >= _RECOUNT:
            self._counted = now
            self._count = await self._store.count(_KIND)
        if self._count >= self.max_entries:
            raise LimitError("steps", f"{self.max_entries} steps are recorded on this server; try again later")

    async def _commit(self, *records: Record) -> StoreError | None:
        """Return when they are safe, or with why they are not."""
        committed: asyncio.Future[StoreError | None] = self._tasks.loop.create_future()

        def tell(error: StoreError | None) -> None:
            if not committed.done():
                committed.set_result(error)

        self._write(records, tell)
        return await committed


def _key(identity: str, name: str) -> str:
    """What names a record: the same size for each, and nothing can be read from it."""
    return hashlib.sha256(identity.encode() + b"\0" + name.encode()).hexdigest()


def check_name(name: str, used: set[str]) -> None:
    """Take a step's name for one run of a handler.

    Raises:
        ValueError: It is empty or too long, or was used in this run.
        LimitError: There are too many.
    """
    if not 0 < len(name) <= _MAX_NAME:
        raise ValueError(f"a step's name has 1 to {_MAX_NAME} characters")
    if name in used:
        raise ValueError(f"there is a step {name!r} in this call already: each needs a name of its own")
    if len(used) >= MAX_STEPS:
        raise LimitError("steps", f"one call has at most {MAX_STEPS} steps")
    used.add(name)


async def run_here(tasks: Tasks, fn: Callable[..., Any], args: Any) -> Any:
    """Run a step that nobody will ask for again; its result looks as if it had been recorded."""
    return msgspec.json.decode(_encoded(await _call(tasks, fn, args)))


async def _call(tasks: Tasks, fn: Callable[..., Any], args: Any) -> Any:
    if inspect.iscoroutinefunction(fn):
        return await fn(*args)
    value = await tasks.in_thread(partial(fn, *args))
    return await value if inspect.isawaitable(value) else value


def _encoded(value: Any) -> bytes:
    return msgspec.json.encode(value, enc_hook=_dumped)


def _dumped(value: Any) -> Any:
    """A pydantic model, without knowing pydantic."""
    dump = getattr(value, "model_dump", None)
    if dump is None:
        raise TypeError(f"a step's result has to be JSON-able, and {type(value).__name__} is not")
    return dump(mode="json")


def _refusal(error: ToolError) -> bytes:
    try:
        return _REFUSED + msgspec.json.encode(_Refusal(error.message, error.data))
    except (TypeError, ValueError):
        return _FAILED


def _unknown(name: str) -> StepError:
    text = f"the step {name!r} had begun, and was cut off; whether it took effect is unknown, so it is not run again"
    return StepError(text, unknown=True)
