"""What the official clients are asked to do with each service, and what must come of it: one judge for all drivers."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.rigs.server import ROOT

WORKSPACE = ROOT / "examples" / "workspace.py"
CALLS = Path(__file__).parent / "fixtures" / "calls.py"
_KEYS = {"protocol", "server", "tools", "structured", "progress", "error", "cancelled", "after"}
LEGACY = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")

WORKSPACE_PLAN: dict[str, Any] = {
    "structured": {"name": "summary", "arguments": {}},
    "progress": {"name": "search", "arguments": {"pattern": "needle *-7", "limit": 50}},
    "error": {"name": "read", "arguments": {"path": "../outside.txt"}},
    "cancel": {"name": "follow", "arguments": {"path": "growing.log", "seconds": 600}},
}
CALLS_PLAN: dict[str, Any] = {
    "structured": {"name": "add", "arguments": {"terms": [1, 2, 39]}},
    "progress": {"name": "steps", "arguments": {"count": 3}},
    "error": {"name": "refuse", "arguments": {"reason": "out of tea"}},
    "cancel": {"name": "gate", "arguments": {"key": "cancel", "say": True}},
}


def check_workspace(report: dict[str, Any], *, modern: bool) -> None:
    """The report of `WORKSPACE_PLAN` on the folder of the fixture `workspace`."""
    _check_common(report, "workspace", {"search", "read", "summary", "listing", "follow"}, modern=modern)
    summary = report["structured"]["content"]
    assert (summary["files"], summary["folders"]) == (301, 10), f"summary: {summary}"
    assert ".txt" in summary["lines"], f"summary: {summary}"
    assert "outside" in report["error"]["text"].lower(), f"the error says: {report['error']['text']!r}"


def check_calls(report: dict[str, Any], *, modern: bool, lacks: Collection[str] = ()) -> None:
    """The report of `CALLS_PLAN`; `lacks` names the keys that this client cannot fill."""
    _check_common(report, "calls", {"add", "gate", "burst", "steps", "refuse"}, modern=modern, lacks=lacks)
    assert report["structured"]["content"] == {"total": 42, "terms": [1, 2, 39]}, f"structured: {report['structured']}"
    if "progress" not in lacks:
        seen = report["progress"]["seen"]
        assert seen == [[n, 3, f"step {n}"] for n in (1, 2, 3)], f"progress: {report['progress']}"
    assert "out of tea" in report["error"]["text"], f"error: {report['error']}"


def _check_common(
    report: dict[str, Any], server: str, tools: set[str], *, modern: bool, lacks: Collection[str] = ()
) -> None:
    assert "failed" not in report, report["failed"]
    assert not _KEYS - set(lacks) - set(report), f"missing {_KEYS - set(lacks) - set(report)}"
    assert not set(lacks) & set(report), f"it can do more than we say: {set(lacks) & set(report)}"
    if "protocol" not in lacks:
        version = report["protocol"]
        assert version in (("2026-07-28",) if modern else (*LEGACY, None)), f"negotiated {version}"
        assert report["server"] == server, f"the server calls itself {report['server']!r}"
    names = [tool["name"] for tool in report["tools"]]
    assert tools <= set(names), f"listed {names}, missing {tools - set(names)}"
    assert len(names) == len(set(names)), f"listed twice: {names}"
    assert [tool["name"] for tool in report["after"]] == names, "the list changed its order, or the session was lost"
    assert all(tool["input"]["type"] == "object" for tool in report["tools"]), f"input schemas: {report['tools']}"
    assert not report["structured"]["isError"], f"structured call: {report['structured']}"
    if "progress" not in lacks:
        assert not report["progress"]["isError"], f"progress call: {report['progress']}"
        seen = [step[0] for step in report["progress"]["seen"]]
        assert seen, "no progress arrived"
        assert all(a < b for a, b in pairwise(seen)), f"progress must grow: {report['progress']['seen']}"
    assert report["error"]["isError"], f"not an error result: {report['error']}"
    assert "cancelled" in lacks or report["cancelled"], "the cancelled call was answered"
