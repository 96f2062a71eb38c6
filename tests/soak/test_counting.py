"""That the counting of the soak of workers sees what it is there to see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.soak.workers.counting import CrowdCounts, count

SID = "k3x9qa~session"
FINISHED = ["finish", {}]
ORDERED = [["sent", "o1", SID, False], ["accepted", "o1"], ["delivered", "o1", "ok", "1"]]
LIFE = [["register", SID], ["start", "o1"], ["spawned", "o1"], ["mailed", "o1"], ["unregister", SID], FINISHED]
PUBLISHED = "2026-11-22T00:00:00.000Z INFO tailrace.publish published topic=soak key=b'o1' message_id={} value=o1"


def counted(folder: Path, diary: list[list[Any]], life: list[list[Any]], *log: str) -> CrowdCounts:
    """What is counted in files like these."""
    for name, lines in (("diary", diary), ("life-1", life)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '["torn')
    (folder / "life.log").write_text("".join(f"{line}\n" for line in log))
    return count(folder)


def test_a_run_without_a_fault_has_none(tmp_path: Path) -> None:
    twice = [PUBLISHED.format("m")] * 2
    counts = counted(tmp_path, ORDERED, LIFE, *twice, "2026-11-22T00:00:00.000Z WARNING tailrace.x a member=7 is gone")
    assert counts.faults() == []
    assert (counts.accepted, counts.delivered, counts.opened, counts.closed, counts.spawned) == (1, 1, 1, 1, 1)
    assert (counts.published, counts.again, counts.dropped) == (2, 1, 0)
    assert list(counts.said.values()) == [1]


def test_what_a_kill_takes_along_is_no_fault(tmp_path: Path) -> None:
    restored = [["restore", "k3x9qa~unheard"], *LIFE[:3]]
    counts = counted(tmp_path, ORDERED, restored, PUBLISHED.format("m"))
    assert counts.faults() == []
    assert (counts.alive, counts.dropped, counts.unheard) == (2, 1, 1)


@pytest.mark.parametrize(
    ("column", "diary", "life", "log"),
    [
        ("lost", ORDERED[:2], LIFE, [PUBLISHED.format("m")]),
        ("lost", ORDERED, LIFE, []),
        ("lost", ORDERED, [*LIFE[:3], *LIFE[4:]], [PUBLISHED.format("m")]),
        ("doubled", ORDERED, [*LIFE[:2], *LIFE[1:]], [PUBLISHED.format("m")]),
        ("doubled", ORDERED, LIFE, [PUBLISHED.format("m"), PUBLISHED.format("n")]),
        ("refused", [*ORDERED[:2], ["delivered", "o1", "error", "1"]], LIFE, [PUBLISHED.format("m")]),
        ("unpaired", ORDERED, [LIFE[0], ["restore", SID], *LIFE[1:]], [PUBLISHED.format("m")]),
        ("unpaired", ORDERED, [*LIFE[:5], *LIFE[4:]], [PUBLISHED.format("m")]),
        ("unpaired", ORDERED, [*LIFE[:4], FINISHED], [PUBLISHED.format("m")]),
        ("unpaired", ORDERED, [["restore", SID], *LIFE[1:]], [PUBLISHED.format("m")]),
        ("unclean", ORDERED, LIFE, [PUBLISHED.format("m"), "2026-11-22T00:00:00.000Z ERROR tailrace.x it broke"]),
        ("unclean", ORDERED, LIFE, [PUBLISHED.format("m"), "Traceback (most recent call last):"]),
    ],
)
def test_a_fault_is_counted(
    column: str, diary: list[list[Any]], life: list[list[Any]], log: list[str], tmp_path: Path
) -> None:
    counts = counted(tmp_path, diary, life, *log)
    assert getattr(counts, column) == 1, (counts, counts.notes)
    assert [fault.split()[0] for fault in counts.faults()] == [column]
    assert counts.notes


def test_an_error_that_a_fault_on_purpose_explains_is_told_and_no_fault(tmp_path: Path) -> None:
    said = (
        "2026-11-22T00:00:00.000Z ERROR tailrace.cluster a partition was lost partition=k3x9qa "
        "error=valkey://127.0.0.1:1/0#k3x9qa: another server has taken over this service's store"
    )
    counts = counted(tmp_path, ORDERED, LIFE, PUBLISHED.format("m"), said)
    assert counts.faults() == []
    assert counts.said.total() == 1


def test_whoever_leaves_in_the_middle_of_a_call_may_be_told_that_it_was_cancelled(tmp_path: Path) -> None:
    left = [["sent", "c1", SID, False], ["left", SID], ["delivered", "c1", "error", "1"]]
    life = [["register", SID], ["unregister", SID], FINISHED]
    assert counted(tmp_path, left, life).faults() == []
    assert counted(tmp_path, [left[0], left[2]], life).refused == 1
