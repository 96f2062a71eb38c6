"""The kitchen example has a tool for every behaviour that a client must cope with."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from tailrace import ToolError


@pytest.fixture
def kitchen(example: Callable[[str], ModuleType]) -> Any:
    return example("kitchen")


def test_it_has_every_tool(kitchen: Any) -> None:
    names = ["echo", "slow", "stubborn", "fail", "burst", "big", "later", "whoami"]
    assert list(kitchen.svc.tools) == names
    for tool in kitchen.svc.tools.values():
        assert json.loads(tool.definition)["description"], tool.name


def test_echo_and_big_answer_with_text(kitchen: Any) -> None:
    assert kitchen.echo("tea") == "tea"
    assert len(kitchen.big(1000)) == 1000
    assert kitchen.stubborn(0) == "done"


async def test_slow_reports_each_step(kitchen: Any, ctx: Any) -> None:
    assert await kitchen.slow(ctx, seconds=0, steps=3) == 3
    assert [step[:2] for step in ctx.steps] == [(1, 3), (2, 3), (3, 3)]


async def test_fail_fails_as_asked(kitchen: Any) -> None:
    with pytest.raises(ToolError, match="as asked"):
        await kitchen.fail()
    with pytest.raises(ZeroDivisionError):
        await kitchen.fail("bug")


async def test_burst_numbers_its_records(kitchen: Any, ctx: Any) -> None:
    assert await kitchen.burst(ctx, count=4, size=2) == 4
    assert ctx.records == [("info", {"number": number, "filling": "xx"}, "burst") for number in range(4)]


async def test_whoami_knows_nobody_outside_of_a_call(kitchen: Any, ctx: Any) -> None:
    assert await kitchen.whoami(ctx) == kitchen.Caller(None, None, None, 1)
