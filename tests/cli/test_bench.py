"""`tailrace bench` counts only answers that are right, and says what went wrong with the others."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from tailrace.cli import main
from tests.rigs.server import ServerProcess, running, tailrace_command

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", params=["listener", "uvicorn"])
def kitchen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("kitchen") / "stderr"
    with running(tailrace_command(EXAMPLES / "kitchen.py", "--server", request.param), log) as server:
        yield server


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tailrace", "bench", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)


@pytest.mark.parametrize(
    ("words", "what"),
    [((), "ping"), (("echo", "text=5"), "echo"), (("burst", "count=2", "size=1"), "burst")],
    ids=["ping", "a JSON answer", "an event stream"],
)
def test_right_answers_are_counted(kitchen: ServerProcess, words: tuple[str, ...], what: str) -> None:
    done = bench(kitchen.url + "/mcp", *words, "--seconds", "0.5", "--clients", "3", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["what"] == what
    assert report["calls"] > 0
    assert (report["failed"], report["complaint"]) == (0, None)
    assert 0 < report["p50_ms"] <= report["p90_ms"] <= report["p99_ms"]


def test_for_people_it_says_who_made_the_load(kitchen: ServerProcess) -> None:
    done = bench(kitchen.url + "/mcp", "--seconds", "0.1")
    assert done.returncode == 0, done.stderr
    assert "calls of ping by 8 clients" in done.stdout
    assert "pure Python" in done.stdout


def test_calls_that_fail_are_not_counted(kitchen: ServerProcess) -> None:
    done = bench(kitchen.url + "/mcp", "fail", "--seconds", "0.2", "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert report["calls"] == 0
    assert report["failed"] > 0
    assert "the tool failed" in report["complaint"]


def test_a_call_that_takes_too_long_has_failed(kitchen: ServerProcess) -> None:
    done = bench(kitchen.url + "/mcp", "slow", "seconds=30", "--seconds", "0.1", "--timeout", "4", "--clients", "1")
    assert done.returncode == 1
    assert "1 failed; the first: " in done.stdout


@pytest.mark.parametrize(
    ("path", "words", "complaint"),
    [("/mcp", ("ech",), "there is no tool 'ech'"), ("/nothing", (), "HTTP 404"), ("/mcp", ("echo", "text"), "text")],
)
def test_what_cannot_be_measured_is_said(
    kitchen: ServerProcess, path: str, words: tuple[str, ...], complaint: str
) -> None:
    done = bench(kitchen.url + path, *words, "--seconds", "0.1")
    assert done.returncode in (1, 2)
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


COUNTING = """
from tailrace import Service

svc = Service("counting")

@svc.tool
async def sessions() -> int:
    return svc.statistics()["sessions"]["open"]
"""


def test_sessions_are_ended_afterwards(tmp_path: Path) -> None:
    (tmp_path / "counting.py").write_text(COUNTING)
    with running(tailrace_command(tmp_path / "counting.py"), tmp_path / "stderr") as server:
        assert bench(server.url + "/mcp", "--seconds", "0.1", "--clients", "20").returncode == 0
        words = [sys.executable, "-m", "tailrace", "call", server.url + "/mcp", "sessions"]
        left = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert int(left.stdout) <= 1  # the one that asks, if it needs one


def test_nobody_there_is_said_in_one_line() -> None:
    result = CliRunner().invoke(main, ["bench", "http://127.0.0.1:9/mcp", "--seconds", "0.1"])
    assert result.exit_code == 1
    assert "nothing listens there" in result.output


@pytest.mark.parametrize("words", [("ftp://x/",), ("http://x/", "--clients", "0"), ("http://x/", "--seconds", "0")])
def test_wrong_use_exits_2(words: tuple[str, ...]) -> None:
    assert CliRunner().invoke(main, ["bench", *words]).exit_code == 2
