"""A process that used an HTTP client ends with its own exit code, not with SIGABRT.

pyqwest reports to the loop from threads of its own. One that still does when the interpreter begins to end is
terminated as it takes the GIL (CPython before 3.14), which its Rust frames turn into an abort of the whole process:
seen in one exit of eleven on a busy machine. Nothing of pyqwest's can be waited for, so before the interpreter begins
to end, its threads are watched until none of them runs.
"""

from __future__ import annotations

import atexit
import sys
import time
from pathlib import Path

__all__ = ["settle_at_exit"]

_LIMIT = 2.0  # seconds, at most
_STEP = 0.002  # seconds in which the GIL is free for whoever waits for it
_CHECKS = 5  # in a row in which nobody ran
_BLIND = 0.05  # seconds, where the system does not tell what threads do
_TASKS = Path("/proc/self/task")

_registered = False


def settle_at_exit() -> None:
    """Have the end of this process wait for pyqwest's threads to come to rest, for `_LIMIT` seconds at most."""
    global _registered
    if not _registered and sys.version_info < (3, 14):
        _registered = True
        atexit.register(_settle)


def _settle() -> None:
    if not _TASKS.is_dir():
        time.sleep(_BLIND)
        return
    until = time.monotonic() + _LIMIT
    checks = 0
    while checks < _CHECKS and time.monotonic() < until:
        time.sleep(_STEP)
        checks = 0 if _runs() else checks + 1


def _runs() -> bool:
    """Whether a thread of pyqwest's runtime runs or could; one that waits for nothing but work does not."""
    for task in _TASKS.iterdir():
        try:
            stat = (task / "stat").read_bytes()
        except OSError:  # it ended meanwhile
            continue
        name, _, rest = stat.partition(b"(")[2].rpartition(b")")
        if name.startswith(b"tokio") and rest.lstrip()[:1] in b"RD":
            return True
    return False
