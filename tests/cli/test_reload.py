"""`tailrace run --reload`: what is watched, and a server that is edited while a client talks to it."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from email.message import Message
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import click
import psutil
import pytest
from click.testing import CliRunner

from tailrace.cli import main
from tailrace.cli.reload import Files, changed, folders_of
from tests.rigs.ports import free_port
from tests.rigs.server import ServerProcess, running, tailrace_command

SERVICE = """
from tailrace import Service
svc = Service("shop")

@svc.tool
def {tool}() -> str:
    return "{tool}"
"""


# --- what is watched -----------------------------------------------------------------------------


def test_the_files_below_a_folder_are_seen_but_not_those_of_others(tmp_path: Path) -> None:
    for name in ("a.py", "sub/deep/b.py", "c.txt", ".git/d.py", "__pycache__/e.py", "env/f.py", "env/pyvenv.cfg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "sub/again").symlink_to(tmp_path)
    assert sorted(Path(path).name for path in Files([tmp_path]).look()) == ["a.py", "b.py"]


def test_a_change_is_a_file_that_is_new_gone_or_not_as_it_was(tmp_path: Path) -> None:
    files = Files([tmp_path])
    for name in ("gone", "same", "edited"):
        (tmp_path / f"{name}.py").write_text("1")
    before = files.look()
    (tmp_path / "gone.py").unlink()
    (tmp_path / "edited.py").write_text("22")
    (tmp_path / "new.py").touch()
    assert [Path(path).stem for path in changed(before, files.look())] == ["edited", "gone", "new"]


def test_not_more_files_than_the_limit_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace.cli.reload._MAX_FILES", 2)
    for name in "abc":
        (tmp_path / f"{name}.py").touch()
    files = Files([tmp_path])
    assert len(files.look()) == 2
    assert files.too_many


def test_a_folder_that_is_not_there_has_no_files(tmp_path: Path) -> None:
    assert Files([tmp_path / "gone"]).look() == {}


def test_the_folder_of_a_target_is_found_without_importing_it(folder: Path) -> None:
    (folder / "pkg").mkdir()
    for name in ("one.py", "pkg/__init__.py", "pkg/mod.py"):
        (folder / name).write_text("raise RuntimeError")
    here = folder.resolve()
    assert folders_of("one.py") == folders_of("one.py:svc") == folders_of("one:svc") == [here]
    assert folders_of("pkg.mod:svc") == folders_of("pkg.mod") == [here / "pkg"]
    for wrong in ("two.py", "nowhere.mod:svc", "a-b"):
        with pytest.raises(click.UsageError):
            folders_of(wrong)


def test_it_is_not_for_stdio(folder: Path) -> None:
    (folder / "one.py").touch()
    done = CliRunner().invoke(main, ["run", "one.py", "--reload", "--stdio"])
    assert done.exit_code == 2
    assert "--reload is for HTTP" in done.output


# --- a server that is edited ---------------------------------------------------------------------


def until(true: Callable[[], object], server: ServerProcess, limit: float = 100.0) -> None:
    end = time.monotonic() + limit
    while not true():
        assert time.monotonic() < end, server.stderr_tail()
        time.sleep(0.05)


def write(path: Path, text: str) -> None:
    """At once, as editors do: nobody sees half of it. And in the second of the last one, as a quick hand does."""
    new, last = path.with_suffix(".new"), path.stat().st_mtime_ns
    new.write_text(text)
    os.utime(new, ns=(last, last - last % 10**9 + (last + 1) % 10**9))
    new.replace(path)


class Session:
    """One session over Streamable HTTP, which is never begun anew."""

    def __init__(self, url: str) -> None:
        self.host = urlsplit(url).netloc
        self.headers = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-06-18"}
        info = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        _, headers, _ = self._post({"id": 1, "method": "initialize", "params": info})
        self.headers["mcp-session-id"] = headers["mcp-session-id"]
        self._post({"method": "notifications/initialized"})

    def tools(self) -> str:
        """The reply to `tools/list`; empty while nobody listens. Only that: a refused session is a failure."""
        try:
            status, _, text = self._post({"id": 2, "method": "tools/list"})
        except OSError:
            return ""
        assert status in (200, 503), f"{status} {text}"
        return text if status == 200 else ""

    def _post(self, message: dict[str, object]) -> tuple[int, Message, str]:
        """Status, headers and body of one POST.

        Raises:
            OSError: Nobody listens, or the connection broke.
        """
        headers = {**self.headers, "content-type": "application/json"}
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        connection = HTTPConnection(self.host, timeout=30)
        try:
            connection.request("POST", "/mcp", body, headers)
            reply = connection.getresponse()
            return reply.status, reply.headers, reply.read().decode()
        except HTTPException as error:
            raise OSError("the connection broke") from error
        finally:
            connection.close()


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "code").mkdir()
    path = tmp_path / "code/shop.py"
    path.write_text(SERVICE.format(tool="brew"))
    return path


@pytest.fixture
def server(shop: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    store = f"sqlite:{tmp_path / 'store.db'}"
    command = tailrace_command(shop, "--reload", "--drain", "2", store=store, port=free_port())
    with running(command, tmp_path / "log", start_limit=60.0) as server:
        yield server


def children(server: ServerProcess) -> list[psutil.Process]:
    return psutil.Process(server.pid).children(recursive=True)


@pytest.mark.e2e
@pytest.mark.timeout(400)
def test_an_edit_brings_the_new_tool_and_the_session_stays_valid(server: ServerProcess, shop: Path) -> None:
    session = Session(server.url)
    assert "brew" in session.tools()
    write(shop, SERVICE.format(tool="pour"))
    until(lambda: "pour" in session.tools(), server)
    assert "shop.py changed; restarting" in server.stderr_tail()

    write(shop, "def broken(:\n")  # the server that runs goes on
    until(lambda: "not restarted" in server.stderr_tail(), server)
    assert "pour" in session.tools()

    write(shop, "raise RuntimeError('at import')\n")
    until(lambda: "waiting for a change" in server.stderr_tail(), server)
    write(shop, SERVICE.format(tool="serve"))
    until(lambda: "serve" in session.tools(), server)

    (child,) = children(server)
    assert server.stop() == 0
    assert not child.is_running()


@pytest.mark.e2e
@pytest.mark.timeout(240)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nobody_is_left_behind_when_the_parent_ends(server: ServerProcess, number: int) -> None:
    (child,) = children(server)
    os.kill(server.pid, number)
    code = server.process.wait(60)
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 0)
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, server)


@pytest.mark.e2e
@pytest.mark.timeout(240)
def test_what_was_asked_for_wrongly_ends_both(tmp_path: Path) -> None:
    (tmp_path / "none.py").write_text("x = 1\n")
    with running(tailrace_command(tmp_path / "none.py", "--reload"), tmp_path / "log", ready=None) as server:
        assert server.wait(60) == 2
