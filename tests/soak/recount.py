"""Counts what is in the files of a run, whoever wrote them; asks no server and no client."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Counts:
    """The table's row of one proof.

    Attributes:
        rounds: Cuts survived, kills, or storms.
        lives: Process lives.
        accepted: Calls that were promised to a client.
        executed: Times a tool began.
        delivered: Promised calls whose answer reached the client, interrupted ones among them.
        withdrawn: Promised calls without an answer whose session was ended in the same process life, as was asked for.
        lost: Promised calls without an answer, or interrupted without a kill, and notifications that never came.
        doubled: Run-once tools that began twice, answers that changed, events that came twice.
        interrupted: Calls answered with "nobody knows what became of it".
        in_flight: Calls that were sent and unanswered when a server was killed.
        opened: Sessions greeted by a hook, over all process lives.
        closed: Sessions bidden farewell.
        alive: Sessions that were open at the kills, whose farewell nobody could bid.
        unpaired: Hooks out of order, missing or doubled in a process life.
        leaked: Tasks, threads and descriptors that were left at the end of a process life.
        unclean: Process lives that did not end with exit code 0 after SIGTERM, or logged an ERROR.
    """

    rounds: int = 0
    lives: int = 0
    accepted: int = 0
    executed: int = 0
    delivered: int = 0
    withdrawn: int = 0
    lost: int = 0
    doubled: int = 0
    interrupted: int = 0
    in_flight: int = 0
    opened: int = 0
    closed: int = 0
    alive: int = 0
    unpaired: int = 0
    leaked: int = 0
    unclean: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list[str])  # the first few faults, for people

    def add(self, other: Counts) -> None:
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)

    def faults(self) -> list[str]:
        """What must not be, and is."""
        found = [f"{name} {value}" for name in ("lost", "doubled", "unpaired", "leaked", "unclean")
                 if (value := getattr(self, name))]  # fmt: skip
        if self.interrupted > self.in_flight:
            found.append(f"interrupted {self.interrupted} of {self.in_flight} in flight")
        return found


def recount(folder: Path) -> Counts:
    """Count one lane's folder."""
    counts = Counts()
    written = list(lines(folder / "diary.jsonl"))
    lives = {path.stem: list(lines(path)) for path in sorted(folder.glob("life-*.jsonl"))}
    count_calls(counts, written, lives)
    _count_hooks(counts, written, lives)
    for path in sorted(folder.glob("life-*.log")):
        bad = [line for line in path.read_text("utf-8", "replace").splitlines() if _is_fault(line)]
        if bad:
            counts.unclean += 1
            _tell(counts, f"unclean: {path.stem} logged {bad[0][:300]}")
    return counts


def _is_fault(line: str) -> bool:
    head = line.split(" ", 3)[:3]
    return "ERROR" in head or "CRITICAL" in head or line.startswith(("Traceback", "Exception ignored"))


def lines(path: Path) -> Iterator[list[Any]]:
    """Whole lines only: a kill may fall into a write."""
    for line in path.read_bytes().split(b"\n")[:-1] if path.exists() else ():
        yield json.loads(line)


def _tell(counts: Counts, note: str) -> None:
    if len(counts.notes) < 20:
        counts.notes.append(note)


