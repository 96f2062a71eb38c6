"""Which tool does the work of a trial, and how its arguments are found in its schema."""

from __future__ import annotations

from typing import Any

import pytest

from tailrace.cli.check.tools import ROLES, choose


def listed(name: str, properties: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    return [{"name": name, "inputSchema": {"type": "object", "properties": properties, **more}}]


STRING, NUMBER, INTEGER = {"type": "string"}, {"type": "number"}, {"type": "integer"}


@pytest.mark.parametrize(
    ("role", "properties", "says", "arguments"),
    [
        ("echo", {"text": STRING}, {"text": "hi"}, {"text": "hi"}),
        ("echo", {"times": INTEGER, "message": STRING}, {"text": "hi"}, {"message": "hi"}),
        ("echo", {"nothing_like_it": STRING}, {"text": "hi"}, {"nothing_like_it": "hi"}),
        ("slow", {"seconds": NUMBER}, {"seconds": 0.5}, {"seconds": 0.5}),
        ("slow", {"delay_ms": INTEGER}, {"seconds": 0.5}, {"delay_ms": 500}),
        ("slow", {"duration": INTEGER}, {"seconds": 0.5}, {"duration": 1}),
        ("slow", {"steps": INTEGER, "duration": NUMBER}, {"seconds": 0.5}, {"duration": 0.5}),
        ("burst", {"count": INTEGER}, {"count": 3, "size": 9, "pause": 0.1}, {"count": 3}),
        ("burst", {"n": INTEGER, "size": INTEGER, "pause": NUMBER}, {"count": 3, "size": 9}, {"n": 3, "size": 9}),
        (
            "burst",
            {"count": INTEGER, "interval_ms": NUMBER},
            {"count": 3, "pause": 0.1},
            {"count": 3, "interval_ms": 100},
        ),
        ("effect", {"key": STRING, "seconds": NUMBER}, {"key": "k", "seconds": 1}, {"key": "k", "seconds": 1}),
        ("slow", {"seconds": {"anyOf": [NUMBER, {"type": "null"}]}}, {"seconds": 2}, {"seconds": 2}),
    ],
)
def test_arguments_are_found_in_the_schema(
    role: str, properties: dict[str, Any], says: dict[str, Any], arguments: dict[str, Any]
) -> None:
    tool, why = choose(role, "it", listed("it", properties))
    assert tool is not None, why
    assert tool.arguments(**says) == arguments


def test_other_arguments_that_must_be_there_are_filled() -> None:
    properties = {"text": STRING, "loud": {"type": "boolean"}, "mode": {"enum": ["a", "b"]}, "list": {"type": "array"},
                  "left": STRING}  # fmt: skip
    tool, _ = choose("echo", "it", listed("it", properties, required=["text", "loud", "mode", "list"]))
    assert tool is not None
    assert tool.arguments(text="hi") == {"text": "hi", "loud": False, "mode": "a", "list": []}


def test_given_arguments_are_taken_as_they_are() -> None:
    tool, _ = choose("slow", "it", listed("it", {}), {"wait": "$milliseconds", "whole": "$wholeseconds", "why": "$5"})
    assert tool is not None
    assert tool.arguments(seconds=0.25) == {"wait": 250, "whole": 1, "why": "$5"}


@pytest.mark.parametrize("role", ROLES)
def test_a_missing_tool_says_how_to_provide_one(role: str) -> None:
    tool, why = choose(role, "it", listed("other", {}))
    assert tool is None
    assert "'it'" in why
    assert f"--{role}" in why


def test_a_tool_without_the_argument_says_how_to_give_it() -> None:
    tool, why = choose("slow", "it", listed("it", {"text": STRING}))
    assert tool is None
    assert "--slow-args" in why
