"""`tailrace run --workers N`: processes on one port that are started again, and replaced while clients call."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner
from mcp import Client as OfficialClient

from tailrace.cli import main
from tailrace.mcp import Client
from tests.rigs.server import ServerProcess, running, tailrace_command
from tests.rigs.valkey import Valkey

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

SERVICE = """
import asyncio, os
from tailrace import Service
svc = Service("crowd")

@svc.tool
async def pid(seconds: float = 0.0) -> int:
    await asyncio.sleep(seconds)
    return os.getpid()

@svc.tool
async def hold(path: str) -> None:
    open(path, "x").close()
    await asyncio.sleep(600)
"""
PATIENCE = 180.0  # seconds to see the end of a limit of three times what a first start took


@pytest.fixture
def target(tmp_path: Path) -> Path:
    file = tmp_path / "crowd.py"
    file.write_text(SERVICE)
    return file


@contextlib.contextmanager
def supervised(target: Path, *flags: str, store: str = "memory") -> Iterator[ServerProcess]:
    with running(tailrace_command(target, *flags, store=store), target.parent / "log") as server:
        yield server


def until(true: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit, f"it never came that {what}"
        time.sleep(0.05)


def workers(server: ServerProcess) -> set[int]:
    return {child.pid for child in psutil.Process(server.pid).children()}


async def pids(server: ServerProcess, calls: int = 12) -> set[int]:
    """Who answers, by a new connection for each call."""
    found: set[int] = set()
    for _ in range(calls):
        async with Client(server.url + "/mcp") as client:
            found.add((await client.call_tool("pid")).data)
    return found


def test_all_workers_serve_on_one_port_and_one_that_dies_is_replaced(target: Path) -> None:
    with supervised(target, "--workers", "2", "--stateless") as server:
        assert "workers=2" in server.ready_line
        first = workers(server)
        assert len(first) == 2
        seen: set[int] = set()
        for _ in range(20):
            seen |= asyncio.run(pids(server))
            if seen == first:
                break
        assert seen == first, "the system spreads connections over both"
        victim = min(first)
        os.kill(victim, signal.SIGKILL)
        until(lambda: len(workers(server) - {victim}) == 2, "another worker is there")
        assert asyncio.run(pids(server)) <= workers(server), "what is asked meanwhile waits for it"
        assert server.stop() == 0
    assert "ended with signal 9" in server.stderr()


def test_workers_end_when_their_supervisor_is_killed(target: Path) -> None:
    with supervised(target, "--workers", "2", "--stateless", "--drain", "1") as server:
        children = [psutil.Process(pid) for pid in workers(server)]
        server.process.kill()
        gone, alive = psutil.wait_procs(children, timeout=60)
        assert (len(gone), alive) == (2, [])


@contextlib.asynccontextmanager
async def calling(call: Callable[[], object], clients: int) -> AsyncIterator[list[int]]:
    """So many callers, each again and again until the block ends; gives what they got. A failed call fails the test."""
    got: list[int] = []
    stop = asyncio.Event()

    async def one() -> None:
        while not stop.is_set():
            got.append(await call())  # type: ignore[misc]

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(one())
        yield got
        stop.set()


async def replaced(server: ServerProcess, got: list[int], times: int) -> None:
    """SIGHUP, and wait until all are others and have answered; so many times."""
    for _ in range(times):
        before = workers(server)
        count = len(got)
        server.signal(signal.SIGHUP)
        async with asyncio.timeout(90):
            while workers(server) & before or len(workers(server)) != len(before):
                await asyncio.sleep(0.05)
            while not set(got[count:]) - before:
                await asyncio.sleep(0.05)
            while server.stderr().count("tailrace workers: restarted") < _ + 1:
                await asyncio.sleep(0.05)


async def test_a_rolling_restart_of_two_workers_fails_no_call(target: Path) -> None:
    with supervised(target, "--workers", "2", "--stateless") as server:

        async def call() -> int:
            async with Client(server.url + "/mcp") as client:
                return (await client.call_tool("pid", {"seconds": 0.02}, timeout=60.0)).data

        async with calling(call, clients=4) as got:
            await replaced(server, got, times=2)
        assert await asyncio.to_thread(server.stop) == 0
    assert server.records() == []


@pytest.mark.parametrize("era", ["legacy", "modern"])
@pytest.mark.parametrize("official", [False, True], ids=["ours", "official"])
async def test_one_worker_over_sqlite_is_replaced_by_the_next_and_sessions_go_on(
    target: Path, official: bool, era: Any
) -> None:
    store = f"sqlite:{target.parent / 'store.sqlite'}"
    with supervised(target, "--workers", "1", "--drain", "10", store=store) as server:
        url = server.url + "/mcp"
        async with contextlib.AsyncExitStack() as stack:
            if official:
                theirs = await stack.enter_async_context(OfficialClient(url, mode=era if era == "legacy" else "auto"))

                async def call() -> int:
                    result = await theirs.call_tool("pid", {"seconds": 0.02})
                    assert result.structured_content is not None, result
                    return result.structured_content["result"]
            else:
                ours = await stack.enter_async_context(Client(url, era=era))

                async def call() -> int:
                    return (await ours.call_tool("pid", {"seconds": 0.02}, timeout=60.0)).data

            async with calling(call, clients=3) as got:
                await replaced(server, got, times=2)
        assert await asyncio.to_thread(server.stop) == 0
    assert server.records() == []


def test_a_restart_with_code_that_does_not_load_leaves_the_old_worker(target: Path) -> None:
    with supervised(target, "--workers", "2", "--stateless") as server:
        before = workers(server)
        target.write_text("import nothing_of_that_name\n")
        server.signal(signal.SIGHUP)
        until(lambda: "the old one goes on" in server.stderr(), "the restart is given up")
        assert workers(server) == before
        assert asyncio.run(pids(server)) <= before
        assert server.stop() == 0


def test_a_service_that_cannot_start_ends_the_supervisor_with_its_code(tmp_path: Path) -> None:
    target = tmp_path / "broken.py"
    target.write_text("import nothing_of_that_name\n")
    with running(tailrace_command(target, "--workers", "2", "--stateless"), tmp_path / "log", ready=None) as server:
        assert server.wait(60) == 1
    assert server.stderr().count("No module named 'nothing_of_that_name'") == 1  # not once for each worker


def test_wrong_use_that_a_worker_finds_is_told_as_that_of_the_command(tmp_path: Path) -> None:
    target = tmp_path / "keyed.py"
    target.write_text(SERVICE.replace("@svc.tool", "@svc.tool(once=True)"))
    with running(tailrace_command(target, "--workers", "2", "--stateless"), tmp_path / "log", ready=None) as server:
        assert server.wait(60) == 2
    assert server.stderr().count("once=, or task=, of hold, pid") == 1
    assert "Usage: tailrace run" in server.stderr()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--workers", "2"], "needs a store that processes can share"),
        (["--workers", "2", "--store", "sqlite"], "needs a store that processes can share"),
        (["--workers", "2", "--stateless", "--store", "sqlite"], "a SQLite file has one worker"),
        (["--workers", "2", "--stdio"], "--workers is for HTTP"),
        (["--workers", "2", "--reload"], "not both"),
        (["--workers", "0"], "0 is not in the range"),
    ],
)
def test_what_cannot_work_is_refused(target: Path, flags: list[str], says: str) -> None:
    result = CliRunner().invoke(main, ["run", str(target), *flags])
    assert result.exit_code == 2
    assert says in result.output


SILENT = """
import os, sys, time
from tailrace.server.worker import Worker
worker = Worker.of_environment()
worker.say("ready url=nowhere store=none drain=1")
time.sleep(600)
"""
# Lives until it is told to end, and says so all the time; a life that is named, as "1:loaded", says that word only.
LIVELY = """
import os, signal, sys, time
from pathlib import Path
from tailrace.server.worker import Worker
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
worker, folder = Worker.of_environment(), Path(sys.argv[1])
hanging = dict(word.split(":") for word in sys.argv[2:])
life = len(list(folder.glob(f"worker-{worker.index}-*")))
(folder / f"worker-{worker.index}-{life}").write_text(f"{os.getpid()}\\n")
if str(life) in hanging:
    worker.say(hanging[str(life)])
    time.sleep(600)
