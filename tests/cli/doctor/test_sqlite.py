"""`tailrace doctor --store sqlite:`: the file and its disk, looked at and left as they were."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
import stat
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tailrace.cli import main
from tailrace.cli.doctor.findings import Level
from tailrace.cli.doctor.sqlite import examine_sqlite
from tailrace.core.ports import PutEntry
from tailrace.stores.sqlite import SqliteStore

posix = pytest.mark.skipif(os.name == "nt", reason="modes and mounts as POSIX has them")


def doctor(*words: str) -> tuple[int, dict[str, dict[str, Any]]]:
    result = CliRunner().invoke(main, ["doctor", "--json", *words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, {finding["name"]: finding for finding in json.loads(result.stdout)["findings"]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store as a server leaves it."""

    async def fill() -> None:
        store = SqliteStore(tmp_path / "store.sqlite")
        await store.open()
        for number in range(200):
            store.write([PutEntry("once", f"k{number}", b"x" * 400, 4e9)])
        await store.flush()
        await store.close()

    asyncio.run(fill())
    return tmp_path / "store.sqlite"


def test_a_good_one_is_well_and_left_as_it_was(path: Path) -> None:
    before = path.read_bytes()
    _, found = doctor("--store", f"sqlite:{path}")
    assert found["contents"]["level"] == "ok"
    assert "sound" in found["contents"]["saw"]
    assert found["rights"]["level"] == "ok"
    assert "journal" not in found
    assert set(found) == {"disk", "space", "rights", "commit", "contents"}
    assert path.read_bytes() == before
    assert sorted(file.name for file in path.parent.iterdir()) == ["store.sqlite", "store.sqlite.lock"]


def test_what_a_killed_server_left_is_read_and_left_as_it_was(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA user_version = 1")
    connection.commit()
    left = {file.name: file.read_bytes() for file in path.parent.iterdir() if file.name != "store.sqlite.lock"}
    connection.close()
    for name, data in left.items():
        (path.parent / name).write_bytes(data)
    path.chmod(0o600)
    _, found = doctor("--store", f"sqlite:{path}")
    assert found["contents"]["level"] == "ok", found["contents"]
    now = {file.name: file.read_bytes() for file in path.parent.iterdir() if file.name != "store.sqlite.lock"}
    assert now == left


def test_a_damaged_file_is_a_risk(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 8192)
    code, found = doctor("--store", f"sqlite:{path}")
    assert code == 1
    assert found["contents"]["level"] == "risk"
    assert "damaged" in found["contents"]["saw"]


def test_another_programs_database_is_a_risk(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.execute("CREATE TABLE notes (text)")
    code, found = doctor("--store", f"sqlite:{tmp_path / 'other.db'}")
    assert code == 1
    assert "another program" in found["contents"]["saw"]


@posix
async def test_one_that_a_server_holds_is_not_read(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    found = {finding.name: finding for finding in await asyncio.to_thread(examine_sqlite, path)}
    await store.close()
    assert found["contents"].level is Level.OK
    assert "holds it" in found["contents"].saw


@posix
def test_a_file_that_others_can_read_is_named(path: Path) -> None:
    path.chmod(0o644)
    _, found = doctor("--store", f"sqlite:{path}")
    assert found["rights"]["level"] == "warn"
    assert "0644" in found["rights"]["saw"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644, "the doctor changes nothing"


@posix
def test_a_link_is_refused_as_a_server_would(path: Path) -> None:
    (path.parent / "link").symlink_to(path)
    code, found = doctor("--store", f"sqlite:{path.parent / 'link'}")
    assert code == 1
    assert found["rights"]["level"] == "risk"


@posix
@pytest.mark.parametrize(
    ("kind", "level"),
    [("ext4", Level.OK), ("nfs4", Level.RISK), ("tmpfs", Level.RISK), ("overlay", Level.WARN), ("cifs", Level.RISK)],
)
def test_the_file_system_decides_what_a_commit_is_worth(path: Path, tmp_path: Path, kind: str, level: Level) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"none / {kind} rw 0 0\n")
    found = {finding.name: finding for finding in examine_sqlite(path, mounts=mounts)}
    assert found["disk"].level is level


def test_a_folder_that_is_not_there_and_a_memory_store_keep_nothing(tmp_path: Path) -> None:
    assert doctor("--store", f"sqlite:{tmp_path / 'no' / 'store'}")[0] == 1
    assert doctor("--store", "memory")[0] == 1


def test_people_are_told_in_lines(path: Path) -> None:
    result = CliRunner().invoke(main, ["doctor", "--store", f"sqlite:{path}"])
    assert f"sqlite:{path}" in result.output
    assert " ok    contents" in result.output
    assert "0 risk" in result.output
