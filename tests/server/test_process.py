"""The process around a server: its socket's file, its certificate, the signal that comes too early, its log's lines."""

from __future__ import annotations

import io
import logging
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from tailrace import DefinitionError, Service
from tailrace.cli.target import default_store, load
from tailrace.server import make_settings, run
from tailrace.server.logs import _JsonFormatter, _TextFormatter, set_up_logging  # pyright: ignore[reportPrivateUsage]
from tailrace.server.places import store_of_program
from tailrace.server.process import _vacate  # pyright: ignore[reportPrivateUsage]
from tailrace.server.sockets import listen, unlink
from tailrace.server.tls import tls_context
from tests.rigs.server import running, tailrace_command

STARTS_SLOWLY = """
import asyncio, sys
from tailrace import Service

svc = Service("slow")

@svc.lifespan
async def lifespan(service):
    print("tailrace ready url=http://not-yet:1 store=- drain=-", file=sys.stderr, flush=True)
    await asyncio.sleep(3600)
    yield
"""
FAILS_AT_ITS_END = """
from tailrace import Service

svc = Service("careless")

@svc.lifespan
async def lifespan(service):
    yield
    raise ValueError("cannot let go")
"""
NEVER_RETURNS = """
import asyncio, sys, threading, time
from tailrace import Service

svc = Service("stuck")

@svc.lifespan
async def lifespan(service):
    waiting = asyncio.ensure_future(asyncio.to_thread(time.sleep, 3600))
    threading.Thread(target=time.sleep, args=(3600,)).start()
    yield
    waiting.cancel()
"""


# --- the Unix socket's file -----------------------------------------------------------------------


def test_a_file_that_is_no_socket_is_never_removed(tmp_path: Path) -> None:
    precious = tmp_path / "data.db"
    precious.write_text("precious")
    with pytest.raises(OSError, match="in use"):
        listen("", 0, str(precious))
    assert precious.read_text() == "precious"


def test_a_path_that_is_too_long_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"cannot listen on .*: AF_UNIX path too long"):
        listen("", 0, str(tmp_path / ("x" * 200)))


