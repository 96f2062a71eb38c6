"""A tenth of `make soak`, and that its counting sees what it is there to see."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.soak.__main__ import PROOFS, new_seed, prove, table
from tests.soak.launcher import ROOT
from tests.soak.recount import Counts, recount
from tests.soak.workers.__main__ import failures
from tests.soak.workers.__main__ import table as table_of_workers
from tests.soak.workers.rounds import prove as prove_workers

SOME_FAULTS = [
    "kill",
    "valkey",
    "storm",
]  # of those that `python -m tests.soak.workers` makes: none lasts for near a lease


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", PROOFS)
def test_a_tenth_of_the_long_proof_holds(name: str) -> None:
    rounds = PROOFS[name][1] // 10
    counts = prove(name, rounds, lanes=4)
    assert not counts.faults(), table({name: counts})
    assert counts.rounds == rounds
    assert min(counts.accepted, counts.executed, counts.delivered, counts.opened, counts.closed) > rounds / 5
    assert counts.interrupted or name != "kills", "no call was in flight at any kill: this proves nothing"


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_many_workers_lose_nothing_in_a_short_run_of_their_proof(tmp_path: Path) -> None:
    counts, crowd = await prove_workers(tmp_path, 2, SOME_FAULTS, seed=new_seed(), size=60)
    shown = "\n".join([*table_of_workers(counts, crowd), *counts.notes])
    print(shown)  # how long what took is for the long proof to judge: here others work beside it
    assert not counts.faults() + failures(crowd), shown
    assert counts.accepted == counts.delivered + counts.withdrawn > 200
    assert sorted(crowd.failovers) == sorted(SOME_FAULTS)
    assert all(one.fault == "kill" and one.over for one in crowd.takeovers.all)
    assert len(crowd.takeovers.all) + crowd.takeovers.unknown == 1
    assert min(crowd.seen[what] for what in ("cuts", "resumes", "polls", "sessions ended")) > 0


# --- each column can be other than what it should be ----------------------------------------------

SID, LIFE = "session-a", "life-1"
GREETED = ["greeted", SID, LIFE]
FINISHED = ["finish", {"tasks": [], "threads": [], "descriptors": []}]


def counted(folder: Path, diary: list[list[Any]], *lives: list[list[Any]]) -> Counts:
    """What is counted in files like these."""
    for name, lines in (("diary", diary), *((f"life-{n}", life) for n, life in enumerate(lives, 1))):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '["torn')
    return recount(folder)


def one_call(*, key: str = "k", answers: tuple[tuple[str, str], ...] = (("ok", "1"),)) -> list[list[Any]]:
    return [["sent", key, SID, False], ["accepted", key], *(["delivered", key, *answer] for answer in answers)]


HOOKS = [["register", SID], ["start", "k"], ["end", "k"], ["unregister", SID], FINISHED]
TERM, KILL = ["ended", LIFE, "term", 0], ["ended", LIFE, "kill", None]


def test_a_run_without_a_fault_has_none(tmp_path: Path) -> None:
    counts = counted(tmp_path, [GREETED, *one_call(), ["events", "k", 0, 0], ["round"], TERM], HOOKS)
    assert counts.faults() == []
    assert (counts.rounds, counts.lives, counts.accepted, counts.executed, counts.delivered) == (1, 1, 1, 1, 1)
    assert (counts.opened, counts.closed, counts.alive) == (1, 1, 0)


@pytest.mark.parametrize(
    ("column", "diary", "life"),
    [
        ("lost", [*one_call(answers=()), TERM], HOOKS),
        ("lost", [*one_call(), ["events", "k", 1, 0], TERM], HOOKS),
        ("lost", [*one_call(answers=(("unknown", "1"),)), TERM], HOOKS),
        ("doubled", [*one_call(), TERM], [*HOOKS[:2], ["start", "k"], *HOOKS[2:]]),
        ("doubled", [*one_call(answers=(("ok", "1"), ("ok", "2"))), TERM], HOOKS),
        ("doubled", [*one_call(), ["events", "k", 0, 1], TERM], HOOKS),
        ("doubled", [*one_call(), TERM], [["register", SID], ["unregister", SID], FINISHED]),
        ("unpaired", [*one_call(), TERM], [HOOKS[0], *HOOKS]),
        ("unpaired", [*one_call(), TERM], [*HOOKS[:4], HOOKS[3], FINISHED]),
        ("unpaired", [*one_call(), TERM], [*HOOKS[:3], FINISHED]),
        ("unpaired", [*one_call(), TERM], [["unregister", "session-b"], *HOOKS]),
        ("unpaired", [["greeted", "another", LIFE], *one_call(), TERM], HOOKS),
        ("unpaired", [*one_call(), TERM], [["restore", SID], *HOOKS[1:]]),
        ("leaked", [*one_call(), TERM], [*HOOKS[:4], ["finish", {**FINISHED[1], "threads": ["worker"]}]]),
        ("unclean", [*one_call(), TERM], HOOKS[:4]),
        ("unclean", [*one_call(), ["ended", LIFE, "term", 1]], HOOKS),
        ("unclean", [*one_call(), ["ended", LIFE, "term", None]], HOOKS),
        ("unclean", one_call(), HOOKS),
    ],
)
def test_a_fault_is_counted(column: str, diary: list[list[Any]], life: list[list[Any]], tmp_path: Path) -> None:
    counts = counted(tmp_path, [GREETED, *diary], life)
    assert getattr(counts, column) == 1, (counts, counts.notes)
    assert [fault.split()[0] for fault in counts.faults() if "in flight" not in fault] == [column]
    assert counts.notes


def test_what_was_in_flight_at_a_kill_may_be_interrupted(tmp_path: Path) -> None:
    diary = [GREETED, *one_call(answers=()), ["sent", "unpromised", SID, False], KILL, *one_call()[2:]]
    diary[-1] = ["delivered", "k", "unknown", "1"]
    counts = counted(tmp_path, [*diary, ["ended", "life-2", "term", 0]], HOOKS[:2],
                     [["restore", SID], ["unregister", SID], FINISHED])  # fmt: skip
    assert counts.faults() == []
    assert (counts.rounds, counts.in_flight, counts.interrupted, counts.alive) == (1, 2, 1, 1)


def test_what_a_client_gave_up_is_not_owed(tmp_path: Path) -> None:
    counts = counted(tmp_path, [GREETED, *one_call(answers=()), ["given up", SID], TERM], HOOKS)
    assert counts.faults() == []
    assert (counts.accepted, counts.delivered, counts.withdrawn) == (1, 0, 1)
    kept = [GREETED, *one_call(answers=()), KILL, ["given up", SID], ["ended", "life-2", "term", 0]]
    assert counted(tmp_path, kept, HOOKS[:2], [["restore", SID], HOOKS[3], FINISHED]).lost == 1, "a life too late"


def test_a_read_only_tool_may_begin_twice(tmp_path: Path) -> None:
    diary = [["sent", "k", SID, True], ["accepted", "k"], ["delivered", "k", "ok", "1"], TERM]
    twice = [HOOKS[0], HOOKS[1], *HOOKS[1:]]
    assert counted(tmp_path, diary, twice).faults() == []
    assert counted(tmp_path, diary, [HOOKS[0], HOOKS[1], *twice[1:]]).doubled


def test_an_error_in_a_servers_log_is_counted(tmp_path: Path) -> None:
    (tmp_path / "life-1.log").write_text("2026-11-21T00:00:00Z INFO a b\n2026-11-21T00:00:00Z ERROR tailrace x\n")
    assert counted(tmp_path, [GREETED, *one_call(), TERM], HOOKS).unclean == 1


@pytest.mark.e2e
@pytest.mark.timeout(240)
def test_the_command_prints_what_it_counted() -> None:
    command = [sys.executable, "-m", "tests.soak", "kills", "--rounds", "4", "--lanes", "2", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert said["kills"]["rounds"] == 4
    assert said["seed"]
