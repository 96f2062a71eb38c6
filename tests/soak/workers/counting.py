"""What the files of a run over many workers say; asks no server and no client."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.soak.recount import Counts, count_calls, lines

_PUBLISHED = re.compile(r"published topic=soak key=b?'(?P<key>[^']+)' message_id=(?P<id>\S+)")
_RECORD = re.compile(r"^\S+Z (?P<level>WARNING|ERROR|CRITICAL) (?P<what>.*)")
_NUMBERS = re.compile(r"valkey://\S+|[0-9a-f]{6,}|\d+(\.\d+)?|[0-9a-z]{6}~\S+|(?<=member=)\S+|(?<=partition=)\S+")
_EXPECTED = (  # what is told, at the level of an error, of a worker that slept and of a Valkey that is away
    "another server has taken over",
    "cannot be reached",
)


@dataclass
class CrowdCounts(Counts):
    """Of many workers; what is different is said here.

    Attributes:
        refused: Promised calls that were answered with an error, other than that nobody knows.
        unheard: Sessions whose worker was killed between storing and greeting them; no client has heard of them.
        published, again: Messages that were published, and the times that one was published once more (at least once).
        spawned, dropped: Detached work, and what of it a kill took along.
        said: What workers logged at WARNING and above, by its words.
    """

    refused: int = 0
    unheard: int = 0
    published: int = 0
    again: int = 0
    spawned: int = 0
    dropped: int = 0
    said: Counter[str] = field(default_factory=Counter[str])

    def faults(self) -> list[str]:
        return super().faults() + ([f"refused {self.refused}"] if self.refused else [])


def count(folder: Path) -> CrowdCounts:
    """What the files say."""
    counts = CrowdCounts()
    written = list(lines(folder / "diary.jsonl"))
    lives = {path.stem: list(lines(path)) for path in sorted(folder.glob("life-*.jsonl"))}
    log = (folder / "life.log").read_text("utf-8", "replace")
    count_calls(counts, written, lives)
    counts.lives = len(lives)
    _count_hooks(counts, written, lives)
    _count_refused(counts, written)
    _count_spawned(counts, lives)
    _count_published(counts, written, lives, log)
    _count_log(counts, log)
    return counts


def _fault(counts: CrowdCounts, column: str, what: str) -> None:
    setattr(counts, column, getattr(counts, column) + 1)
    if len(counts.notes) < 40:
        counts.notes.append(f"{column}: {what}")


def _count_hooks(counts: CrowdCounts, written: list[list[Any]], lives: dict[str, list[list[Any]]]) -> None:
    """A greeting and a farewell for each ownership; a session is registered once, whoever has it later. One that was
    stored, and whose worker was killed before it greeted it, is restored only: no client has ever heard of it."""
    registered = Counter[str]()
    for name, life in lives.items():
        living: set[str] = set()
        for what, *fields in life:
            if what in ("register", "restore"):
                counts.opened += 1
                registered[fields[0]] += what == "register"
                if fields[0] in living:
                    _fault(counts, "unpaired", f"{name} greeted {fields[0]} twice")
                living.add(fields[0])
            elif what == "unregister":
                counts.closed += 1
                if fields[0] not in living:
                    _fault(counts, "unpaired", f"{name} bade farewell to {fields[0]} twice")
                living.discard(fields[0])
        if _in_order(life):
            for session in living:
                _fault(counts, "unpaired", f"{name} ended without a farewell to {session}")
        else:
            counts.alive += len(living)
    known = {fields[2].rpartition("session_id=")[2] for fields in written if fields[0] == "sent"}
    for session, times in registered.items():
        if times == 0 and session not in known:
            counts.unheard += 1
        elif times != 1:
            _fault(counts, "unpaired", f"{session} was registered {times} times")


def _in_order(life: list[list[Any]]) -> bool:
    return any(what == "finish" for what, *_ in life)


def _count_refused(counts: CrowdCounts, written: list[list[Any]]) -> None:
    """Whoever leaves in the middle of a call may be told that it was cancelled."""
    session_of = {fields[1]: fields[2] for fields in written if fields[0] == "sent"}
    left = {fields[1] for fields in written if fields[0] in ("left", "given up")}
    for what, *fields in written:
        if what == "delivered" and fields[1] == "error" and session_of[fields[0]] not in left:
            _fault(counts, "refused", f"{fields[0]} of {session_of[fields[0]]} was answered with an error")


def _count_spawned(counts: CrowdCounts, lives: dict[str, list[list[Any]]]) -> None:
    """Detached work ends, in a process that ends in order."""
    for name, life in lives.items():
        begun = Counter(fields[0] for what, *fields in life if what == "spawned")
        ended = Counter(fields[0] for what, *fields in life if what == "mailed")
        counts.spawned += begun.total()
        counts.dropped += (begun - ended).total()
        if _in_order(life) and begun != ended:
            _fault(counts, "lost", f"{name} ended in order, and dropped {sorted(begun - ended)}")


def _count_published(
    counts: CrowdCounts, written: list[list[Any]], lives: dict[str, list[list[Any]]], log: str
) -> None:
    """What succeeded is published under one id, what did not run is not."""
    ids: dict[str, set[str]] = defaultdict(set)
    for found in _PUBLISHED.finditer(log):
        counts.published += 1
        counts.again += found["id"] in ids[found["key"]]
        ids[found["key"]].add(found["id"])
    begun = {fields[0] for life in lives.values() for what, *fields in life if what == "start"}
    succeeded = {fields[1] for fields in written if fields[0] == "delivered" and fields[2] == "ok"}
    for key in succeeded:
        if key.startswith("o") and key not in ids:
            _fault(counts, "lost", f"{key} was answered, and what it published is not there")
    for key, messages in ids.items():
        if len(messages) > 1 or key not in begun:
            _fault(counts, "doubled", f"{key} was published under {sorted(messages)}")


def _count_log(counts: CrowdCounts, log: str) -> None:
    """What was logged in earnest, without its numbers; an error that no fault of ours explains is a fault."""
    for line in log.splitlines():
        if found := _RECORD.match(line):
            counts.said[f"{found['level']} {_NUMBERS.sub('#', found['what'])}"[:170]] += 1
            if found["level"] != "WARNING" and not any(known in line for known in _EXPECTED):
                _fault(counts, "unclean", line[:300])
        elif line.startswith(("Traceback", "Exception ignored", "Task exception")):
            _fault(counts, "unclean", line[:300])
