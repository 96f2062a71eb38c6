"""The command: what it refuses, what it writes, how it ends, and that it ends."""

from __future__ import annotations

import json
import shlex
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from tailrace.cli import main
from tailrace.cli.check import runner, target
from tailrace.cli.check.model import Trial, Verdict, Way
from tailrace.cli.check.trials import TRIALS
from tests.cli.check.support import planted
from tests.rigs.ports import free_port

may_block = pytest.mark.may_block  # the command runs its own loop, in this process


@pytest.fixture(autouse=True)
def ports_are_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `--http 0` picks is free when it is picked, and may be somebody's when the server begins to listen."""
    monkeypatch.setattr(target, "free_port", free_port)


def check(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["check", *arguments])


# --- wrong use --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "say what"),
        (["--"], "comes the command"),
        (["ftp://127.0.0.1/"], "only http"),
        (["http://127.0.0.1:1/", "--", "server"], "--url"),
        (["http://127.0.0.1:1/", "--http", "1"], "for a command"),
        (["--http", "0", "--", "server"], "{port}"),
        (["--only", "nothing", "--", "server"], "no trial 'nothing'"),
        (["--skip", "resume/stdio", "--", "server"], "no trial 'resume/stdio'"),
        (["--way", "sse", "--", "server"], "--way"),
        (["--way", "stdio", "http://127.0.0.1:1/"], "--way"),
        (["--echo-args", "[]", "--", "server"], "object"),
        (["--echo-args", "{", "--", "server"], "no JSON"),
        (["--timeout", "0", "--", "server"], "--timeout"),
    ],
)
def test_wrong_use_ends_with_2_and_says_what_is_wrong(arguments: list[str], says: str) -> None:
    result = check(*arguments)
    assert result.exit_code == 2, result.output
    assert says in result.output


@pytest.mark.parametrize("host", ["example.com", "192.0.2.1", "127.0.0.1.evil.example", "0.0.0.0", "[2001:db8::1]"])
def test_another_machine_is_not_checked_unasked(host: str) -> None:
    result = check(f"http://{host}:8000/mcp")
    assert result.exit_code == 2
    assert "--allow-remote" in result.output


def test_it_lists_its_trials() -> None:
    result = check("--list")
    assert result.exit_code == 0
    assert all(trial.name in result.output for trial in TRIALS)


# --- servers that are none --------------------------------------------------------------------------