def count_calls(counts: Counts, written: list[list[Any]], lives: dict[str, list[list[Any]]]) -> None:
    """Set what was written of calls against what the tools of all process lives wrote."""
    started = Counter(fields[1] for life in lives.values() for fields in life if fields[0] == "start")
    counts.executed = sum(started.values())
    session_of: dict[str, str] = {}
    rerun: set[str] = set()
    accepted: set[str] = set()
    recent: dict[str, set[str]] = defaultdict(set)  # by session: sent in this process life
    excused: set[str] = set()
    open_calls: set[str] = set()  # sent in this process life, or still owed by one before
    in_flight: set[str] = set()
    answers: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for what, *fields in written:
        if what == "sent":
            session_of[fields[0]] = fields[1]
            open_calls.add(fields[0])
            recent[fields[1]].add(fields[0])
            if fields[2]:
                rerun.add(fields[0])
        elif what == "accepted":
            accepted.add(fields[0])
        elif what == "delivered":
            answers[fields[0]].add((fields[1], fields[2]))
        elif what == "events":
            key, missing, doubled = fields
            counts.lost += missing
            counts.doubled += doubled
            if missing or doubled:
                _tell(counts, f"events of {key}: {missing} missing, {doubled} doubled")
        elif what == "given up":
            excused |= recent[fields[0]]  # what an earlier life owed had to be there before
        elif what == "left":
            excused |= {key for key, session in session_of.items() if session == fields[0]}
        elif what == "round":
            counts.rounds += 1
        elif what == "ended":
            if fields[1] == "kill":
                counts.rounds += 1
                in_flight |= {key for key in open_calls if key not in answers}
            recent.clear()
            open_calls = {key for key in open_calls if key in accepted and key not in answers}
    counts.accepted, counts.in_flight = len(accepted), len(in_flight)
    for key in accepted:
        if key in answers:
            counts.delivered += 1
        elif key in excused:
            counts.withdrawn += 1
        else:
            counts.lost += 1
            _tell(counts, f"lost: {key} of session {session_of[key]} was accepted and not answered")
    for key, found in answers.items():
        if any(outcome == "unknown" for outcome, _ in found):
            counts.interrupted += 1
            if key not in in_flight:
                counts.lost += 1
                _tell(counts, f"lost: {key} was interrupted, and was in flight at no kill")
        if len(found) > 1:
            counts.doubled += 1
            _tell(counts, f"doubled: {key} has {len(found)} different answers: {sorted(found)}")
        if not started[key] and any(outcome == "ok" for outcome, _ in found):
            counts.doubled += 1
            _tell(counts, f"doubled: {key} was answered and never began")
    for key, times in started.items():
        if times > (2 if key in rerun else 1):
            counts.doubled += times - 1
            _tell(counts, f"doubled: {key} began {times} times")


def _count_hooks(counts: Counts, written: list[list[Any]], lives: dict[str, list[list[Any]]]) -> None:
    how = {fields[1]: (fields[2], fields[3]) for fields in written if fields[0] == "ended"}
    greeted: dict[str, set[str]] = defaultdict(set)
    for fields in written:
        if fields[0] == "greeted":
            greeted[fields[2]].add(fields[1])
    registered: set[str] = set()
    for name, life in sorted(lives.items(), key=lambda item: int(item[0].rpartition("-")[2])):
        counts.lives += 1
        begun: set[str] = set()
        ended: set[str] = set()
        finish: dict[str, list[str]] | None = None
        for what, *fields in life:
            if what in ("register", "restore"):
                counts.opened += 1
                if fields[0] in begun or (what == "restore") != (fields[0] in registered):
                    counts.unpaired += 1
                    _tell(counts, f"unpaired: {name} {what} {fields[0]} twice, or not the first")
                begun.add(fields[0])
                registered.add(fields[0])
            elif what == "unregister":
                counts.closed += 1
                if fields[0] in ended or fields[0] not in begun:
                    counts.unpaired += 1
                    _tell(counts, f"unpaired: {name} unregister {fields[0]} twice, or of none")
                ended.add(fields[0])
            elif what == "finish":
                finish = fields[0]
        for session in greeted[name] - begun:
            counts.unpaired += 1
            _tell(counts, f"unpaired: {name} served {session} without a greeting")
        way, code = how.get(name, ("nothing", None))
        if way == "kill":
            counts.alive += len(begun - ended)
        else:
            counts.unpaired += len(begun - ended)
            for session in sorted(begun - ended):
                _tell(counts, f"unpaired: {name} ended without a farewell to {session}")
            if code != 0 or finish is None:
                counts.unclean += 1
                _tell(counts, f"unclean: {name} ended by {way} with exit code {code}")
            left = [one for many in (finish or {}).values() for one in many]
            counts.leaked += len(left)
            if left:
                _tell(counts, f"leaked: {name} left {left[:5]}")