def test_a_stale_socket_is_replaced_and_one_that_answers_is_not(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    listen("", 0, str(path)).close()
    with listen("", 0, str(path)):
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(OSError, match="in use"):
            listen("", 0, str(path))


def test_the_socket_of_a_successor_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    first = listen("", 0, str(path))
    bound = path.stat()
    first.close()
    path.rename(tmp_path / "kept")  # so that its inode is not used again
    with listen("", 0, str(path)):
        unlink(str(path), bound)
        assert path.exists()
        unlink(str(path), path.stat())
        assert not path.exists()


# --- flags of a program ---------------------------------------------------------------------------


@pytest.mark.parametrize("half", [{"tls_cert": "cert.pem"}, {"tls_key": "key.pem"}])
def test_half_of_tls_is_refused_and_not_served_in_the_clear(half: dict[str, str]) -> None:
    with pytest.raises(DefinitionError, match="belong together"):
        run(Service("half"), transport="http", port=0, **half)


def test_replies_do_not_wait_for_a_delayed_ack() -> None:
    """asyncio sets TCP_NODELAY on accepted sockets whose listening socket names its protocol, and on no other."""
    with listen("127.0.0.1", 0, None) as listening:
        assert listening.proto == socket.IPPROTO_TCP


def test_one_host_is_one_host() -> None:
    assert make_settings({"allow_host": "a.example"}).allow_hosts == ("a.example",)
    assert make_settings({"allow_origin": ["https://a.example"]}).allow_origins == ("https://a.example",)


# --- the end --------------------------------------------------------------------------------------


@pytest.mark.e2e
def test_a_signal_ends_a_start_that_does_not_end(tmp_path: Path) -> None:
    target = tmp_path / "target.py"
    target.write_text(STARTS_SLOWLY)
    with running(tailrace_command(target, "--drain", "1"), tmp_path / "stderr") as server:  # it is in its lifespan
        assert server.stop(10.0) == 0, server.stderr_tail()


@pytest.mark.e2e
def test_a_second_signal_ends_it_although_its_loop_is_blocked(tmp_path: Path) -> None:
    target = tmp_path / "target.py"
    target.write_text(STARTS_SLOWLY.replace("await asyncio.sleep", "__import__('time').sleep"))
    with running(tailrace_command(target), tmp_path / "stderr") as server:
        server.process.send_signal(signal.SIGTERM)
        server.process.send_signal(signal.SIGINT)
        assert server.wait(60.0) in (128 + signal.SIGTERM, 128 + signal.SIGINT)
        assert "a second signal: exiting at once" in server.stderr()


@pytest.mark.e2e
def test_a_lifespan_that_fails_at_its_end_is_said_without_our_part(tmp_path: Path) -> None:
    target = tmp_path / "target.py"
    target.write_text(FAILS_AT_ITS_END)
    with running(tailrace_command(target), tmp_path / "stderr") as server:
        assert server.stop(60.0) == 1
        assert server.stderr().splitlines()[-1] == "Error: the service's lifespan failed: ValueError: cannot let go"
        assert "Traceback" not in server.stderr()


@pytest.mark.e2e
def test_the_exit_waits_for_no_thread(tmp_path: Path) -> None:
    target = tmp_path / "target.py"
    target.write_text(NEVER_RETURNS)
    with running(tailrace_command(target, "--drain", "1"), tmp_path / "stderr") as server:
        assert server.stop(15.0) == 0, server.stderr_tail()
        assert "threads do not end" in server.stderr()
        assert server.records() == []


# --- the log --------------------------------------------------------------------------------------


def test_no_text_of_a_client_begins_a_line_or_reaches_the_terminal_as_a_command() -> None:
    forged = "one\r\n2026-11-21T00:00:00.000Z ERROR forged\x1b[2J\x9b2J\u2028end"
    handler = logging.StreamHandler(written := io.StringIO())
    handler.setFormatter(_TextFormatter())
    log = logging.Logger("app")
    log.addHandler(handler)
    try:
        raise ValueError(forged)
    except ValueError:
        log.exception("got %s", forged)
    first, *others = written.getvalue().splitlines()
    assert first.endswith(r"ERROR app got one\r\n2026-11-21T00:00:00.000Z ERROR forged\x1b[2J\x9b2J\u2028end")
    assert others[0] == "  Traceback (most recent call last):"
    assert all(line.startswith("  ") for line in others)
    assert others[-1] == r"  2026-11-21T00:00:00.000Z ERROR forged\x1b[2J\x9b2J\u2028end"


@pytest.mark.parametrize("text", ["x" * 1_000_000, "x\n" * 500_000])
def test_a_traceback_repeats_only_a_little_of_what_a_client_sent(text: str) -> None:
    record = logging.LogRecord("tailrace.tools", logging.ERROR, "", 0, "the tool raised an exception", None, None)
    try:
        raise ValueError(f"invalid: {text} (the end)")
    except ValueError as error:
        record.exc_info = (ValueError, error, error.__traceback__)
    for formatter in (_TextFormatter(), _JsonFormatter()):
        said = formatter.format(record)
        assert len(said) < 10_000
        assert "Traceback (most recent call last)" in said
        assert "ValueError: invalid: x" in said
        assert "(the end)" in said


# --- a program's own ------------------------------------------------------------------------------


def test_the_log_of_a_program_that_has_set_it_up_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    theirs, level = [logging.NullHandler()], root.level
    monkeypatch.setattr(root, "handlers", list(theirs))
    set_up_logging("debug", "text", replace=False)
    assert (root.handlers, root.level) == (theirs, level)
    try:
        monkeypatch.setattr(root, "handlers", [])
        set_up_logging("error", "text", replace=False)
        assert len(root.handlers) == 1, "where there is none, ours is better than none"
        set_up_logging("error", "text")
        assert len(root.handlers) == 1
    finally:
        root.setLevel(level)


def test_sqlite_without_a_path_is_the_file_that_the_command_line_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    program = tmp_path / "shop.py"
    program.write_text("from tailrace import Service\nsvc = Service('shop')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))  # the file's folder is added to it
    found = load("shop.py")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(program), raising=False)
    monkeypatch.setattr(sys.modules["__main__"], "svc", found.service, raising=False)
    assert store_of_program(found.service) == f"sqlite:{default_store(found)}"
    assert default_store(found).parent.stat().st_mode & 0o777 == 0o700
    monkeypatch.delattr(sys.modules["__main__"], "__file__")
    with pytest.raises(DefinitionError, match="sqlite:PATH"):
        store_of_program(found.service)


def test_an_encrypted_tls_key_is_refused_and_nobody_is_asked(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.cert_chain_pems[0].write_to_path(cert)
    plain = serialization.load_pem_private_key(certificate.private_key_pem.bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"secret")
    key.write_bytes(plain.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    with pytest.raises(DefinitionError, match="encrypted"):
        tls_context(str(cert), str(key))


class Idle:
    """Somebody is connected, and says nothing; tells how often it was asked."""

    asked = 0

    async def vacated(self, seconds: float) -> bool:
        self.asked += 1
        return self.asked == 3


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("others", "asked"), [([1, 1, 1, 1], 3), ([1, 0], 1), ([0], 0)])
async def test_idle_connections_are_kept_while_another_worker_stays(others: list[int], asked: int) -> None:
    serving: Any = Idle()
    staying = iter([{"another"} if one else set[str]() for one in others])
    await _vacate(serving, lambda: next(staying), float("inf"))
    assert serving.asked == asked