@pytest.fixture
def black_hole() -> Iterator[str]:
    """Accepts connections, reads nothing and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listening:
        taken: list[socket.socket] = []

        def take() -> None:
            try:
                while True:
                    taken.append(listening.accept()[0])
            except OSError:
                return

        thread = threading.Thread(target=take)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/mcp"
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(10.0)
            for one in taken:
                one.close()


@may_block
def test_a_black_hole_is_given_up(black_hole: str) -> None:
    result = check("--seconds", "2", black_hole)
    assert result.exit_code == 1
    assert "did not answer within 2 s" in result.output


@may_block
def test_nobody_at_home_is_said() -> None:
    result = check("http://127.0.0.1:9/mcp")
    assert result.exit_code == 1
    assert "cannot connect" in result.output


@may_block
@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["--", "no-such-program-anywhere"], "cannot start"),
        (["--http", "0", "--", "no-such-program-anywhere", "{port}"], "cannot start"),
        (["--http", "0", "--", sys.executable, "-c", "print('I give up {port}')"], "I give up"),
    ],
)
def test_a_command_that_does_not_serve_is_a_failure_that_says_why(command: list[str], says: str) -> None:
    result = check("--only", "burst", *command)
    assert result.exit_code == 1
    assert says in result.output


@may_block
def test_a_silent_stdio_server_fails_each_trial_and_is_given_up(tmp_path: Path) -> None:
    silent = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
    result = check("--timeout", "1", "--seconds", "5", "--only", "burst", "--only", "routing", "--", *silent)
    assert result.exit_code == 1
    assert "2 failed" in result.output


# --- what it writes ---------------------------------------------------------------------------------


@pytest.mark.e2e
@may_block
def test_a_server_that_passes_gives_0_a_table_json_and_junit(tmp_path: Path) -> None:
    wanted, junit = tmp_path / "found.json", tmp_path / "found.xml"
    result = check("--http", "0", "--only", "foreign-session", "--only", "origin", "--json", str(wanted),
                   "--junit", str(junit), "--", *planted())  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "4 passed, 0 failed" in result.output
    found = json.loads(wanted.read_text())
    assert found["passed"] is True
    assert found["counts"] == {"pass": 4, "fail": 0, "not applicable": 0}
    assert set(found["ways"]) == {"streamable", "sse", "modern"}
    assert found["servers"]["streamable"] == "planted 1"
    assert {trial["name"] for trial in found["trials"]} == {"foreign-session/streamable", *(
        f"origin/{way}" for way in ("streamable", "sse", "modern"))}  # fmt: skip
    assert all(trial["asks"] and trial["saw"] and trial["basis"] for trial in found["trials"])
    suites = ElementTree.parse(junit).getroot().findall("testsuite")
    assert [(suite.get("name"), suite.get("tests"), suite.get("failures")) for suite in suites] == [
        ("tailrace check streamable", "2", "0"), ("tailrace check sse", "1", "0"), ("tailrace check modern", "1", "0"),
    ]  # fmt: skip


@pytest.mark.e2e
@may_block
def test_a_failure_gives_1_and_says_what_was_asked_seen_and_why(tmp_path: Path) -> None:
    junit = tmp_path / "found.xml"
    result = check(
        "--http", "0", "--way", "sse", "--only", "origin", "--junit", str(junit), "--", *planted("any-origin")
    )
    assert result.exit_code == 1
    for part in ("1 failed", "http://evil.example", "MUST validate Origin", "origin/sse"):
        assert part in result.output
    failure = ElementTree.parse(junit).getroot().find("testsuite/testcase/failure")
    assert failure is not None
    assert "evil.example" in failure.get("message", "")


@pytest.mark.e2e
@may_block
def test_json_on_standard_output_stands_alone() -> None:
    result = check("--way", "stdio", "--only", "malformed-lines", "--only", "sigterm-idle", "--json", "-", "--",
                   *planted(http=False))  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["counts"]["pass"] == 2
    assert "2 passed" in result.stderr


@pytest.mark.e2e
@may_block
def test_what_does_not_apply_says_why_and_is_no_pass(tmp_path: Path) -> None:
    result = check(
        "--http", "0", "--way", "sse", "--only", "vanish", "--only", "retry-plain", "--effect", "other",
        "--json", "-", "--", *planted()
    )  # fmt: skip
    assert result.exit_code == 1  # nothing was tried: nothing is proved
    trials = json.loads(result.stdout)["trials"]
    assert [trial["verdict"] for trial in trials] == ["not applicable"] * 2
    assert "--effect" in trials[0]["saw"]
    assert result.stderr.count("there is no tool 'other'") == 1  # said once, for both
    assert "vanish, retry-plain" in result.stderr


@pytest.mark.e2e
@may_block
def test_a_server_that_runs_is_checked_as_far_as_that_goes(tmp_path: Path) -> None:
    """Its process is not ours: nothing is signalled, and nobody can see what ran without the witness file."""
    import subprocess

    port = str(free_port())
    command = [word.replace("{port}", port) for word in planted()]
    process = subprocess.Popen(command)
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", int(port))) == 0:
                    break
            time.sleep(0.05)
        result = check(
            "--only", "sigterm-idle", "--only", "vanish", "--only", "origin", "--json", "-", f"http://127.0.0.1:{port}"
        )
        verdicts = {trial["name"]: (trial["verdict"], trial["saw"]) for trial in json.loads(result.stdout)["trials"]}
        assert verdicts["sigterm-idle/streamable"][0] == verdicts["vanish/sse"][0] == "not applicable"
        assert "--witness" in verdicts["vanish/sse"][1]
        assert verdicts["origin/modern"][0] == "pass"
        assert process.poll() is None
    finally:
        process.kill()
        process.wait(10)


@pytest.mark.e2e
@may_block
def test_when_the_time_is_up_what_was_not_tried_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    recover = runner._Session._recover

    async def time_is_up(session: runner._Session, trial: Trial, way: Way, verdict: Verdict) -> str:
        session._until = time.monotonic()
        return await recover(session, trial, way, verdict)

    monkeypatch.setattr(runner._Session, "_recover", time_is_up)
    result = check(
        "--http", "0", "--way", "sse", "--only", "origin", "--only", "malformed", "--json", "-", "--", *planted()
    )
    assert result.exit_code == 1
    tried, left = json.loads(result.stdout)["trials"]
    assert (tried["verdict"], left["verdict"]) == ("pass", "fail")
    assert "--seconds" in left["saw"]


@pytest.mark.e2e
@may_block
def test_a_trial_can_be_tried_again_by_the_line_that_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--http", "0", "--way", "sse", "--", *planted("any-origin")]
    monkeypatch.setattr(sys, "argv", ["tailrace", "check", *arguments])
    result = check("--only", "origin", *arguments)
    line = " ".join(result.output.partition("again")[2].split("\n\n")[0].split())
    again = shlex.split(line)[: len(arguments) + 4]
    assert again[:4] == ["tailrace", "check", "--only", "origin/sse"]
