"""What a test leaves for the collector of garbage to complain about, maybe in the middle of another test.

A future whose failure nobody asked for, a task that was dropped, a socket that nobody closed: Python tells of them when
it finds them, and that is at any time. So what others left is collected before a test that takes the log, and before a
file whose fixtures take it. With `--collect-garbage` it is looked for after each test, and the test that left it fails;
that takes its time, so it is asked for where something of the kind is sought.
"""

from __future__ import annotations

import gc
import inspect
import logging
import sys
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

__all__ = ["pytest_addoption", "pytest_runtest_protocol", "pytest_runtest_teardown"]

_WHO_TELLS = ("asyncio", "tailrace")  # loggers

_collected_for: Path | None = None


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "look after each test for what it left behind: unclosed, never awaited, never retrieved"
    parser.addoption("--collect-garbage", action="store_true", help=text)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Before a fixture could: what is logged while the fixtures of a test are made belongs to the test."""
    global _collected_for
    if "caplog" in getattr(item, "fixturenames", ()) and (item.path != _collected_for or _takes_the_log(item)):
        _collected_for = item.path
        gc.collect()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    result = yield
    if item.config.getoption("collect_garbage"):
        getattr(item, "funcargs", {}).clear()  # as pytest does next
        if found := _collect():
            pytest.fail("the test left behind:\n" + "\n".join(found), pytrace=False)
    return result


def _takes_the_log(item: pytest.Item) -> bool:
    return isinstance(item, pytest.Function) and "caplog" in inspect.signature(item.function).parameters


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(f"{record.name}: {self.format(record)}")


def _collect() -> list[str]:
    """What is said while garbage is collected."""
    kept, found, before = _Kept(), list[str](), sys.unraisablehook

    def unraisable(what: Any) -> None:
        found.append(f"{what.err_msg or 'ignored in'} {what.object!r}: {what.exc_value!r}")

    sys.unraisablehook = unraisable
    for name in _WHO_TELLS:
        logging.getLogger(name).addHandler(kept)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            gc.collect()
    finally:
        sys.unraisablehook = before
        for name in _WHO_TELLS:
            logging.getLogger(name).removeHandler(kept)
    return [*kept.texts, *found, *(f"{one.category.__name__}: {one.message}" for one in warned)]
