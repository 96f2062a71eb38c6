"""What a client writes down while it works: what it asked, what it was promised, what it was given. One file a lane.

Lines are JSON lists that begin with what happened; see the methods. The counting is left to `recount`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Diary:
    """The file of one lane's clients; each line is written at once."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def close(self) -> None:
        os.close(self._file)

    def _note(self, *fields: Any) -> None:
        os.write(self._file, json.dumps(fields).encode() + b"\n")

    def sent(self, key: str, session: str, *, rerun: bool = False) -> None:
        """A call is on its way. `rerun`: its tool may run again after a crash."""
        self._note("sent", key, session, rerun)

    def accepted(self, key: str) -> None:
        """It was promised: a 202, or a stream with an id to resume from."""
        self._note("accepted", key)

    def delivered(self, key: str, message: Mapping[str, Any]) -> None:
        """An answer to it is here, for the first time or again."""
        self._note("delivered", key, _outcome(message), _digest(message))

    def events(self, key: str, numbers: list[int], expected: int, ids_doubled: int) -> None:
        """The numbered notifications of a call, in the order in which they came."""
        missing = len(set(range(expected)) - set(numbers))
        doubled = len(numbers) - len(set(numbers)) + ids_doubled + (numbers != sorted(numbers))
        self._note("events", key, missing, doubled)

    def greeted(self, session: str, life: str) -> None:
        """The session was used in this process life."""
        self._note("greeted", session, life)

    def given_up(self, session: str) -> None:
        """The client, or the service for it, ends the session: what is unanswered in it is not owed any more."""
        self._note("given up", session)

    def left(self, session: str) -> None:
        """The same, and nothing is owed any more of what an earlier process life had in it either."""
        self._note("left", session)

    def ended(self, life: str, how: str, code: int | None) -> None:
        """A process life is over. `how`: "kill", or "term" with the exit code (None: it did not end in time)."""
        self._note("ended", life, how, code)

    def round(self) -> None:
        """A call whose stream was cut, or a storm, is over (a kill is known by its process life)."""
        self._note("round")


def _outcome(message: Mapping[str, Any]) -> str:
    result = message.get("result")
    if result is None:
        return "error"
    if result.get("_meta", {}).get("io.tailrace/outcome") == "unknown":
        return "unknown"
    return "error" if result.get("isError") else "ok"


def _digest(message: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(message, sort_keys=True).encode()).hexdigest()[:16]
