"""The command line as people use it: one process serves, another one asks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rigs.server import ServerProcess, running, tailrace_command

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def tailrace(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tailrace", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=150, env={**os.environ, **(env or {})})


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("kitchen") / "stderr"
    with running(tailrace_command(EXAMPLES / "kitchen.py"), log) as server:
        yield server


@pytest.mark.parametrize("path", ["/mcp", "/sse"])
def test_ls_and_call_reach_a_server_by_its_url(kitchen: ServerProcess, path: str) -> None:
    listed = tailrace("ls", kitchen.url + path, "--json")
    assert listed.returncode == 0, listed.stderr
    assert "echo" in [tool["name"] for tool in json.loads(listed.stdout)["tools"]]
    called = tailrace("call", kitchen.url + path, "echo", "text=5")
    assert (called.returncode, called.stdout, called.stderr) == (0, "5\n", "")


@pytest.mark.parametrize("path", ["/mcp", "/sse"])
def test_progress_and_log_records_are_seen_over_http(kitchen: ServerProcess, path: str) -> None:
    called = tailrace("call", kitchen.url + path, "slow", "seconds=0.3", "steps=3")
    assert (called.returncode, called.stdout) == (0, "3\n")
    assert called.stderr.splitlines() == [f"progress {step}/3 step {step} of 3" for step in (1, 2, 3)]
    called = tailrace("call", kitchen.url + path, "burst", "count=3", "size=1")
    assert called.stderr.splitlines() == [f'info burst: {{"number": {n}, "filling": "x"}}' for n in range(3)]


def test_errors_of_tools_exit_1(kitchen: ServerProcess) -> None:
    called = tailrace("call", f"{kitchen.url}/mcp", "fail")
    assert (called.returncode, called.stdout, called.stderr) == (1, "", "this failed as asked\n")
    called = tailrace("call", f"{kitchen.url}/mcp", "fail", "kind=bug")
    assert called.returncode == 1
    assert "a bug, as asked" not in called.stderr


def test_who_leaves_a_call_with_a_key_is_told_how_to_come_back(kitchen: ServerProcess) -> None:
    command = [sys.executable, "-m", "tailrace", "call", f"{kitchen.url}/mcp", "slow", "seconds=60", "steps=120"]
    for words, said in ((["--idempotency-key", "tea"], "the same command with key 'tea' gets its answer"), ([], "")):
        with subprocess.Popen([*command, *words], stdout=-1, stderr=-1, text=True) as calling:
            assert calling.stderr is not None
            assert calling.stderr.readline().startswith("progress ")  # it has begun
            calling.send_signal(signal.SIGINT)
            _, stderr = calling.communicate(timeout=60)
        assert calling.returncode == 1
        assert ("gets its answer" in stderr) is bool(said)
        assert said in stderr


def test_a_port_in_use_is_one_line_with_what_to_do(kitchen: ServerProcess, tmp_path: Path) -> None:
    done = tailrace("run", str(EXAMPLES / "kitchen.py"), "--port", str(kitchen.port), "--store", "memory")
    assert done.returncode == 1
    assert str(kitchen.port) in done.stderr
    assert "--port (0 picks a free one)" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_address_that_others_can_reach_needs_insecure() -> None:
    done = tailrace("run", str(EXAMPLES / "kitchen.py"), "--host", "0.0.0.0", "--port", "0", "--store", "memory")
    assert done.returncode == 2
    assert "--insecure" in done.stderr


def test_the_default_store_is_a_file_of_the_users_and_one_process_has_it(tmp_path: Path) -> None:
    env = {"XDG_STATE_HOME": str(tmp_path / "state"), "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "tailrace", "run", str(EXAMPLES / "kitchen.py"), "--port", "0"]
    with running(command, tmp_path / "stderr", env=env) as server:
        [file] = (tmp_path / "state" / "tailrace").glob("kitchen-*.sqlite")
        assert str(file) in server.stderr()
        second = tailrace("run", str(EXAMPLES / "kitchen.py"), "--port", "0", "--store-wait", "0.1", env=env)
        assert second.returncode == 1
        assert "--store" in second.stderr
        assert "Traceback" not in second.stderr
        assert server.stop() == 0


def test_the_users_prints_do_not_reach_the_protocol(tmp_path: Path) -> None:
    loud = tmp_path / "loud.py"
    loud.write_text(
        "import os, subprocess\nprint('loud at import')\n"
        "from tailrace import Service\nsvc = Service('loud')\n"
        "@svc.tool\ndef shout() -> str:\n    '''Shout.'''\n    print('loud in a call')\n"
        "    subprocess.run(['echo', 'loud in a child'])\n    os.write(1, b'loud below Python\\n')\n    return 'said'\n"
    )
    called = tailrace("call", "shout", "--", sys.executable, "-m", "tailrace", "run", str(loud), "--stdio")
    assert (called.returncode, called.stdout) == (0, "said\n")
