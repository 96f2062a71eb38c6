"""The one thread that owns the SQLite connection: it commits writes in groups, and answers reads in their turn.

What the loop writes in one of its turns is handed over at the end of the turn, together: the thread is woken
once, and finds a group. While it commits, the next group gathers.

What it has to say goes to the loop as calls of its `Listener`, one wake-up for each commit. What callers
see of it (tickets, callbacks, limits) is left to `sqlite`, what a commit
consists of to `sqlite_recent`, the tables to `sqlite_tables`.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections import deque
from dataclasses import dataclass
from operator import itemgetter
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from tailrace.errors import StoreBusy, StoreError, StoreTooNew
from tailrace.stores import sqlite_tables as tables
from tailrace.stores.claims import sift
from tailrace.stores.sqlite_file import FileLock, check_header, prepare_file, prepare_folder
from tailrace.stores.sqlite_recent import Recent, encode, is_worlds_fault

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tailrace.core.ports import Record
    from tailrace.stores.queued import Write
    from tailrace.stores.tickets import Failed

__all__ = ["Job", "Listener", "Writer"]

_EXPIRED_AT_ONCE = 256  # entries deleted in one commit, at most

_PRAGMAS = (
    "locking_mode = EXCLUSIVE",  # before WAL is touched: other programs stay out, and there is no shared-memory file
    "synchronous = FULL",  # a commit is on the disk when it returns, not only at the next checkpoint
    "fullfsync = ON",  # macOS: through the drive's cache; elsewhere without effect
    "trusted_schema = OFF",
    "cell_size_check = ON",  # damage is met early
    "secure_delete = FAST",
    "temp_store = MEMORY",
    "cache_size = -8000",  # KiB
    "journal_size_limit = 16777216",  # the -wal file shrinks to this after a burst
)


@dataclass(eq=False, slots=True)
class Job:
    """A read, or a small write with an answer: runs in a transaction of its own, after the writes before it.

    Attributes:
        reads: It reads tables that recent writes belong into, and writes nothing.
    """

    work: Callable[[sqlite3.Connection], Any]
    reads: bool
    answer: asyncio.Future[Any]


@dataclass(frozen=True, slots=True)
class Listener:
    """Whom the thread tells; called on the loop, in the order in which things happened.

    Attributes:
        opened: The store is held and ready; or, with an error, it is not, and the thread has ended.
        settled: These writes are committed, but for those that failed; the error is that of the commit as a whole.
        recovered: Writing works again after a failed commit.
        answered: The job is done.
        ended: The connection is closed and the file let go, as was asked; or because of an error, a bug.
    """

    opened: Callable[[StoreError | None], None]
    settled: Callable[[Sequence[Write], Sequence[Failed], StoreError | None], None]
    recovered: Callable[[], None]
    answered: Callable[[Job, Any, StoreError | None], None]
    ended: Callable[[StoreError | None], None]


class Writer:
    """The thread, its queue towards SQLite, and its outcomes on their way to the loop.

    `put` and `stop` may be called from the loop only; the queue's bound is the caller's to keep.

    Args:
        path: Absolute path of the file.
        listener: Hears what happens, on `loop`.
        wait: Seconds to wait for another holder of the file.
        batch_writes: Most writes in one commit.
        recent: Holds what is committed and not merged; the thread's alone once it runs.
        probe_interval: Seconds between two tries whether writing works again, after a failed commit.
        expiry_interval: Seconds between two looks for entries that have expired.
        clock: Tells the wall-clock time in seconds; called in the thread.
        factory: The class of the connection.
    """

    def __init__(
        self,
        path: Path,
        listener: Listener,
        loop: asyncio.AbstractEventLoop,
        *,
        wait: float,
        batch_writes: int,
        recent: Recent,
        probe_interval: float,
        expiry_interval: float,
        clock: Callable[[], float],
        factory: type[sqlite3.Connection],
    ) -> None:
        self.loop = loop  # may be replaced when it was closed
        self._path = path
        self._listener = listener
        self._wait = wait
        self._batch_writes = batch_writes
        self._probe_interval = probe_interval
        self._expiry_interval = expiry_interval
        self._expire_at = time.monotonic() + expiry_interval
        self._clock = clock
        self._factory = factory
        self._lock = FileLock(path)
        self._recent = recent
        self._turn: list[Write] = []  # what the loop has written in this turn
        self._queue: SimpleQueue[list[Write] | Job | None] = SimpleQueue()
        self._outcomes: deque[Callable[[], None]] = deque()
        self._stopped = threading.Event()
        self._failing = False
        self._probe_at = 0.0  # monotonic time, seconds
        self._connection: sqlite3.Connection | None = None
        self._thread = threading.Thread(target=self._run, name=f"tailrace-sqlite-{path.name}", daemon=True)

    def start(self) -> None:
        """Start the thread; `Listener.opened` follows."""
        self._thread.start()

    def write(self, write: Write) -> None:
        """Hand over one write, at the end of this turn of the loop."""
        if not self._turn:
            self.loop.call_soon(self._hand_over)
        self._turn.append(write)

    def put(self, item: Job | None) -> None:
        """Hand over at once; None is the end: all before it is committed, then the file is let go."""
        self._hand_over()
        self._queue.put(item)

    def _hand_over(self) -> None:
        if self._turn:
            self._queue.put(self._turn)
            self._turn = []

    def stop(self) -> None:
        """End as soon as possible, without what is still queued; from now on nothing is told."""
        self._stopped.set()
        self._queue.put(None)
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):  # it has just been closed
                connection.interrupt()

    def collect(self) -> None:
        """Tell the listener what has happened since the last time; on the loop."""
        while self._outcomes and not self._stopped.is_set():
            self._outcomes.popleft()()

    def _tell(self, outcome: Callable[[], None]) -> None:
        self._outcomes.append(outcome)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is there to hear it
            self.loop.call_soon_threadsafe(self.collect)

    # --- in the thread -------------------------------------------------------------------------

    def _run(self) -> None:
        listener, error = self._listener, None
        try:
            connection = self._connection = self._open()
        except Exception as exception:
            refusal = exception if isinstance(exception, StoreError) else self._explain(exception)
            self._lock.release()
            self._tell(lambda: listener.opened(refusal))
            return
        self._tell(lambda: listener.opened(None))
        try:
            self._serve(connection)
        except Exception as exception:
            error = self._explain(exception)
        with contextlib.suppress(sqlite3.Error):  # what cannot be done now is done at the next opening
            self._merge(connection)
        with contextlib.suppress(sqlite3.Error):  # it checkpoints
            connection.close()
        self._lock.release()
        self._tell(lambda: listener.ended(error))

    def _open(self) -> sqlite3.Connection:
        until = time.monotonic() + self._wait
        prepare_folder(self._path)
        self._lock.acquire(self._wait, self._stopped)
        prepare_file(self._path)
        check_header(self._path)
        connection = sqlite3.connect(
            self._path,
            timeout=max(0.0, until - time.monotonic()),  # for another program that has the file open
            isolation_level=None,
            cached_statements=256,
            factory=self._factory,
        )
        try:
            self._set_up(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_up(self, connection: sqlite3.Connection) -> None:
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}").fetchall()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > len(tables.MIGRATIONS):  # `check_header` sees it first, but for a rule that was broken
            raise StoreTooNew(f"{self._path} was written by a newer Tailrace")
        if version < len(tables.MIGRATIONS):
            connection.execute("PRAGMA journal_mode = DELETE").fetchall()
        _transaction(connection, lambda: tables.migrate(connection, version))
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise StoreError(f"{self._path}: SQLite cannot use write-ahead logging there")

    def _serve(self, connection: sqlite3.Connection) -> None:
        while not self._stopped.is_set():
            if self._failing and time.monotonic() >= self._probe_at:
                self._probe(connection)
            if not self._failing and time.monotonic() >= self._expire_at:
                self._expire(connection)
            pause = self._probe_interval if self._failing else max(0.0, self._expire_at - time.monotonic())
            try:
                item = self._queue.get(timeout=pause)
            except Empty:
                continue
            writes, after = self._drain(item)
            for start in range(0, len(writes), self._batch_writes):
                if not self._stopped.is_set():
                    self._commit(connection, writes[start : start + self._batch_writes])
            if isinstance(after, Job):
                self._answer(connection, after)
            elif after is None:
                return

    def _drain(self, item: list[Write] | Job | None) -> tuple[list[Write], list[Write] | Job | None]:
        """Take the writes that are queued, until they are a batch; and what ended them, or the last of them."""
        writes: list[Write] = []
        while isinstance(item, list):
            writes += item
            if len(writes) >= self._batch_writes or self._queue.empty():
                break
            item = self._queue.get_nowait()  # nobody else takes from it
        return writes, item

    def _commit(self, connection: sqlite3.Connection, writes: list[Write]) -> None:
        failed: list[Failed] = []
        failure: StoreError | None = None
        try:
            _leave_transaction(connection)  # else what follows would not be committed
            if self._recent.is_full:
                self._merge(connection)
            sound, failed = self._sift(connection, writes)
            try:
                self._recent.commit(connection, *_joined(sound))
            except Exception as error:
                if is_worlds_fault(error):
                    raise
                storable, failed = self._sort_out(writes)
                sound, refused = self._sift(connection, storable)
                failed = sorted(failed + refused, key=itemgetter(0))
                self._recent.commit(connection, *_joined(sound))
        except Exception as error:
            failure = self._explain(error)
            failed = [(writes[0][0], writes[-1][0], failure)]
        self._failing = failure is not None
        self._probe_at = time.monotonic() + self._probe_interval
        self._tell(lambda: self._listener.settled(writes, failed, failure))

    def _sift(self, connection: sqlite3.Connection, writes: list[Write]) -> tuple[list[Write], list[Failed]]:
        now = self._clock()
        return sift(writes, lambda claim: self._recent.is_held(connection, claim, now), now, f"{self._path}")

    def _sort_out(self, writes: list[Write]) -> tuple[list[Write], list[Failed]]:
        """A write with a record that cannot be stored fails alone."""
        sound: list[Write] = []
        failed: list[Failed] = []
        for write in writes:
            try:
                encode(write[1])
                sound.append(write)
            except (ValueError, TypeError, OverflowError) as error:
                failed.append((write[0], write[0], StoreError(f"{self._path}: a record cannot be stored: {error}")))
        return sound, failed

    def _merge(self, connection: sqlite3.Connection) -> None:
        _transaction(connection, lambda: self._recent.merge(connection))
        self._recent.merged()

    def _answer(self, connection: sqlite3.Connection, job: Job) -> None:
        answer, error = None, None
        try:
            if job.reads:
                answer = self._read(connection, job)
            else:
                answer = _transaction(connection, lambda: job.work(connection))
        except Exception as exception:
            error = self._explain(exception)
        self._tell(lambda: self._listener.answered(job, answer, error))

    def _read(self, connection: sqlite3.Connection, job: Job) -> Any:
        """Merge what is recent, and read. Where the merge cannot be committed (a full disk) it is taken back, and
        the answer is right all the same."""

        def work() -> Any:
            self._recent.merge(connection)
            answer.append(job.work(connection))

        answer: list[Any] = []
        try:
            _transaction(connection, work)
            self._recent.merged()
        except sqlite3.Error:
            if not answer:
                raise
        return answer[0]

    def _probe(self, connection: sqlite3.Connection) -> None:
        """Find out that the disk has space again: whoever refuses work while `failure` is set writes nothing."""
        self._probe_at = time.monotonic() + self._probe_interval
        with contextlib.suppress(sqlite3.Error):
            _transaction(connection, lambda: tables.probe(connection))
            self._failing = False
            self._tell(self._listener.recovered)

    def _expire(self, connection: sqlite3.Connection) -> None:
        """Delete some expired entries; where more may be left, the next ones go after the next batch of writes."""
        self._expire_at = time.monotonic() + self._expiry_interval
        with contextlib.suppress(sqlite3.Error):  # nobody waits for it, and a later one makes up for it
            self._merge(connection)
            expired = _transaction(connection, lambda: tables.expire(connection, self._clock(), _EXPIRED_AT_ONCE))
            if expired == _EXPIRED_AT_ONCE:
                self._expire_at = 0.0

    def _explain(self, error: Exception) -> StoreError:
        """What SQLite says, for people; without the traceback, which would hold the records in memory."""
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without the extension
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return StoreBusy(f"{self._path} is open in another program: close that first")
        meaning = {
            sqlite3.SQLITE_FULL: "the disk is full",
            sqlite3.SQLITE_IOERR: "an I/O error (a full or broken disk?)",
            sqlite3.SQLITE_NOTADB: "not a database, or damaged",
            sqlite3.SQLITE_CORRUPT: "the database is damaged",
        }.get(code, "the store failed")
        return StoreError(
            f"{self._path}: {meaning} ({getattr(error, 'sqlite_errorname', type(error).__name__)}: {error})"
        )


def _transaction(connection: sqlite3.Connection, work: Callable[[], Any]) -> Any:
    """Run `work` in a transaction, which is rolled back whole if anything fails, the commit too."""
    _leave_transaction(connection)
    connection.execute("BEGIN")
    try:
        result = work()
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # after some errors SQLite has rolled back by itself
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        raise
    return result


def _leave_transaction(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:  # the rollback of an earlier one failed
        connection.execute("ROLLBACK")


def _joined(writes: Sequence[Write]) -> tuple[list[Record], int]:
    return [record for _, records, _ in writes for record in records], sum(weight for _, _, weight in writes)
