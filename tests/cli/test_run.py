"""`tailrace run` reads its flags, finds the service, and hands both to the server; what fails is said in a line."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tailrace.cli import main
from tailrace.errors import DefinitionError, StoreBusy, StoreError, StoreTooNew

Run = Callable[..., Result]


class Server:
    """Stands where the server is entered, and keeps what came."""

    def __init__(self) -> None:
        self.service: Any = None
        self.flags: dict[str, Any] = {}
        self.failure: Exception | None = None

    def run(self, service: Any, **flags: Any) -> None:
        self.service, self.flags = service, flags
        if self.failure is not None:
            raise self.failure


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    stand_in = Server()
    monkeypatch.setattr("tailrace.server.run", stand_in.run)
    return stand_in


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch, server: Server) -> Run:
    (folder / "tools.py").write_text('from tailrace import Service\nsvc = Service("one")\n')
    monkeypatch.setattr("platformdirs.user_state_path", lambda name: folder / "state" / name)
    for name in [name for name in os.environ if name.startswith("TAILRACE_")]:
        monkeypatch.delenv(name)

    def invoke(*words: str, env: dict[str, str] | None = None) -> Result:
        return CliRunner().invoke(main, ["run", *words], env=env)

    return invoke


@pytest.mark.parametrize(
    ("flags", "ending", "absence"),
    [
        (["--workers", "2", "--stateless"], 8.0, None),
        (["--workers", "1", "--store", "sqlite:x.sqlite", "--shutdown-delay", "2"], 10.0, None),
        (["--workers", "1", "--store", "valkey://127.0.0.1:1", "--lease", "7"], 8.0 + 2 * 7.0 + 5.0, None),
        (["--workers", "2", "--store", "valkey://127.0.0.1:1", "--lease", "7"], 8.0 + 2 * 7.0 + 5.0, 14.0),
        (["--workers", "2", "--store", "valkey://127.0.0.1:1", "--lease", "0.5"], 8.0 + 2 * 0.5 + 5.0, 10.0),
    ],
)
def test_workers_get_the_time_that_their_end_may_take_and_others_their_place_when_they_have_their_sessions(
    run: Run, monkeypatch: pytest.MonkeyPatch, flags: list[str], ending: float, absence: float | None
) -> None:
    told: dict[str, Any] = {}

    class Workers:
        def __init__(self, command: object, places: object, **options: Any) -> None:
            told.update(options)

        def run(self) -> int:
            return 0

    monkeypatch.setattr("tailrace.cli.workers.Workers", Workers)
    result = run("tools.py", "--port", "0", "--drain", "3", *flags)
    assert result.exit_code == 0, result.output
    assert (told["limit"], told["absence"]) == (3.0 + ending, absence)


def test_the_defaults_are_those_that_are_promised(run: Run, server: Server, folder: Path) -> None:
    result = run("tools.py")
    assert result.exit_code == 0, result.output
    assert server.service.name == "one"
    store = server.flags.pop("store")
    assert server.flags == {
        "transport": "http",
        "target": f"{(folder / 'tools.py').resolve()}:svc",
        "host": "127.0.0.1",
        "port": 8000,
        "uds": None,
        "publish": None,
        "store_wait": 30.0,
        "lease": 5.0,
        "server": "listener",
        "drain": 25.0,
        "shutdown_delay": 0.0,
        "keep_alive": 15.0,
        "session_idle": 1800.0,
        "max_sessions": 10000,
        "max_body": 4194304,
        "stateless": False,
        "allow_host": (),
        "allow_origin": (),
        "auth_token": (),
        "auth_issuer": None,
        "auth_audience": None,
        "auth_scope": (),
        "insecure": False,
        "tls_cert": None,
        "tls_key": None,
        "admin": None,
        "admin_token": None,
        "log_level": "info",
        "log_format": "text",
        "worker": None,
    }
    kind, _, path = store.partition(":")
    assert kind == "sqlite"
    assert Path(path).parent == folder / "state" / "tailrace"
    assert Path(path).name.startswith("tools-")


@pytest.mark.skipif(os.name == "nt", reason="permissions are POSIX's")
def test_the_state_folder_is_the_users_alone(run: Run, folder: Path) -> None:
    run("tools.py")
    assert stat.S_IMODE((folder / "state" / "tailrace").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("words", "flag", "value"),
    [
        (["--port", "0"], "port", 0),
        (["--drain", "2.5"], "drain", 2.5),
        (["--store", "memory"], "store", "memory"),
        (["--store", "sqlite:here.db"], "store", "sqlite:here.db"),
        (["--store", "valkeys://h:1/2"], "store", "valkeys://h:1/2"),
        (["--allow-host", "a", "--allow-host", "b"], "allow_host", ("a", "b")),
        (["--auth-token", "a", "--auth-token", "b"], "auth_token", ("a", "b")),
        (["--log-level", "DEBUG"], "log_level", "debug"),
        (["--stateless"], "stateless", True),
        (["--insecure"], "insecure", True),
        (["--uds", "x.sock"], "uds", "x.sock"),
    ],
)
def test_a_flag_reaches_the_server(run: Run, server: Server, words: list[str], flag: str, value: Any) -> None:
    assert run("tools.py", *words).exit_code == 0
    assert server.flags[flag] == value


@pytest.mark.parametrize(
    ("variable", "text", "flag", "value"),
    [
        ("TAILRACE_PORT", "9001", "port", 9001),
        ("TAILRACE_KEEP_ALIVE", "3", "keep_alive", 3.0),
        ("TAILRACE_ALLOW_ORIGIN", "https://a https://b", "allow_origin", ("https://a", "https://b")),
        ("TAILRACE_AUTH_TOKEN", "one two", "auth_token", ("one", "two")),
        ("TAILRACE_STORE", "memory", "store", "memory"),
        ("TAILRACE_INSECURE", "1", "insecure", True),
        ("TAILRACE_LOG_FORMAT", "json", "log_format", "json"),
        ("TAILRACE_ADMIN", ":9090", "admin", ":9090"),
    ],
)
def test_the_environment_gives_defaults(
    run: Run, server: Server, variable: str, text: str, flag: str, value: Any
) -> None:
    assert run("tools.py", env={variable: text}).exit_code == 0
    assert server.flags[flag] == value


def test_stdio_guards_the_descriptors_before_the_users_code_runs(
    run: Run, server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    monkeypatch.setattr("tailrace.transports.pipes.guard", lambda: order.append("guard") or "the pipes")
    monkeypatch.setattr("builtins.order", order, raising=False)
    (folder / "loud.py").write_text(
        'import builtins\nbuiltins.order.append("user")\nfrom tailrace import Service\nsvc = Service("loud")\n'
    )
    assert run("loud.py", "--stdio", env={"TAILRACE_PORT": "9001"}).exit_code == 0
    assert order == ["guard", "user"]
    assert server.flags["pipes"] == "the pipes"
    assert server.flags["transport"] == "stdio"
    assert server.flags["store"] == "memory"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Missing argument 'TARGET'"),
        (["nowhere.py"], "there is no file nowhere.py"),
        (["tools.py", "--port", "70000"], "70000 is not in the range"),
        (["tools.py", "--drain", "-1"], "-1.0 is not in the range"),
        (["tools.py", "--store", "floppy"], "is no store"),
        (["tools.py", "--server", "apache"], "is not one of"),
        (["tools.py", "--stdio", "--port", "1"], "--port is about HTTP"),
        (["tools.py", "--uds", "x", "--host", "y"], "--uds or --host, not both"),
        (["tools.py", "--tls-cert", "tools.py"], "belong together"),
        (["tools.py", "--tls-cert", "no.pem"], "does not exist"),
        (["tools.py", "--log-level", "loud"], "is not one of"),
    ],
)
def test_wrong_use_is_said_and_exits_2(run: Run, server: Server, words: list[str], said: str) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""
    assert server.service is None


@pytest.mark.parametrize(
    ("failure", "code", "said"),
    [
        (OSError(errno.EADDRINUSE, "Address already in use"), 1, "--port (0 picks a free one)"),
        (PermissionError(errno.EACCES, "Permission denied"), 1, "ports below 1024"),
        (socket.gaierror(-2, "Name or service not known"), 1, "see --host"),
        (OSError(errno.ENOENT, "cannot listen on /no/x.sock: No such file or directory"), 1, "cannot listen on /no"),
        (StoreBusy("x.sqlite is held by process 7"), 1, "another --store"),
        (StoreTooNew("x.sqlite was written by 9.0"), 1, "Update tailrace"),
        (StoreError("the disk is full"), 1, "Error: the disk is full"),
        (DefinitionError("0.0.0.0 needs authentication or --insecure"), 2, "--insecure"),
    ],
)
def test_what_the_server_cannot_do_is_one_line_with_what_to_do(
    run: Run, server: Server, failure: Exception, code: int, said: str
) -> None:
    server.failure = failure
    result = run("tools.py")
    assert result.exit_code == code
    assert said in result.stderr
    assert "Traceback" not in result.stderr


BROKEN = {
    "def lifespan(service): return 5": (2, "got 5"),
    "async def lifespan(service):\n    raise OSError('no database')\n    yield": (1, "OSError: no database"),
    "async def lifespan(service):\n    raise SystemExit('no database')\n    yield": (
        1,
        "it called sys.exit('no database')",
    ),
}


@pytest.mark.parametrize("written", BROKEN)
def test_a_lifespan_that_fails_is_the_users_and_shown_without_our_part(written: str, folder: Path) -> None:
    code, said = BROKEN[written]
    (folder / "tools.py").write_text(
        f"from tailrace import Service\nsvc = Service('tools')\n@svc.lifespan\n{written}\n"
    )
    command = [sys.executable, "-m", "tailrace", "run", "tools.py", "--port", "0", "--store", "memory"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert result.returncode == code
    assert said in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert "click" not in result.stderr


def test_a_bug_keeps_its_traceback(run: Run, server: Server) -> None:
    server.failure = ZeroDivisionError("a bug")
    assert run("tools.py").exception is server.failure


def test_debug_shows_the_whole_of_an_expected_failure(run: Run, server: Server) -> None:
    server.failure = StoreError("the disk is full")
    assert run("tools.py", "--log-level", "debug").exception is server.failure