worker.say("ready url=nowhere store=none drain=1")
while True:
    time.sleep(0.05)
    worker.say("")
"""
# The first waits, once told, until the second has come and gone; the third stays.
FAILS_LATE = """
import os, signal, sys, time
from pathlib import Path
from tailrace.server.worker import Worker
folder = Path(sys.argv[1])
def until(true):
    while not true():
        time.sleep(0.01)
def is_there(pid):
    try:
        os.kill(pid, 0)
        return True
    except ProcessLookupError:
        return False
life = len(list(folder.glob("life-*")))
(folder / f"life-{life}").write_text(str(os.getpid()))
if life == 0:
    told = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(True))
Worker.of_environment().say("ready url=nowhere store=none drain=1")
if life == 0:
    until(lambda: told)
    (folder / "told").touch()
    second = int((folder / "life-1").read_text())
    until(lambda: not is_there(second))
elif life == 1:
    until((folder / "told").exists)
    sys.exit(3)
else:
    time.sleep(600)
"""
PARENT = """
import json, subprocess, sys
options = json.loads(sys.argv[1])
refused, count = options.pop("refused"), options.pop("count")
class Popen(subprocess.Popen):
    started = 0
    def __init__(self, *args, **options):
        Popen.started += 1
        if Popen.started == refused:
            raise OSError(11, "no process is left")
        super().__init__(*args, **options)
