"""What only the SQLite store has: a file, a holder, disks that fail, a thread, and processes that are killed."""

from __future__ import annotations

import asyncio
import gc
import os
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tailrace.core.ports import (
    AppendEvent,
    DropEntry,
    DropSession,
    DropStream,
    EndCall,
    PutCall,
    PutEntry,
    PutSession,
    StoredEntry,
    StoredEvent,
    TrimStream,
)
from tailrace.errors import StoreBusy, StoreError, StoreTooNew
from tailrace.stores import sqlite_file, sqlite_tables
from tailrace.stores.sqlite import SqliteStore
from tailrace.stores.sqlite_file import network_filesystem

SESSION = PutSession("s1", b"h1", "ann", b"data", 100.0)
COMMITS = ("COMMIT", "INSERT INTO recent")  # the second is a transaction by itself
SRC = str(Path(__file__).parents[2] / "src")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.db"


def event(seq: int, payload: bytes = b"") -> AppendEvent:
    return AppendEvent("s1", 1, seq, 0, payload)


async def seqs(store: SqliteStore, session: str = "s1") -> list[int]:
    found = await store.load(session)
    assert found is not None
    return [event.seq for event in found.events]


def own(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged here: asyncio tells of what other tests have left, whenever that is collected."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("tailrace")]


async def filled(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    store.write([SESSION, *(event(seq, b"x" * 1000) for seq in range(1, 201))])
    await store.close()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def child(path: Path, body: str, **options: Any) -> subprocess.Popen[str]:
    """A process that runs `body` in a coroutine, with `store` (not yet open) over `path`."""
    source = f"""
import asyncio, os, signal, sys
sys.path.insert(0, {SRC!r})
from tailrace.core.ports import *
from tailrace.errors import *
from tailrace.stores.sqlite import SqliteStore
SESSION = PutSession("s1", b"h1", "ann", b"data", 100.0)
def event(seq, payload=b""):
    return AppendEvent("s1", 1, seq, 0, payload)
async def main():
    store = SqliteStore({str(path)!r})
{textwrap.indent(textwrap.dedent(body), "    ")}
asyncio.run(main())
"""
    return subprocess.Popen(
        [sys.executable, "-c", source], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, **options
    )


# --- the file -------------------------------------------------------------------------------------


@pytest.fixture
def permissive() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("permissive")
async def test_the_file_and_the_folders_it_makes_are_private_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "state" / "tailrace" / "s.db"
    store = SqliteStore(path)
    await store.open()
    store.write([SESSION])
    await store.flush()
    assert store.name == f"sqlite:{path}"
    assert {file.name: mode(file) for file in path.parent.iterdir()} == {
        "s.db": 0o600,
        "s.db-wal": 0o600,
        "s.db.lock": 0o600,
    }
    assert (mode(path.parent), mode(path.parent.parent)) == (0o700, 0o700)
    await store.close()
    assert sorted(file.name for file in path.parent.iterdir()) == ["s.db", "s.db.lock"]


async def test_a_file_that_others_could_read_is_made_private(path: Path) -> None:
    await filled(path)
    path.chmod(0o644)
    store = SqliteStore(path)
    await store.open()
    assert mode(path) == 0o600
    await store.close()


async def test_an_empty_file_becomes_a_store(path: Path) -> None:
    path.touch(0o600)
    store = SqliteStore(path)
    await store.open()
    assert await store.next_epoch() == 1
    await store.close()


async def refusal(path: Path) -> StoreError:
    with pytest.raises(StoreError) as caught:
        await SqliteStore(path).open(wait=0)
    assert str(path) in str(caught.value)
    return caught.value


async def test_a_symbolic_link_is_refused(path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "elsewhere")
    assert "symbolic link" in str(await refusal(path))
    assert not (tmp_path / "elsewhere").exists()


async def test_a_symbolic_link_in_the_place_of_the_lock_is_refused(path: Path, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    Path(f"{path}.lock").symlink_to(tmp_path / "victim")
    assert "cannot make" in str(await refusal(path))
    assert (tmp_path / "victim").read_text() == "precious"


async def test_what_is_not_a_file_is_refused(path: Path) -> None:
    os.mkfifo(path)  # opening it would hang
    assert "not a file" in str(await refusal(path))


async def test_another_users_file_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await filled(path)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    assert "another user" in str(await refusal(path))


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot make the folder" in str(await refusal(tmp_path / "file" / "s.db"))


async def test_a_file_that_cannot_be_looked_at_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    await filled(path)
    monkeypatch.setattr(Path, "open", denied)
    assert "cannot read" in str(await refusal(path))
    path.chmod(0o644)
    monkeypatch.setattr(Path, "chmod", denied)
    assert "cannot use" in str(await refusal(path))


@pytest.mark.parametrize("content", [b"hello", b"hello, this is no database at all" * 99, b"SQLite format 3\0"])
async def test_what_is_not_a_database_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert "not a database" in str(await refusal(path))
    assert path.read_bytes() == content


async def test_a_database_of_another_program_is_refused_and_left_alone(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (a)")
    connection.close()
    before = path.read_bytes()
    assert "another program" in str(await refusal(path))
    assert path.read_bytes() == before


async def test_a_damaged_database_is_named(path: Path) -> None:
    await filled(path)
    content = bytearray(path.read_bytes())
    content[100:4096] = b"\xff" * 3996  # the schema
    path.write_bytes(content)
    assert "damaged" in str(await refusal(path))


async def test_damage_met_later_is_the_readers_error(path: Path) -> None:
    await filled(path)
    content = bytearray(path.read_bytes())
    at = content.rindex(b"x" * 1000)  # in the table: before it stands what is left of the row it was committed in
    page = at - at % 4096
    content[page : page + 16] = b"\xff" * 16
    path.write_bytes(content)
    store = SqliteStore(path)
    await store.open()
    with pytest.raises(StoreError, match=r"s\.db: the database is damaged"):
        await store.load("s1")
    assert await store.sessions() == [("s1", 100.0)]
    await store.close()


async def test_a_newer_file_is_refused_and_left_untouched_byte_for_byte(path: Path) -> None:
    process = child(
        path,
        """
        await store.open()
        store.write([SESSION, event(1)])
        await store.flush()
        os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    process.communicate(timeout=60)
    content = bytearray(path.read_bytes())
    content[60:64] = (99).to_bytes(4, "big")
    path.write_bytes(content)
    wal = Path(f"{path}-wal")
    before = path.read_bytes(), wal.read_bytes()
    assert before[1]  # what a kill leaves, and opening would work in
    with pytest.raises(StoreTooNew, match=r"version 99, this one knows up to \d+.*left untouched"):
        await SqliteStore(path).open()
    assert (path.read_bytes(), wal.read_bytes()) == before


async def test_an_older_file_is_brought_up_to_date(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await filled(path)
    steps = ("CREATE TABLE more (a)", "INSERT INTO more VALUES (42)")
    monkeypatch.setattr(sqlite_tables, "MIGRATIONS", (*sqlite_tables.MIGRATIONS, steps))
    monkeypatch.setattr(sqlite_file, "MIGRATIONS", sqlite_tables.MIGRATIONS)
    store = SqliteStore(path)
    await store.open()
    assert len(await seqs(store)) == 200
    assert path.read_bytes()[60:64] == len(sqlite_tables.MIGRATIONS).to_bytes(
        4, "big"
    )  # in the file itself, not in the log beside it
    await store.close()
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT a FROM more").fetchall() == [(42,)]
    connection.close()
    monkeypatch.undo()
    with pytest.raises(StoreTooNew):
        await SqliteStore(path).open()


def written_by_version(path: Path, version: int) -> None:
    """A file as that version made it, with one session."""
    connection = sqlite3.connect(path)
    for steps in sqlite_tables.MIGRATIONS[:version]:
        for step in steps:
            connection.execute(step)
    connection.execute(f"PRAGMA application_id = {sqlite_tables.APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.execute("INSERT INTO sessions VALUES ('s1', x'01', 'ann', x'02', 100.0)")
    connection.execute("INSERT INTO streams VALUES ('s1', 1, 3)")
    connection.execute("INSERT INTO calls VALUES ('s1', 7, 1, x'03')")
    for seq in (2, 1, 3):
        connection.execute("INSERT INTO events VALUES ('s1', 1, ?, ?, 'p')", (seq % 2, seq))
    connection.commit()
    connection.close()


@pytest.mark.parametrize("version", range(1, len(sqlite_tables.MIGRATIONS)))
async def test_a_file_of_an_earlier_version_keeps_what_it_holds(
    path: Path, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    written_by_version(path, version)
    store = SqliteStore(path)
    await store.open()
    found = await store.load("s1")
    assert found is not None
    assert [(event.seq, event.kind) for event in found.events] == [(1, 1), (2, 0), (3, 1)]
    assert (found.principal, found.last, [call.call for call in found.calls]) == ("ann", {1: 3}, [7])
    store.write([PutEntry("once", "k", b"data", 4e9), event(4)])
    assert await store.entry("once", "k") == StoredEntry("k", b"data", 4e9)
    await store.close()
    monkeypatch.setattr(sqlite_file, "MIGRATIONS", sqlite_tables.MIGRATIONS[:version])
    with pytest.raises(StoreTooNew):  # as that version would
        await SqliteStore(path).open()


async def test_a_migration_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await filled(path)
    monkeypatch.setattr(sqlite_tables, "MIGRATIONS", (*sqlite_tables.MIGRATIONS, ("CREATE TABLE more (a)", "wrong")))
    assert "failed" in str(await refusal(path))
    monkeypatch.undo()
    store = SqliteStore(path)
    await store.open()
    assert len(await seqs(store)) == 200
    await store.close()


async def test_a_version_that_only_the_log_tells_is_refused_all_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(path)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    monkeypatch.setattr("tailrace.stores.sqlite_writer.check_header", lambda _: 1)
    with pytest.raises(StoreTooNew):
        await SqliteStore(path).open()


async def test_a_network_file_system_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace.stores.sqlite_file.network_filesystem", lambda *_: "nfs4")
    assert "network file system (nfs4)" in str(await refusal(path))
    assert not path.exists()


def test_the_innermost_mount_tells_the_file_system(tmp_path: Path) -> None:
    (tmp_path / "my share" / "deep").mkdir(parents=True)
    mounts = tmp_path / "mounts"
    place = str(tmp_path).replace(" ", "\\040")
    mounts.write_text(
        f"/dev/sda / ext4 rw 0 0\nhost:/x {place}/my\\040share nfs4 rw 0 0\n"
        f"tmpfs {place}/my tmpfs rw 0 0\nsshfs {place}/over fuse.sshfs rw 0 0\n/dev/sdb {place}/over xfs rw 0 0\n"
    )
    assert network_filesystem(tmp_path / "s.db", mounts) is None
    assert network_filesystem(tmp_path / "my share" / "s.db", mounts) == "nfs4"
    assert network_filesystem(tmp_path / "my share" / "deep" / "s.db", mounts) == "nfs4"
    assert network_filesystem(tmp_path / "my" / "s.db", mounts) is None
    assert network_filesystem(tmp_path / "over" / "s.db", mounts) is None  # the later mount is on top
    mounts.write_text("host:/ / 9p rw 0 0\n")
    assert network_filesystem(tmp_path / "s.db", mounts) == "9p"
    assert network_filesystem(tmp_path / "s.db", tmp_path / "no mounts here") is None


async def test_a_file_system_without_write_ahead_logging_is_refused(path: Path) -> None:
    class Delete(sqlite3.Connection):
        def execute(self, sql: str, *rest: Any) -> sqlite3.Cursor:
            return super().execute(sql.replace("WAL", "DELETE"), *rest)

    with pytest.raises(StoreError, match="write-ahead logging"):
        await SqliteStore(path, factory=Delete).open()


# --- who holds it ---------------------------------------------------------------------------------


async def test_a_second_store_in_the_process_is_refused_until_the_first_is_closed(path: Path) -> None:
    first, second = SqliteStore(path), SqliteStore(path)
    await first.open()
    with pytest.raises(StoreBusy, match=r"s\.db is held by this process, still so after 0\.1 s: only one server"):
        await second.open(wait=0.1)
    first.write([SESSION])
    waiting = asyncio.ensure_future(second.open(wait=60))
    await first.flush()  # it goes on undisturbed, and so does the loop
    assert not waiting.done()
    await first.close()
    await waiting
    assert await seqs(second) == []
    await second.close()


async def test_who_waits_for_a_file_says_so_once(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "_TELL", 0.0)
    caplog.set_level("INFO", "tailrace.store")
    first, second = SqliteStore(path), SqliteStore(path)
    await first.open()
    waiting = asyncio.ensure_future(second.open(wait=60))
    async with asyncio.timeout(60):
        while not own(caplog):
            await asyncio.sleep(0.01)
    await first.close()
    await waiting
    (said,) = own(caplog)
    assert said.startswith("waiting for the store, held by this process path=")
    await second.close()


async def test_another_process_is_named_and_its_kill_frees_the_file(path: Path) -> None:
    process = child(
        path,
        """
        await store.open()
        store.write([SESSION])
        await store.flush()
        pid = os.fork()  # a child of the holder does not hold it
        if pid == 0:
            sys.stdin.read()
            os._exit(0)
        print(pid, flush=True)
        sys.stdin.read()
        """,
    )
    assert process.stdout is not None
    grandchild = int(process.stdout.readline())
    with pytest.raises(StoreBusy, match=f"held by process {process.pid}"):
        await SqliteStore(path).open(wait=0)
    store = SqliteStore(path)
    waiting = asyncio.ensure_future(store.open(wait=60))
    process.kill()
    await waiting
    os.kill(grandchild, 0)  # still there
    assert await seqs(store) == []
    await store.close()
    process.communicate(timeout=60)


async def test_a_holder_that_does_not_say_who_it_is_is_another_process(path: Path) -> None:
    first = SqliteStore(path)
    await first.open()
    Path(f"{path}.lock").write_text("")
    with pytest.raises(StoreBusy, match="held by another process"):
        await SqliteStore(path).open(wait=0)
    await first.close()


async def test_another_program_that_has_the_file_open_is_a_holder_too(path: Path) -> None:
    await filled(path)
    connection = sqlite3.connect(path)
    connection.execute("SELECT * FROM sessions").fetchall()
    with pytest.raises(StoreBusy, match="open in another program"):
        await SqliteStore(path).open(wait=0)
    connection.close()
    store = SqliteStore(path)
    await store.open(wait=0)
    connection = sqlite3.connect(path, timeout=0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        connection.execute("SELECT * FROM sessions")
    connection.close()
    await store.close()


async def test_a_lock_that_the_file_system_cannot_give_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    assert "No locks available" in str(await refusal(path))


async def test_cancelling_an_opening_lets_go(path: Path) -> None:
    first = SqliteStore(path)
    await first.open()
    second = SqliteStore(path)
    waiting = asyncio.ensure_future(second.open(wait=60))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await first.close()
    await second.open(wait=60)  # not in its own way
    await second.close()
    for turns in range(12):  # in the middle of it, wherever that is
        opening = asyncio.ensure_future(second.open(wait=60))
        for _ in range(turns):
            await asyncio.sleep(0.0005)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        await second.close()
    third = SqliteStore(path)
    await third.open(wait=60)
    await third.close()


async def test_closing_while_it_opens_ends_both(path: Path) -> None:
    store = SqliteStore(path)
    opening = asyncio.ensure_future(store.open())
    await asyncio.sleep(0)
    await store.close()
    with pytest.raises(StoreError, match="closed while"):
        await opening
    with pytest.raises(StoreError, match="not open"):
        store.write([SESSION])
    await store.open(wait=0)
    await store.close()


async def test_an_opening_that_hangs_has_a_limit(path: Path) -> None:
    gate = threading.Event()

    class Hanging(sqlite3.Connection):
        def execute(self, sql: str, *rest: Any) -> sqlite3.Cursor:
            if sql == "BEGIN":
                gate.wait()
            return super().execute(sql, *rest)

    store = SqliteStore(path, factory=Hanging, open_timeout=0.01)
    with pytest.raises(StoreError, match=r"took longer than 0\.01 s"):
        await store.open(wait=0)
    gate.set()
    again = SqliteStore(path)
    await again.open()
    await again.close()


async def test_the_statements_of_a_commit_find_their_rows_by_key(path: Path) -> None:
    """A commit must not grow slower with what is kept: no statement may go through a whole table."""
    plans: list[str] = []

    class Explained(sqlite3.Connection):
        def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
            if armed and sql.partition(" ")[0] not in ("BEGIN", "COMMIT", "ROLLBACK"):
                plans.extend(row[3] for row in super().execute(f"EXPLAIN QUERY PLAN {sql}", parameters))
            return super().execute(sql, parameters)

        def executemany(self, sql: str, rows: Any) -> sqlite3.Cursor:
            for row in rows:
                self.execute(sql, row)
            return self.cursor()

    armed: list[int] = []
    store = SqliteStore(path, factory=Explained, expiry_interval=0.02)
    await store.open()
    armed.append(1)
    for number in range(40):
        store.write([SESSION, event(number), PutCall("s1", number, 1, b""), TrimStream("s1", 1, 0, number)])
        store.write([EndCall("s1", number), DropStream("s1", 2), DropSession("s2")])
        store.write([PutEntry("once", f"{number}", b"", number), DropEntry("once", f"{number - 1}")])
    await store.flush()
    await store.entry("once", "7")
    await store.entries("once", after="7", limit=2)
    while not any("entries_by_expiry" in plan for plan in plans):  # ends by the test's time-out
        await asyncio.sleep(0.001)
    await store.load("s1")
    await store.load(handle=b"h1")
    assert any("SEARCH calls" in plan for plan in plans)
    assert [plan for plan in plans if "SCAN" in plan and "CONSTANT ROW" not in plan and plan != "SCAN ended"] == []
    await store.close()


class Failing(sqlite3.Connection):
    """Raises when it executes what `fails` names, and forgets it after `times`."""

    fails = ""
    times = 0

    def execute(self, sql: str, *rest: Any) -> sqlite3.Cursor:
        if type(self).times and sql.startswith(type(self).fails):
            type(self).times -= 1
            raise sqlite3.OperationalError("disk I/O error")
        return super().execute(sql, *rest)


@pytest.fixture
def failing() -> Iterator[type[Failing]]:
    yield Failing
    Failing.times = 0


# --- entries that expire --------------------------------------------------------------------------


def rows(path: Path) -> int:
    connection = sqlite3.connect(path)
    (count,) = connection.execute("SELECT count(*) FROM entries").fetchone()
    connection.close()
    return count


async def test_expired_entries_are_deleted_a_few_hundred_at_a_time(path: Path) -> None:
    now = 1_000.0
    deleted: list[int] = []

    class Counting(sqlite3.Connection):
        def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
            cursor = super().execute(sql, parameters)
            if sql.startswith("DELETE FROM entries WHERE rowid"):
                deleted.append(cursor.rowcount)
            return cursor

    store = SqliteStore(path, factory=Counting, expiry_interval=0.005, clock=lambda: now)
    await store.open()
    store.write([PutEntry("once", f"{number}", b"", 1_500.0) for number in range(1_000)])
    store.write([PutEntry("once", "late", b"", 2_500.0), PutEntry("once", "0", b"", 2_500.0)])
    await store.flush()
    assert not any(deleted)
    now = 2_000.0
    while sum(deleted) < 999:  # ends by the test's time-out
        await asyncio.sleep(0.001)
    assert [entry.key for entry in await store.entries("once")] == ["0", "late"]
    await store.close()
    assert sum(deleted) == 999
    assert max(deleted) <= 256
    assert rows(path) == 2


async def test_what_expired_while_nobody_held_the_file_is_deleted_when_it_is_held_again(path: Path) -> None:
    store = SqliteStore(path, clock=lambda: 1_000.0)
    await store.open()
    store.write([PutEntry("once", "k", b"", 1_500.0), PutEntry("once", "l", b"", 2_500.0)])
    await store.close()
    assert rows(path) == 2
    again = SqliteStore(path, expiry_interval=0, clock=lambda: 2_000.0)
    await again.open()
    await again.next_epoch()
    await again.close()
    assert rows(path) == 1


async def test_a_disk_that_fails_while_expired_entries_are_deleted_stops_nobody(
    path: Path, failing: type[Failing]
) -> None:
    now = 1_000.0
    store = SqliteStore(path, factory=failing, expiry_interval=0.005, clock=lambda: now)
    await store.open()
    store.write([SESSION, PutEntry("once", "k", b"", 1_500.0)])
    await store.flush()
    failing.fails, failing.times = "DELETE FROM entries", 3
    now = 2_000.0
    while failing.times:  # ends by the test's time-out
        await asyncio.sleep(0.001)
    store.write([event(1)])
    await store.flush()
    assert store.failure is None
    await asyncio.sleep(0)
    assert await seqs(store) == [1]
    await store.close()


# --- disks that fail ------------------------------------------------------------------------------


async def test_a_full_disk_fails_its_batch_whole_and_the_next_may_succeed(path: Path) -> None:
    connections: list[sqlite3.Connection] = []

    class Remembered(sqlite3.Connection):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "check_same_thread": False})
            connections.append(self)

    store = SqliteStore(path, factory=Remembered)
    await store.open()
    store.write([SESSION, event(1, b"x" * 1000)])
    await store.flush()
    (pages,) = connections[0].execute("PRAGMA page_count").fetchone()
    connections[0].execute(f"PRAGMA max_page_count = {pages + 2}")
    heard: list[StoreError | None] = []
    for seq in range(2, 102):
        store.when(store.write([event(seq, b"x" * 1000), PutEntry("once", f"{seq}", b"", 4e9)]), heard.append)
    with pytest.raises(StoreError, match=r"s\.db: the disk is full \(SQLITE_FULL"):
        await store.flush()
    assert len(heard) == 100
    assert all(isinstance(error, StoreError) for error in heard)
    assert "the disk is full" in str(store.failure)
    assert await seqs(store) == [1]
    assert await store.entries("once") == []
    connections[0].execute("PRAGMA max_page_count = 1000000")
    store.write([event(102)])
    await store.flush()
    assert store.failure is None
    assert await seqs(store) == [1, 102]
    await store.close()


async def test_a_log_that_cannot_grow_loses_nothing_that_was_promised(path: Path) -> None:
    """The kernel refuses the write, as a full disk does: a limit on the size of files, in a process of its own."""
    process = child(
        path,
        """
        import resource
        await store.open()
        promised, failed = [], []
        def run(first, last):
            for seq in range(first, last):
                def heard(error, seq=seq):
                    (failed if error else promised).append(seq)
                store.when(store.write([event(seq, b"x" * 3000)]), heard)
        store.write([SESSION])
        run(1, 50)
        await store.flush()
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
        for first in range(100, 400, 20):
            run(first, first + 20)
            try:
                await store.flush()
            except StoreError as error:
                assert store.failure and ("I/O" in str(error) or "full" in str(error)), error
        assert failed and store.failure
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        run(1000, 1010)
        await store.flush()
        assert store.failure is None
        kept = [event.seq for event in (await store.load("s1")).events]
        assert kept == promised, (kept, promised)
        print(len(kept), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    out, _ = process.communicate(timeout=60)
    store = SqliteStore(path)
    await store.open()
    kept = await seqs(store)
    assert len(kept) == int(out) >= 60
    assert kept[-10:] == list(range(1000, 1010))
    await store.close()


@pytest.mark.parametrize("where", ["BEGIN", "INSERT INTO recent", "INSERT OR IGNORE INTO events", "COMMIT"])
async def test_an_io_error_anywhere_in_a_commit_fails_that_batch_only(
    path: Path, failing: type[Failing], where: str
) -> None:
    store = SqliteStore(path, factory=failing, probe_interval=60, merge_bytes=1)  # every commit merges the one before
    await store.open()
    store.write([SESSION, event(1)])
    await store.flush()
    failing.fails, failing.times = where, 1
    store.write([event(2)])
    with pytest.raises(StoreError, match="disk I/O error"):
        await store.flush()
    store.write([event(3)])
    await store.flush()
    assert await seqs(store) == [1, 3]
    await store.close()


async def test_a_rollback_that_fails_is_made_up_for(path: Path) -> None:
    broken = {"COMMIT", "ROLLBACK"}
    connections: list[sqlite3.Connection] = []

    class Broken(sqlite3.Connection):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            connections.append(self)

        def execute(self, sql: str, *rest: Any) -> sqlite3.Cursor:
            if sql in broken and armed:
                broken.discard(sql)
                raise sqlite3.OperationalError("disk I/O error")
            return super().execute(sql, *rest)

    armed: list[int] = []
    store = SqliteStore(path, factory=Broken)
    await store.open()
    store.write([SESSION])
    await store.flush()
    armed.append(1)
    store.write([event(1)])
    with pytest.raises(StoreError):
        await store.next_epoch()
    store.write([event(2)])  # must not become a part of what cannot be rolled back
    await store.flush()
    assert not broken
    assert connections[0].in_transaction is False
    assert await seqs(store) == [1, 2]
    await store.close()


async def test_a_read_that_fails_says_so_to_its_reader_only(path: Path, failing: type[Failing]) -> None:
    store = SqliteStore(path, factory=failing)
    await store.open()
    failing.fails, failing.times = "SELECT", 1
    with pytest.raises(StoreError, match=r"s\.db.*disk I/O error"):
        await store.load("s1")
    assert await store.load("s1") is None
    assert store.failure is None
    await store.close()


async def test_reading_does_not_keep_it_from_finding_out_that_the_disk_works_again(
    path: Path, failing: type[Failing]
) -> None:
    store = SqliteStore(path, factory=failing, probe_interval=0.01)
    await store.open()
    failing.fails, failing.times = "INSERT INTO recent", 1
    store.write([SESSION])
    with pytest.raises(StoreError):
        await store.flush()
    while store.failure is not None:  # ends by the test's time-out
        await store.sessions()
    await store.close()


async def test_a_record_that_cannot_be_stored_fails_alone(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    heard: list[tuple[str, StoreError | None]] = []
    for name, record in (
        ("first", SESSION),
        ("no text", PutSession("s2", b"h2", "\ud800", b"", 1.0)),
        ("too large", event(2**63)),
        ("no key", PutEntry("once", "\ud800", b"", 4e9)),
        ("no time", PutEntry("once", "k", b"", float("nan"))),
        ("no number", PutSession("s3", b"h3", "", b"", float("nan"))),
        ("half", event(-(2**63) - 1)),
        ("last", event(7)),
    ):
        begun = [PutSession("s4", b"h4", "", b"", 1.0)] if name == "half" else []
        ticket = store.write([*begun, EndCall("s1", 1), record, event(len(heard) + 100, b"with it")])
        store.when(ticket, lambda error, name=name: heard.append((name, error)))
    await asyncio.gather(store.flush(), return_exceptions=True)
    assert [name for name, error in heard if error is None] == ["first", "last"]
    assert "a record cannot be stored" in str(heard[1][1])
    assert store.failure is None  # the disk is well
    assert store.statistics()["failed"] == 6
    assert await store.entries("once") == []
    assert await store.sessions() == [("s1", 100.0)]
    assert 7 in await seqs(store)
    await store.close()


async def test_a_disk_that_fails_while_a_bad_record_is_sorted_out_fails_the_batch(
    path: Path, failing: type[Failing]
) -> None:
    store = SqliteStore(path, factory=failing)
    await store.open()
    store.write([SESSION])
    await store.flush()
    failing.fails, failing.times = "INSERT INTO recent", 1
    store.write([event(2**63), event(1)])
    store.write([PutCall("s1", 1, 1, b"")])
    with pytest.raises(StoreError, match="disk I/O error"):
        await store.flush()
    assert store.failure is not None
    assert await seqs(store) == []
    await store.close()


# --- what is committed as it came, and merged into the tables later -------------------------------


def counts(path: Path) -> dict[str, int]:
    connection = sqlite3.connect(path)
    tables = ("recent", "sessions", "events", "calls")
    found = {table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}
    connection.close()
    return found


async def test_what_cancels_out_before_a_merge_never_reaches_the_tables(path: Path) -> None:
    written: Counter[str] = Counter()

    class Counting(sqlite3.Connection):
        def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
            cursor = super().execute(sql, parameters)
            if sql.startswith("INSERT"):
                written[sql.split("INTO ")[1].split(" ")[0]] += cursor.rowcount
            return cursor

    store = SqliteStore(path, factory=Counting)
    await store.open()
    for number in range(1, 101):
        store.write([SESSION, PutCall("s1", number, 1, b"call")])
        await store.flush()
        store.write([event(number), EndCall("s1", number)])
    store.write([TrimStream("s1", 1, 0, 90), AppendEvent("s1", 2, 1, 0, b""), DropStream("s1", 2)])
    store.write([PutSession("s2", b"h2", "", b"", 1.0), AppendEvent("s2", 1, 1, 0, b""), DropSession("s2")])
    await store.flush()
    assert set(written) == {"recent"}
    assert await seqs(store) == list(range(91, 101))
    del written["recent"]
    assert written == {"sessions": 1, "streams": 1, "events": 10}
    await store.close()


async def test_committed_records_are_merged_when_they_are_many_and_when_nobody_writes(path: Path) -> None:
    merges: list[str] = []

    class Merging(sqlite3.Connection):
        def execute(self, sql: str, *rest: Any) -> sqlite3.Cursor:
            if sql == "DELETE FROM recent":
                merges.append(sql)
            return super().execute(sql, *rest)

    store = SqliteStore(path, factory=Merging, merge_bytes=20_000, expiry_interval=60)
    await store.open()
    merges.clear()
    for seq in range(1, 101):
        store.write([SESSION, event(seq, b"x" * 1000)])
        await store.flush()
    assert 5 <= len(merges) <= 10
    await store.close()
    assert counts(path) == {"recent": 0, "sessions": 1, "events": 100, "calls": 0}
    store = SqliteStore(path, factory=Merging, expiry_interval=0.01)
    await store.open()
    merges.clear()
    store.write([event(101)])
    while not merges:  # ends by the test's time-out
        await asyncio.sleep(0.001)
    await store.close()


async def test_a_disk_that_takes_no_merge_can_still_be_read_and_loses_nothing(
    path: Path, failing: type[Failing]
) -> None:
    store = SqliteStore(path, factory=failing)
    await store.open()
    store.write([SESSION, event(1), PutEntry("once", "k", b"", 4e9)])
    await store.flush()
    failing.fails, failing.times = "COMMIT", 2
    assert await seqs(store) == [1]
    assert await store.unfinished() == []
    assert failing.times == 0
    assert [entry.key for entry in await store.entries("once")] == ["k"]
    failing.fails, failing.times = "INSERT OR IGNORE INTO events", 1
    store.write([event(2)])
    with pytest.raises(StoreError, match="disk I/O error"):
        await store.load("s1")
    assert await seqs(store) == [1, 2]
    await store.close()


async def test_a_file_that_could_not_be_merged_at_the_end_is_merged_at_the_next_opening(
    path: Path, failing: type[Failing]
) -> None:
    store = SqliteStore(path, factory=failing)
    await store.open()
    store.write([SESSION, event(1), PutCall("s1", 1, 1, b"call")])
    await store.flush()
    failing.fails, failing.times = "SAVEPOINT", 1
    await store.close()
    assert counts(path) == {"recent": 1, "sessions": 0, "events": 0, "calls": 0}
    await store.open()
    assert await seqs(store) == [1]
    await store.close()
    assert counts(path) == {"recent": 0, "sessions": 1, "events": 1, "calls": 1}


async def test_a_record_that_no_table_takes_does_not_keep_the_others_out(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = SqliteStore(path)
    await store.open()
    wrong: Any = None
    store.write([SESSION, PutSession("s2", b"h2", wrong, b"", 1.0), event(1)])  # a bug of ours
    await store.flush()
    assert await seqs(store) == [1]
    assert [said.partition(" error")[0] for said in own(caplog)] == ["a record cannot be stored record=PutSession"]
    await store.close()


async def test_a_row_that_is_partly_unreadable_does_not_keep_the_server_from_starting(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await filled(path)
    connection = sqlite3.connect(path)
    rows = [[[99, "of a later version"], event(201)], [[1, None], event(202)], "no records", [event(203)]]
    connection.executemany("INSERT INTO recent (records) VALUES (?)", [(msgspec.msgpack.encode(row),) for row in rows])
    connection.commit()
    connection.close()
    store = SqliteStore(path)
    await store.open()
    assert (await seqs(store))[-3:] == [201, 202, 203]
    assert [said.partition(" error")[0] for said in own(caplog)] == ["a record cannot be read"] * 3
    await store.close()


# --- the thread -----------------------------------------------------------------------------------


async def test_a_thousand_writes_are_one_commit_and_one_wake_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, at_gate = threading.Event(), threading.Event()

    class Gated(sqlite3.Connection):
        def execute(self, sql: str, *rest: Any) -> sqlite3.Cursor:
            if sql.startswith(COMMITS) and armed:
                at_gate.set()
                gate.wait()
            return super().execute(sql, *rest)

    armed: list[int] = []
    store = SqliteStore(path, factory=Gated)
    await store.open()
    loop = asyncio.get_running_loop()
    armed.append(1)
    store.write([SESSION])
    await loop.run_in_executor(None, at_gate.wait)  # the first commit is under way
    for seq in range(1, 2501):
        store.write([event(seq)])
    wake_ups: Counter[str] = Counter()
    call = loop.call_soon_threadsafe

    def counted(callback: Any, *args: Any, **options: Any) -> asyncio.Handle:
        wake_ups[getattr(callback, "__qualname__", "")] += 1
        return call(callback, *args, **options)

    monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
    gate.set()
    await store.flush()
    assert wake_ups["Writer.collect"] == 1 + 3
    assert store.statistics()["commits"] == 1 + 3
    assert store.statistics()["largest_batch"] == 1000
    monkeypatch.undo()
    await store.close()


async def test_closing_a_disk_that_hangs_has_a_limit(path: Path) -> None:
    gate = threading.Event()

    class Hanging(sqlite3.Connection):
        def execute(self, sql: str, *rest: Any) -> sqlite3.Cursor:
            if sql.startswith(COMMITS) and armed:
                gate.wait()
            return super().execute(sql, *rest)

    armed: list[int] = []
    store = SqliteStore(path, factory=Hanging, close_timeout=0.05)
    await store.open()
    armed.append(1)
    heard: list[StoreError | None] = []
    for seq in range(1, 6):
        store.when(store.write([event(seq)]), heard.append)
    reading = asyncio.ensure_future(store.sessions())
    await asyncio.sleep(0)
    await asyncio.gather(store.close(), store.close())
    assert [str(error) for error in heard] == [f"closing {path} took longer than 0.05 s"] * 5
    assert store.failure is heard[0]
    with pytest.raises(StoreError, match="took longer"):
        await reading
    gate.set()
    armed.clear()
    other = SqliteStore(path)
    await other.open()  # the thread let go as soon as it could; what it says is not heard any more
    await other.close()
    assert store.statistics()["queued_bytes"] == 0
    late = asyncio.get_running_loop().create_future()
    store.when(1, late.set_result)
    assert isinstance(await late, StoreError)
    await store.open()
    await store.close()


async def test_a_thread_that_ends_by_a_bug_leaves_nobody_waiting(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqliteStore(path)
    await store.open()

    def bug(*_: Any) -> None:
        raise LookupError("a bug")

    monkeypatch.setattr("tailrace.stores.sqlite_writer.Writer._drain", bug)
    store.write([SESSION])
    with pytest.raises(StoreError, match="a bug"):
        await store.flush()
    assert "LookupError: a bug" in str(store.failure)
    with pytest.raises(StoreError, match="not open"):
        store.write([SESSION])
    await store.close()
    monkeypatch.undo()
    await store.open(wait=0)
    assert store.failure is None
    await store.close()


def test_a_loop_that_is_closed_is_not_called_back_and_nothing_is_lost(
    path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    gc.collect()  # what earlier tests have left is told of now, not below
    capfd.readouterr()
    caplog.clear()
    gate = threading.Event()

    class Gated(sqlite3.Connection):
        def execute(self, sql: str, *rest: Any) -> sqlite3.Cursor:
            if sql.startswith(COMMITS) and armed:
                gate.wait()
            return super().execute(sql, *rest)

    armed: list[int] = []
    tickets: list[int] = []
    store = SqliteStore(path, factory=Gated)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(store.open())
    armed.append(1)
    loop.call_soon(lambda: tickets.append(store.write([SESSION, event(1)])))
    left_behind = loop.create_task(store.sessions())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    gate.set()

    async def close() -> None:
        await store.close()
        heard = asyncio.get_running_loop().create_future()
        store.when(tickets[0], heard.set_result)
        assert await heard is None
        await store.open()
        assert await seqs(store) == [1]
        await store.close()

    asyncio.run(close())
    left_behind.get_coro().close()  # type: ignore[union-attr]
    left_behind._log_destroy_pending = False  # type: ignore[attr-defined]
    del left_behind
    gc.collect()
    assert capfd.readouterr().err == ""
    assert caplog.messages == []


async def test_nothing_is_lost_or_out_of_order_when_the_threads_change_at_every_turn(path: Path) -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        store = SqliteStore(path, batch_writes=7)
        await store.open()
        heard: list[int] = []

        async def client(number: int) -> None:
            for turn in range(40):
                records = [AppendEvent(f"s{number}", 1, turn + 1, 0, b"x"), PutCall(f"s{number}", turn, 1, b"")]
                ticket = store.write([PutSession(f"s{number}", b"%d" % number, "", b"", 1.0), *records])
                done = asyncio.get_running_loop().create_future()
                store.when(ticket, lambda error, ticket=ticket: heard.append(ticket))
                store.when(ticket, done.set_result)
                if turn % 3 == 0:
                    assert await done is None
                    assert await seqs(store, f"s{number}") == list(range(1, turn + 2))
                store.write([EndCall(f"s{number}", turn)])

        await asyncio.gather(*(client(number) for number in range(10)))
        await store.close()
        assert heard == sorted(heard)
        assert len(heard) == 400
        assert store.statistics()["queued_bytes"] == 0
        await store.open()
        assert await store.unfinished() == []
        await store.close()
    finally:
        sys.setswitchinterval(before)


# --- kill -9 --------------------------------------------------------------------------------------

KILLED = """
    await store.open()
    found = await store.load("s1")
    seq = found.last.get(1, 0) if found else 0
    store.write([SESSION])
    room = asyncio.Semaphore(50)
    print("ready", flush=True)
    while True:
        await room.acquire()
        seq += 2
        def heard(error, seq=seq):
            room.release()
            assert error is None
            os.write(1, b"%d\\n" % seq)
        records = [event(seq - 1), event(seq), PutCall("s1", seq, 1, b"call"), PutEntry("once", f"{seq:09}", b"", 4e9)]
        if seq > 40:
            records += [EndCall("s1", seq - 40), TrimStream("s1", 1, 0, seq - 40)]
            records += [DropEntry("once", f"{seq - 40:09}")]
        store.when(store.write(records), heard)
"""


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_twelve_kills_lose_nothing_that_was_promised_and_halve_no_write(path: Path) -> None:
    before = 0
    for round_number in range(12):
        process = child(path, KILLED)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        said = [int(process.stdout.readline()) for _ in range(30 + 37 * round_number)]
        process.kill()
        rest = process.stdout.read()
        process.communicate(timeout=60)
        said += [int(line) for line in rest.splitlines(keepends=True) if line.endswith("\n")]
        assert said == list(range(before + 2, said[-1] + 2, 2)), "tickets are told in order, none left out"
        store = SqliteStore(path)
        await store.open(wait=30)
        found = await store.load("s1")
        assert found is not None
        last = found.last[1]
        assert last >= said[-1], "what was promised is there"
        assert last % 2 == 0, "no write is half there"
        first = max(1, last - 39)
        assert found.events == [StoredEvent(1, seq, 0, b"") for seq in range(first, last + 1)]
        assert [call.call for call in found.calls] == list(range(first + 1, last + 1, 2))
        assert [int(entry.key) for entry in await store.entries("once")] == [call.call for call in found.calls]
        await store.close()
        before = last
