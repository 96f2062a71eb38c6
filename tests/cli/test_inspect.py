"""`tailrace inspect` starts the MCP Inspector with what it has to know of a server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tailrace.cli import main
from tailrace.cli.inspect import INSPECTOR
from tests.e2e.installing import Missing, node_tools
from tests.rigs.npm import NODE
from tests.rigs.server import running, tailrace_command

SERVICE = """
from tailrace import Service
svc = Service("shop")

@svc.tool
def place(item: str) -> str:
    return item
"""
SAYS = """#!{python}
import json, os, sys
config = sys.argv[sys.argv.index("--config") + 1]
said = {{"words": sys.argv[1:], "config": json.load(open(config))}}
said["mode"] = os.stat(os.path.dirname(config)).st_mode & 0o777
said["env"] = {{name: os.environ[name] for name in ("CLIENT_PORT", "MCP_AUTO_OPEN_ENABLED")}}
json.dump(said, open({into!r}, "w"))
{then}
"""


def npx(folder: Path, then: str = "sys.exit(0)") -> Path:
    """An npx that says how it was called, alone on the PATH; where it says so."""
    into, script = folder / "said.json", folder / "bin" / "npx"
    script.parent.mkdir()
    script.write_text(SAYS.format(python=sys.executable, into=str(into), then=then))
    script.chmod(0o755)
    return into


@pytest.fixture
def target(folder: Path) -> Path:
    file = folder / "shop.py"
    file.write_text(SERVICE)
    return file


def invoke(folder: Path, *words: str) -> Result:
    return CliRunner(env={"PATH": str(folder / "bin"), "TAILRACE_TOKEN": ""}).invoke(main, ["inspect", *words])


def told(into: Path) -> dict[str, Any]:
    return json.loads(into.read_text())


def test_a_file_is_started_by_the_version_of_the_inspector_that_was_tried(folder: Path, target: Path) -> None:
    into = npx(folder)
    result = invoke(folder, str(target))
    assert result.exit_code == 0, result.output
    said = told(into)
    assert said["words"][:3] == ["--yes", INSPECTOR, "--web"]
    assert said["words"][-2:] == ["--server", "tailrace"]
    entry = said["config"]["mcpServers"]["tailrace"]
    assert (entry["type"], entry["command"], entry["protocolEra"]) == ("stdio", sys.executable, "auto")
    assert entry["args"][:3] == ["-m", "tailrace", "run"]
    assert entry["args"][-1] == "--stdio"
    assert said["env"] == {"CLIENT_PORT": "6274", "MCP_AUTO_OPEN_ENABLED": "true"}


def test_a_token_is_in_a_private_file_and_in_no_command_line(folder: Path) -> None:
    into = npx(folder)
    words = ("http://127.0.0.1:8000", "--token", "secret", "--era", "legacy", "--port", "7000", "--no-open")
    assert invoke(folder, *words).exit_code == 0
    said = told(into)
    assert said["config"]["mcpServers"]["tailrace"] == {
        "type": "streamable-http",
        "url": "http://127.0.0.1:8000/mcp",
        "headers": {"Authorization": "Bearer secret"},
        "protocolEra": "legacy",
    }
    assert not any("secret" in word for word in said["words"])
    assert said["mode"] == 0o700
    assert not Path(said["words"][said["words"].index("--config") + 1]).exists(), "the token stays behind"
    assert said["env"] == {"CLIENT_PORT": "7000", "MCP_AUTO_OPEN_ENABLED": "false"}


def test_the_oldest_transport_and_a_program_are_known(folder: Path) -> None:
    into = npx(folder)
    assert invoke(folder, "http://127.0.0.1:8000/sse").exit_code == 0
    assert told(into)["config"]["mcpServers"]["tailrace"]["type"] == "sse"
    assert invoke(folder, "--", "some-server", "--flag").exit_code == 0
    entry = told(into)["config"]["mcpServers"]["tailrace"]
    assert (entry["command"], entry["args"]) == ("some-server", ["--flag"])


def test_its_exit_code_is_the_inspectors(folder: Path) -> None:
    npx(folder, "sys.exit(7)")
    assert invoke(folder, "http://127.0.0.1:8000").exit_code == 7


def test_without_node_it_is_said_what_to_do(folder: Path) -> None:
    result = invoke(folder, "http://127.0.0.1:8000")
    assert result.exit_code == 1
    assert "needs Node 22.19 or later" in result.output
    assert "nodejs.org" in result.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give one of"),
        (["x.py", "--", "y"], "give one of"),
        (["ftp://x"], "only http:// and https://"),
        (["npx"], "to start a program, write: -- npx"),
    ],
)
def test_what_is_wrong_is_said(folder: Path, words: list[str], said: str) -> None:
    result = invoke(folder, *words)
    assert result.exit_code == 2
    assert said in result.output


def test_a_signal_that_comes_while_the_inspector_is_being_started_ends_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = subprocess.Popen

    def started_late(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return start(*arguments, **options)

    npx(folder, "import time\ntime.sleep(100)")
    monkeypatch.setattr(subprocess, "Popen", started_late)
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("it was not listened to"))
    try:
        assert invoke(folder, "http://127.0.0.1:8000").exit_code == 0
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.e2e
@pytest.mark.timeout(120)
def test_sigterm_ends_the_inspector_and_what_it_started(folder: Path) -> None:
    into = npx(folder, "import signal, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(3))\ntime.sleep(100)")
    command = [sys.executable, "-m", "tailrace", "inspect", "http://127.0.0.1:8000"]
    env = {**os.environ, "PATH": str(folder / "bin")}
    process = subprocess.Popen(command, env=env)
    until = time.monotonic() + 60
    while True:
        try:
            told(into)
            break
        except (FileNotFoundError, ValueError):
            assert time.monotonic() < until
            time.sleep(0.05)
    for _ in range(50):  # until its handler is there
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(1)
            break
        except subprocess.TimeoutExpired:
            continue
    assert process.returncode in (0, 3)


@pytest.mark.e2e
@pytest.mark.timeout(180)
@pytest.mark.parametrize("way", ["file", "url"])
def test_the_real_inspector_understands_what_it_is_given(way: str, folder: Path, target: Path, needs: Any) -> None:
    try:
        launcher = node_tools() / "@modelcontextprotocol/inspector/clients/launcher/build/index.js"
    except Missing as missing:
        needs(*missing.args)
    then = f"words = [w for w in sys.argv[3:] if w != '--web']\nos.environ['HOME'] = {str(folder)!r}\n"
    then += "words += ['--format', 'json', '--method', 'tools/list']\n"
    then += f"os.execv({str(NODE)!r}, ['node', {str(launcher)!r}, '--cli', *words])"
    npx(folder, then)
    env = {**os.environ, "PATH": os.pathsep.join((str(folder / "bin"), os.environ["PATH"]))}

    def listed(*words: str) -> str:
        command = [sys.executable, "-m", "tailrace", "inspect", *words]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    if way == "file":
        assert '"place"' in listed(str(target))
        return
    with running(tailrace_command(target, "--auth-token", "secret"), folder / "log") as server:
        assert '"place"' in listed(server.url, "--token", "secret")
