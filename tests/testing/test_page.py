"""The tests that docs/testing.md shows pass."""

from __future__ import annotations

import asyncio
import inspect
import re
import types
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs/testing.md"


def pages_tests() -> list[object]:
    shown: list[object] = []
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        module = types.ModuleType("shown")
        exec(compile(block, PAGE.name, "exec", dont_inherit=True), module.__dict__)
        shown += [pytest.param(fn, id=name) for name, fn in vars(module).items() if name.startswith("test_")]
    return shown


def test_the_page_shows_tests() -> None:
    assert len(pages_tests()) == 3


@pytest.mark.parametrize("shown", pages_tests())
def test_what_the_page_tests_holds(shown) -> None:  # type: ignore[no-untyped-def]
    result = shown()
    if inspect.iscoroutine(result):
        asyncio.run(result)
