"""What a server sends is shown as text: the answer on standard output, everything about it on standard error."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from tailrace.cli import render
from tailrace.cli.render import CallView, clean, print_offered, print_result
from tailrace.clients.mcp.results import LogMessage

Captured = pytest.CaptureFixture[str]


def test_escape_sequences_and_turned_text_are_shown_not_obeyed() -> None:
    assert clean("a\x1b[31mred\x07\u202egpj.exe\x9b2J\r\nb\tc\n") == "a�[31mred��gpj.exe�2J\nb\tc\n"


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        ({"content": [{"type": "text", "text": "5"}], "structuredContent": {"result": 5}}, "5\n"),
        ({"content": [], "structuredContent": {"result": "two\nlines"}}, "two\nlines\n"),
        ({"content": [{"type": "text", "text": "[bold]no markup[/bold]"}]}, "[bold]no markup[/bold]\n"),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "a\nb\n"),
        (
            {"content": [{"type": "image", "data": "AAAA", "mimeType": "image/png"}]},
            "[image, image/png, 3 bytes; --json shows it]\n",
        ),
        ({"content": [{"type": "resource_link", "uri": "x://y"}]}, "[link to x://y]\n"),
        ({"content": [{"type": "resource", "resource": {"uri": "x://y", "text": "inside"}}]}, "inside\n"),
        ({"content": [{"type": "new"}]}, '{"type": "new"}\n'),
        ({"content": []}, ""),
    ],
)
def test_a_result_is_shown_once_and_plainly(result: dict[str, Any], shown: str, capsys: Captured) -> None:
    print_result(result)
    out, err = capsys.readouterr()
    assert out == shown
    assert err == ""


def test_a_structured_result_is_json_that_reads_back(capsys: Captured) -> None:
    value = {"files": 3, "name": "café " + "x" * 300, "lines": {"py": 1}}
    print_result({"content": [{"type": "text", "text": "the same"}], "structuredContent": value})
    assert json.loads(capsys.readouterr().out) == value


def test_an_error_goes_to_standard_error(capsys: Captured) -> None:
    print_result({"content": [{"type": "text", "text": "it broke"}], "isError": True})
    assert capsys.readouterr() == ("", "it broke\n")


def test_tools_are_shown_with_their_arguments(capsys: Captured) -> None:
    schema = {
        "properties": {
            "item": {"type": "string", "description": "What is ordered."},
            "qty": {"type": "integer", "default": 1},
            "tags": {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "null"}]}},
            "kind": {"enum": ["a", "b"]},
            "any": {},
        },
        "required": ["item"],
    }
    tool = {"name": "place", "description": "Place an order.\n\nMore.", "inputSchema": schema}
    tools = [{**tool, "annotations": {"readOnlyHint": True, "idempotentHint": False}}, {"name": "bare"}]
    print_offered({"tools": tools})
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "place (read only)",
        "Place an order.",
        "item string, required What is ordered.",
        "qty integer = 1",
        "tags list of string | null",
        'kind "a" | "b"',
        "any anything",
        "",
        "bare",
        "",
    ]


def test_resources_templates_and_prompts_follow_under_their_headings(capsys: Captured) -> None:
    print_offered(
        {
            "tools": [],
            "resources": [
                {"uri": "orders://all", "name": "orders://all", "mimeType": "text/plain"},
                {"uri": "orders://1", "name": "first", "description": "The first.\n\nEver."},
            ],
            "resourceTemplates": [{"uriTemplate": "orders://{id}", "name": "order", "title": "An order \x1b[2J"}],
            "prompts": [
                {
                    "name": "ask",
                    "title": "Ask",
                    "arguments": [{"name": "who", "required": True, "description": "Whom."}],
                },
                {"name": "bare"},
            ],
        }
    )
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if line] == [
        "This server has no tools.",
        "Resources",
        "orders://all (text/plain)",
        "orders://1 first",
        "The first.",
        "Templates",
        "orders://{id} An order �[2J",
        "Prompts",
        "ask Ask",
        "who required Whom.",
        "bare",
    ]


def test_no_tools_is_said(capsys: Captured) -> None:
    print_offered({"tools": []})
    assert "no tools" in capsys.readouterr().out


def test_without_a_terminal_each_report_is_a_line(capsys: Captured) -> None:
    with CallView() as view:
        view.progress(1, 4, "first\x1b step")
        view.log(LogMessage("info", {"item": "tea"}, "shop"))
        view.log(LogMessage("alert", "hot"))
        view.progress(2.5)
    assert capsys.readouterr() == (
        "",
        'progress 1/4 first� step\ninfo shop: {"item": "tea"}\nalert hot\nprogress 2.5\n',
    )


def test_on_a_terminal_there_is_one_bar_with_the_records_above(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, highlight=False)
    monkeypatch.setattr(render, "_console", lambda **_: console)
    with CallView() as view:
        view.progress(1, 4, "[bold]half")
        view.log(LogMessage("info", "on the way"))
        view.progress(4, 4, "done")
    assert "1/4" in screen.getvalue()
    assert "[bold]half" in screen.getvalue()
    assert "on the way" in screen.getvalue()
