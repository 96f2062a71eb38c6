"""`tailrace ls` and `tailrace call` show and use the tools of a service, wherever it is."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tailrace.cli import main

TOOLS = '''
from dataclasses import dataclass
from tailrace import Context, Service, ToolError

svc = Service("shop")

@dataclass
class Order:
    item: str
    qty: int

@svc.tool(read_only=True)
async def place(ctx: Context, item: str, qty: int = 1) -> Order:
    """Place an order.

    Args:
        item: What is ordered.
    """
    await ctx.progress(1, 2, "checking")
    await ctx.log("info", {"item": item}, logger="shop")
    return Order(item, qty)

@svc.tool
def greet(name: str, tags: list[str] | None = None) -> str:
    """Greet."""
    return f"hello {name}" + "".join(f" #{tag}" for tag in tags or [])

@svc.tool
def fail() -> str:
    """Fail."""
    raise ToolError("sold out")

@svc.tool
def bug() -> str:
    """Break."""
    return str(1 / 0)

@svc.tool
async def wait() -> str:
    """Wait."""
    import asyncio
    await asyncio.sleep(60)
    return "waited"

@svc.tool(once=True)
def pay() -> str:
    """Pay."""
    return "paid"

@svc.resource("shop://all", title="All orders", mime_type="text/plain")
def orders() -> str:
    """Every order."""
    return "none"

@svc.resource("shop://{id}")
def order(id: str) -> str:
    """One order."""
    return id

@svc.prompt(title="Recommend")
def recommend(mood: str) -> str:
    """Ask for something to buy.

    Args:
        mood: How the customer feels.
    """
    return mood

if __name__ == "__main__":
    svc.run()
'''

Invoke = Callable[..., Result]


@pytest.fixture
def cli(folder: Path) -> Invoke:
    (folder / "shop.py").write_text(TOOLS)

    def invoke(*words: str, input: str | None = None) -> Result:
        return CliRunner().invoke(main, words, input=input)

    return invoke


# --- a service in this process --------------------------------------------------------------------


def test_ls_shows_the_tools_of_a_file(cli: Invoke) -> None:
    result = cli("ls", "shop.py")
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "place (read only)" in lines
    assert "item string, required What is ordered." in lines
    assert "qty integer = 1" in lines
    at = lines.index("Resources")
    assert [line for line in lines[at:] if line] == [
        "Resources",
        "shop://all All orders (text/plain)",
        "Every order.",
        "Templates",
        "shop://{id} order",
        "One order.",
        "Prompts",
        "recommend Recommend",
        "Ask for something to buy.",
        "mood required How the customer feels.",
    ]


def test_ls_as_json_is_what_the_server_sent(cli: Invoke) -> None:
    offered = json.loads(cli("ls", "shop.py", "--json").stdout)
    assert offered["resources"][0]["uri"] == "shop://all"
    assert [one["uriTemplate"] for one in offered["resourceTemplates"]] == ["shop://{id}"]
    assert offered["prompts"][0]["arguments"] == [
        {"name": "mood", "title": None, "description": "How the customer feels.", "required": True}
    ]
    tools = offered["tools"]
    assert [tool["name"] for tool in tools] == ["place", "greet", "fail", "bug", "wait", "pay"]
    assert tools[0]["inputSchema"]["required"] == ["item"]
    assert "outputSchema" in tools[0]


def test_call_types_its_words_and_prints_the_answer(cli: Invoke) -> None:
    result = cli("call", "shop.py", "place", "item=5", "qty=2")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"item": "5", "qty": 2}


def test_call_shows_progress_and_log_records_beside_the_answer(cli: Invoke) -> None:
    result = cli("call", "shop.py", "place", "item=tea")
    assert sorted(result.stderr.splitlines()) == ['info shop: {"item": "tea"}', "progress 1/2 checking"]


def test_call_takes_json_files_and_standard_input(cli: Invoke, folder: Path) -> None:
    assert cli("call", "shop.py", "greet", '{"name": "Ann"}').stdout == "hello Ann\n"
    (folder / "all.json").write_text('{"name": "Ben", "tags": ["a"]}')
    assert cli("call", "shop.py", "greet", "@all.json").stdout == "hello Ben #a\n"
    assert cli("call", "shop.py", "greet", "name=@-", input="Cyd").stdout == "hello Cyd\n"
    assert cli("call", "shop.py", "greet", "name=Dan", "tags=a", "tags=b").stdout == "hello Dan #a #b\n"


def test_call_as_json_is_the_whole_result(cli: Invoke) -> None:
    result = json.loads(cli("call", "shop.py", "place", "item=tea", "--json").stdout)
    assert result["structuredContent"] == {"item": "tea", "qty": 1}
    assert result["isError"] is False
    assert result["content"][0]["type"] == "text"


def test_call_gives_its_key(cli: Invoke) -> None:
    assert cli("call", "shop.py", "pay", "--idempotency-key", "k").stdout == "paid\n"
    refused = cli("call", "shop.py", "pay", "--idempotency-key", "k" * 256)
    assert refused.exit_code == 1
    assert "1 to 255 bytes" in refused.stderr


def test_a_tool_that_fails_exits_1_with_its_text(cli: Invoke) -> None:
    result = cli("call", "shop.py", "fail")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "sold out\n")
    assert cli("call", "shop.py", "fail", "--json").exit_code == 1


def test_a_bug_exits_1_without_its_text(cli: Invoke) -> None:
    result = cli("call", "shop.py", "bug")
    assert result.exit_code == 1
    assert "division" not in result.stdout


def test_a_call_that_takes_too_long_exits_1(cli: Invoke) -> None:
    result = cli("call", "shop.py", "wait", "--timeout", "0.2")
    assert result.exit_code == 1
    assert "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1] == "Error: it took too long; see --timeout"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["call", "shop.py", "plcae", "item=tea"], 1, "there is no tool 'plcae'; there is: place"),
        (["call", "shop.py", "place", "itm=tea"], 1, "did you mean 'item'"),
        (["call", "shop.py", "place"], 1, "item"),
        (["call", "shop.py", "place", "item=tea", "qty=two"], 2, "qty=two: expected an integer"),
        (["call", "shop.py", "place", "tea"], 2, "is no argument"),
        (["call", "shop.py", "greet", "name=@nowhere.txt"], 2, "cannot read 'nowhere.txt': No such file"),
        (["call", "shop.py"], 2, "say where and what"),
        (["call"], 2, "say where and what"),
        (["ls"], 2, "say where"),
        (["ls", "nowhere.py"], 2, "there is no file nowhere.py"),
        (["ls", "npx"], 2, "to start a program, write: -- npx"),
        (["ls", "ftp://x"], 2, "only http:// and https://"),
        (["ls", "localhost:8000"], 2, "did you mean http://localhost:8000?"),
        (["call", "127.0.0.1:8000/mcp", "place"], 2, "did you mean http://127.0.0.1:8000/mcp?"),
        (["ls", "shop.py", "--", "npx"], 2, "not both"),
        (["ls", "--"], 2, "after -- comes the program"),
        (["ls", "http://127.0.0.1:9/mcp", "--timeout", "20"], 1, "Error: "),
    ],
)
def test_what_is_wrong_is_said(cli: Invoke, words: list[str], code: int, said: str) -> None:
    result = cli(*words)
    assert result.exit_code == code, result.output
    assert said in result.stderr
    assert "Traceback" not in result.stderr


# --- a service in another process -----------------------------------------------------------------


def test_a_program_is_started_and_spoken_to_over_stdio(cli: Invoke) -> None:
    program = ["--", sys.executable, "-m", "tailrace", "run", "shop.py", "--stdio"]
    listed = cli("ls", "--json", *program)
    assert listed.exit_code == 0, listed.output
    assert [tool["name"] for tool in json.loads(listed.stdout)["tools"]][:2] == ["place", "greet"]
    assert cli("call", "greet", "name=Ann", *program).stdout == "hello Ann\n"


def test_a_program_that_does_not_exist_is_said(cli: Invoke) -> None:
    result = cli("ls", "--", "no-such-program-anywhere")
    assert result.exit_code == 1
    assert "no-such-program-anywhere" in result.stderr
    assert "Traceback" not in result.stderr
