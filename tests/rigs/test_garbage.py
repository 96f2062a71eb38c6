"""What a test left is its own fault where that is asked for, and never that of a test which looks at the log."""

from __future__ import annotations

import pytest

LOSES = """
import asyncio

def test_a_failure_is_lost():
    loop = asyncio.new_event_loop()
    future = loop.create_future()
    future.set_exception(ValueError("lost"))
    loop.close()
    around = [future]
    around.append(around)

def test_nothing_is_lost():
    pass
"""
LOOKS = """
import gc

def test_nothing_is_logged(caplog):
    gc.collect()
    assert caplog.records == caplog.get_records("setup") == []
"""
FIRST = """
def test_it_is_read(caplog):
    assert not caplog.records
"""
OPTIONS = ("-p", "tests.rigs.garbage", "-p", "no:asyncio", "-p", "no:randomly", "-p", "no:cacheprovider")


def test_who_leaves_something_behind_fails_where_that_is_asked_for(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_loses=LOSES)
    result = pytester.runpytest_inprocess(*OPTIONS, "--collect-garbage")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_a_failure_is_lost*", "*ValueError: lost*"])


@pytest.mark.parametrize(
    "files", [{"test_a_loses": FIRST + LOSES, "test_b_looks": LOOKS}, {"test_all": FIRST + LOSES + LOOKS}]
)
def test_who_looks_at_the_log_does_not_find_there_what_others_left(
    pytester: pytest.Pytester, files: dict[str, str]
) -> None:
    pytester.makepyfile(**files)
    pytester.runpytest_inprocess(*OPTIONS).assert_outcomes(passed=4)
