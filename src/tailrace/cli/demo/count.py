"""The count: what was promised, done and delivered, from the two processes' own files and nothing else."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Count", "count"]


@dataclass(frozen=True, slots=True)
class Count:
    """What the files say.

    Attributes:
        accepted: Calls the client was promised an answer to.
        executed: Effects, as the tool noted them.
        delivered: Answers the client got.
        lost: Accepted, and never heard of again.
        doubled: Executed, or delivered, more than once.
        interrupted: Answered "the server was stopped; whether it took effect is unknown".
        contradictions: What cannot be: delivered though never executed, or never accepted.
    """

    accepted: int
    executed: int
    delivered: int
    lost: list[str]
    doubled: list[str]
    interrupted: int
    contradictions: list[str] = field(default_factory=list[str])

    @property
    def good(self) -> bool:
        """Nothing lost, nothing doubled, and the files agree."""
        return self.accepted > 0 and not (self.lost or self.doubled or self.contradictions)


def count(folder: Path) -> Count:
    """Read ``executed.log`` (the server's) and ``client.log`` (the client's) in `folder`."""
    executed = Counter(seat for word, seat in _lines(folder / "executed.log") if word == "executed")
    notes: dict[str, Counter[str]] = {"accepted": Counter(), "delivered": Counter(), "interrupted": Counter()}
    for word, seat in _lines(folder / "client.log"):
        notes.setdefault(word, Counter())[seat] += 1
    accepted, delivered, interrupted = notes["accepted"], notes["delivered"], notes["interrupted"]
    answered = delivered + interrupted
    contradictions = [f"{seat} was delivered but never executed" for seat in delivered if seat not in executed]
    contradictions += [f"{seat} was answered but never accepted" for seat in answered if seat not in accepted]
    contradictions += [f"{seat} was executed but never accepted" for seat in executed if seat not in accepted]
    return Count(
        accepted=len(accepted),
        executed=executed.total(),
        delivered=delivered.total(),
        lost=[seat for seat in accepted if seat not in answered],
        doubled=sorted({seat for counter in (executed, answered) for seat, times in counter.items() if times > 1}),
        interrupted=interrupted.total(),
        contradictions=contradictions,
    )


def _lines(path: Path) -> list[tuple[str, str]]:
    if not path.exists():
        return []
    words = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    return [(pair[0], pair[1]) for pair in words if len(pair) == 2]