subprocess.Popen = Popen
from tailrace.cli.workers import Workers, slots
flags = {"host": "127.0.0.1", "port": 0, "uds": None, "admin": None, "admin_token": None}
def say(text):
    print(text, file=sys.stderr, flush=True)
with slots(count, flags) as places:
    command = [sys.executable, *sys.argv[2:]]
    workers = Workers(
        command, places, limit=60, waits=1, exclusive=False, keeps=True, say=say, ready=say, **options
    )
    sys.exit(workers.run())
"""


@contextlib.contextmanager
def parent(
    folder: Path, worker: str, *words: str, silence: float = 600.0, refused: int = 0, count: int = 1, **options: float
) -> Iterator[ServerProcess]:
    """A supervisor of such workers; the system starts no process the `refused`th time that one is wanted."""
    (folder / "parent.py").write_text(PARENT)
    (folder / "worker.py").write_text(worker)
    told = json.dumps({"silence": silence, "refused": refused, "count": count, **options})
    command = [sys.executable, str(folder / "parent.py"), told, str(folder / "worker.py"), *words]
    with running(command, folder / "log", ready=None) as server:
        yield server
        server.signal(signal.SIGTERM)
        server.wait(60)


def test_a_worker_that_gives_no_sign_of_life_is_replaced(tmp_path: Path) -> None:
    with parent(tmp_path, SILENT, silence=1.0) as server:
        until(lambda: server.stderr().count("gives no sign of life and was killed") >= 2, "it is killed, and again")
        assert "ended with signal 9" in server.stderr()


def pid_of(folder: Path, worker: int, life: int) -> int:
    """Of a lively one, once it has told."""
    file = folder / f"worker-{worker}-{life}"
    until(lambda: file.exists() and file.read_text().endswith("\n"), f"{file.name} is there")
    return int(file.read_text())


def test_while_a_worker_sleeps_another_process_takes_its_place_and_it_ends_when_it_wakes(tmp_path: Path) -> None:
    with parent(tmp_path, LIVELY, str(tmp_path), count=2, absence=3.0) as server:
        until(lambda: "workers=2" in server.stderr(), "they are ready")
        sleeper = pid_of(tmp_path, 1, 0)
        os.kill(sleeper, signal.SIGSTOP)
        until(lambda: f"another takes its place pid={sleeper}" in server.stderr(), "it is missed")
        pid_of(tmp_path, 1, 1)
        assert psutil.pid_exists(sleeper), "it may wake"
        os.kill(sleeper, signal.SIGCONT)
        until(lambda: "worker 1 was replaced" in server.stderr(), "it has ended")
        assert f"killed pid={sleeper}" not in server.stderr()
        assert "tailrace workers: restarted" not in server.stderr()


def test_a_worker_that_sleeps_on_is_killed_and_that_is_no_fault_of_the_command(tmp_path: Path) -> None:
    with parent(tmp_path, LIVELY, str(tmp_path), count=2, absence=3.0, silence=9.0) as server:
        until(lambda: "workers=2" in server.stderr(), "they are ready")
        sleeper = pid_of(tmp_path, 1, 0)
        os.kill(sleeper, signal.SIGSTOP)
        until(lambda: f"another takes its place pid={sleeper}" in server.stderr(), "it is missed")
        until(lambda: f"gives no sign of life and was killed pid={sleeper}" in server.stderr(), "it is killed")
        until(lambda: "worker 1 was replaced" in server.stderr(), "the other one is there")
        server.signal(signal.SIGTERM)
        assert server.wait(60) == 0


def test_where_nobody_else_is_awake_nobody_takes_the_place_of_a_worker(tmp_path: Path) -> None:
    with parent(tmp_path, SILENT, absence=0.5, silence=2.0) as server:
        until(lambda: "gives no sign of life and was killed" in server.stderr(), "it is killed")
        assert "takes its place" not in server.stderr()


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("word", "what"), [("", "its code"), ("loaded", "its store or its lifespan")])
def test_a_worker_that_is_started_again_and_never_gets_ready_is_killed(tmp_path: Path, word: str, what: str) -> None:
    with parent(tmp_path, LIVELY, str(tmp_path), f"1:{word}", load=0.5) as server:
        until(lambda: "workers=1" in server.stderr(), "it is ready")
        os.kill(pid_of(tmp_path, 0, 0), signal.SIGKILL)
        hanging = pid_of(tmp_path, 0, 1)
        until(lambda: f"for {what}, and was killed pid={hanging}" in server.stderr(), "its time is over", PATIENCE)
        pid_of(tmp_path, 0, 2)


@pytest.mark.timeout(400)
def test_a_restart_whose_new_worker_never_gets_ready_leaves_the_old_one(tmp_path: Path) -> None:
    with parent(tmp_path, LIVELY, str(tmp_path), "1:loaded", load=0.5) as server:
        until(lambda: "workers=1" in server.stderr(), "it is ready")
        old = pid_of(tmp_path, 0, 0)
        server.signal(signal.SIGHUP)
        until(lambda: "the restart stops at worker 0" in server.stderr(), "it is given up", PATIENCE)
        assert "the old one goes on" in server.stderr()
        assert psutil.pid_exists(old)
        server.signal(signal.SIGTERM)
        assert server.wait(60) == 0


def test_a_worker_for_which_the_system_has_no_process_is_started_later(tmp_path: Path) -> None:
    with parent(tmp_path, SILENT, silence=1.0, refused=2) as server:
        until(lambda: server.stderr().count("gives no sign of life and was killed") >= 2, "another one is there")
        assert server.stderr().count("worker 0 cannot be started: [Errno 11] no process is left") == 1


def test_where_the_new_worker_ends_before_the_old_one_has_another_follows(tmp_path: Path) -> None:
    with parent(tmp_path, FAILS_LATE, str(tmp_path)) as server:
        until(lambda: "workers=1" in server.stderr(), "it is ready")
        server.signal(signal.SIGHUP)
        until((tmp_path / "life-2").exists, "another one is there")
        until(lambda: "the restart stops at worker 0" in server.stderr(), "it says so")


async def test_a_worker_that_needs_all_of_its_drain_ends_in_time_though_clients_keep_their_connections(
    target: Path, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    with Valkey() as valkey, supervised(target, "--workers", "1", "--drain", "1", store=valkey.url) as server:
        old = workers(server)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        async with Client(server.url + "/mcp") as client:
            holding = asyncio.ensure_future(client.call_tool("hold", {"path": str(begun)}))
            await asyncio.to_thread(until, begun.exists, "the call has begun")
            server.signal(signal.SIGHUP)
            await asyncio.to_thread(until, lambda: "workers: restarted" in server.stderr(), "it is replaced")
            holding.cancel()
        assert not workers(server) & old
        assert "did not end in time" not in server.stderr()
        writer.close()
        assert await asyncio.to_thread(server.stop) == 0
