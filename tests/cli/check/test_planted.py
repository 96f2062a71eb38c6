"""Each trial finds the fault that was planted for it, and passes the same server without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tailrace.cli.check.model import Verdict
from tailrace.cli.check.runner import known
from tailrace.cli.check.trials import TRIALS
from tests.cli.check.support import GENEROUS, planted, said, tried

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.may_block,  # a program alone on its loop: it reads the witness file and /proc where it stands
]

HTTP = ("streamable", "sse", "modern")
# Which trials must fail over which ways, for each fault of planted.py; an empty fault: nothing is durable there.
FAULTS: dict[str, dict[str, tuple[str, ...]]] = {
    "": {"kill-session": ("streamable",), "kill-answers": ("streamable", "sse")},
    "disconnect-cancels": {"vanish": ("streamable", "sse")},
    "no-ids": {"kept": ("streamable", "sse")},
    "forgets-answers": {"kept": ("streamable", "sse")},
    "gap": {"resume": ("streamable", "sse"), "resume-loop": ("streamable", "sse")},
    "replays-one": {"resume": ("streamable", "sse"), "resume-loop": ("streamable", "sse")},
    "silent-delete": {"delete": ("streamable",)},
    "never-cancels": {"disconnect-cancels": ("modern",)},
    "forgets-keys": {"retry-keyed": HTTP},
    "dedupe": {"retry-plain": (*HTTP, "stdio")},
    "answers-by-id": {"duplicate-ids": ("streamable", "modern")},
    "second-wins": {"duplicate-id": ("sse", "stdio")},
    "newest-call": {"routing": (*HTTP, "stdio")},
    "any-session": {"foreign-session": ("streamable",)},
    "any-event": {"foreign-event": ("streamable",)},
    "cancels-by-id": {"foreign-cancel": HTTP},
    "lossy": {"burst": (*HTTP, "stdio")},
    "one-lock": {"slow-reader": HTTP},
    "unbounded": {"slow-reader": HTTP},
    "session-lock": {"head-of-line": ("streamable",)},
    "leaks-sockets": {"storm": HTTP},
    "breaks-on-bad-json": {"malformed": HTTP},
    "hangs-on-two-lengths": {"malformed": HTTP},
    "chatty": {"malformed-lines": ("stdio",)},
    "any-origin": {"origin": HTTP},
    "fat-sessions": {"idle-memory": ("streamable", "sse")},
    "ignores-eof": {"stdin-eof": ("stdio",)},
    "ignores-sigterm": {"sigterm-idle": ("streamable", "modern", "stdio")},
    "waits-for-listeners": {"sigterm-listening": HTTP},
    "exits-at-once": {"sigterm-busy": (*HTTP, "stdio")},
    "waits-for-readers": {"sigterm-unread": (*HTTP, "stdio")},
}


def cases() -> Iterator[object]:
    """One server for each fault and transport, with all the trials that must fail on it."""
    for fault, trials in FAULTS.items():
        for http in (True, False):
            names = [f"{trial}/{way}" for trial, ways in trials.items() for way in ways if (way == "stdio") != http]
            if names:
                yield pytest.param(fault, names, http, id=f"{fault or 'forgetful'}{'' if http else '-stdio'}")


@pytest.mark.parametrize(("fault", "trials", "http"), list(cases()))
async def test_a_planted_fault_is_found(fault: str, trials: list[str], http: bool, tmp_path: Path) -> None:
    report = await tried(planted(fault, http=http), tmp_path, *trials, http=http)
    assert [result.name for result in report.results if result.verdict is Verdict.FAIL] == [
        result.name for result in report.results
    ], said(report, Verdict.FAIL)
    assert {result.name for result in report.results} == set(trials)
    assert not report.passed


@pytest.mark.parametrize("way", [*HTTP, "stdio"])
async def test_the_same_server_without_a_fault_passes(way: str, tmp_path: Path) -> None:
    names = [f"{trial.name}/{way}" for trial in TRIALS if way in trial.ways and not trial.name.startswith("kill-")]
    report = await tried(planted(http=way != "stdio"), tmp_path, *names, http=way != "stdio", limits=GENEROUS)
    assert said(report, Verdict.PASS) == {}
    assert len(report.results) == len(names)


def test_every_trial_has_a_fault_planted_for_each_of_its_ways() -> None:
    planted_for = {(trial, way) for trials in FAULTS.values() for trial, ways in trials.items() for way in ways}
    assert planted_for == {(trial.name, way.value) for trial in TRIALS for way in trial.ways}


async def test_without_event_ids_a_resume_is_not_asked_for(tmp_path: Path) -> None:
    report = await tried(planted("no-ids"), tmp_path, "resume")
    assert {one.verdict for one in report.results} == {Verdict.NOT_APPLICABLE}
    assert all("no ids" in one.saw for one in report.results)


@pytest.mark.parametrize("pattern", ["resume", "resume/sse", "sigterm-*", "*/stdio"])
def test_trials_are_chosen_by_pattern(pattern: str) -> None:
    assert known(pattern)
    assert not known(pattern + "x")
