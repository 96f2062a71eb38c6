"""docs/tutorial.md, walked from its first line to its last: its files written, its commands run, its words seen."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rigs.ports import free_port
from tests.rigs.server import ServerProcess

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(400),
    pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them"),
]

PAGE = Path(__file__).parents[2] / "docs/tutorial.md"
BLOCK = re.compile(r'^```(sh|text|python title="([\w.]+)")\n(.*?)^```$', re.MULTILINE | re.DOTALL)
URL = "http://127.0.0.1:8000"
READY = re.compile(r"tailrace ready url=(?P<url>\S+)")


class Reader:
    """Somebody who does what the page says, block after block, with a port that is free in place of 8000."""

    def __init__(self, folder: Path) -> None:
        self._blocks = BLOCK.finditer(PAGE.read_text())
        self._folder = folder
        self._env = {
            "XDG_STATE_HOME": str(folder / "state"),
            "HOME": str(folder),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        self._port = free_port()
        self._servers: list[ServerProcess] = []

    def _next(self, kind: str) -> re.Match[str]:
        block = next(self._blocks)
        assert block[1].startswith(kind), block[0]
        return block

    def write(self) -> None:
        """Make the file of the next block."""
        block = self._next("python")
        (self._folder / block[2]).write_text(block[3])

    def commands(self) -> list[list[str]]:
        """The words of the next block's commands, for this machine; installing is done already."""
        found: list[list[str]] = []
        for line in self._next("sh")[3].splitlines():
            words = shlex.split(line.replace(URL, f"http://127.0.0.1:{self._port}"))
            if words[0] == "tailrace":
                words = [sys.executable, "-m", *words]
            elif words[0] == "python":
                words = [sys.executable, *words[1:]]
            if words[0] != "pip":
                found.append(words)
        return found

    def expects(self, said: str) -> None:
        """What the page shows stands in what was said."""
        shown = self._next("text")[3].replace(URL, f"http://127.0.0.1:{self._port}").strip()
        assert shown in said, said

    def serve(self) -> ServerProcess:
        (words,) = self.commands()
        assert words[2:4] == ["tailrace", "run"]
        path = str(self._folder / words[4])  # the rig starts all servers in one folder
        command = [*words[:4], path, *words[5:], "--port", str(self._port)]
        server = ServerProcess(command, self._folder / f"server{len(self._servers)}.log", env=self._env, ready=READY)
        self._servers.append(server)
        server.wait_ready(60)
        return server

    def start(self, words: list[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            words,
            cwd=self._folder,
            env={**os.environ, **self._env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, words: list[str]) -> str:
        """Run one command to its end; what it said."""
        process = self.start(words)
        said, _ = process.communicate(timeout=100)
        assert process.returncode == 0, said
        return said

    def leave(self) -> None:
        for server in self._servers:
            if server.process.poll() is None:
                server.kill()


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path)
    yield reader
    reader.leave()


def until(process: subprocess.Popen[str], said: str) -> None:
    """Read what it says up to a line with these words; the time limit is the test's."""
    assert process.stdout is not None
    for line in process.stdout:
        if said in line:
            return
    raise AssertionError(f"it ended without saying {said!r}")


def test_the_tutorial_is_as_it_says(reader: Reader) -> None:
    assert reader.commands() == []  # pip install
    reader.write()
    server = reader.serve()
    reader.expects(server.ready_line)

    ls, call = reader.commands()
    assert "Brew some cups of tea" in reader.run(ls)
    reader.expects(reader.run(call))
    (curl,) = reader.commands()
    if shutil.which("curl"):
        reader.expects(reader.run([curl[0], "-s", *curl[1:]]))
    else:
        reader._next("text")

    (keyed,) = reader.commands()  # "Cut the client off"
    first = reader.start(keyed)
    until(first, "brewing cup 3")
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=60)
    assert first.returncode != 0
    answer = '{\n  "sencha": 8\n}'
    joined = reader.run(keyed)
    assert answer in joined
    assert "brewing cup 1\n" not in joined
    assert "progress" not in (replayed := reader.run(keyed))
    assert answer in replayed
    assert server.log.read_text().count("brewing sencha") == 2  # one without a key, one with

    (second,) = reader.commands()  # "Kill the server"
    waiting = reader.start(second)
    until(waiting, "brewing cup 2")
    server.signal(signal.SIGQUIT)
    assert server.wait(30) == -signal.SIGQUIT
    server = reader.serve()
    said, _ = waiting.communicate(timeout=100)
    assert waiting.returncode == 0, said
    assert '"oolong": 8' in said
    assert server.log.read_text().count("brewing oolong") == 1  # and once in the life before

    reader.write()  # "Publish"
    server.signal(signal.SIGINT)
    assert server.wait(60) == 0
    server = reader.serve()
    (third,) = reader.commands()
    assert '"sencha": 2' in reader.run(third)
    server.signal(signal.SIGINT)
    assert server.wait(60) == 0  # the outbox is delivered by then
    reader.expects(server.log.read_text())

    reader.write()  # "Test it"
    (test,) = reader.commands()
    reader.expects(reader.run([*test, "-p", "no:cacheprovider", "-W", "ignore"]))

    (install,) = reader.commands()
    assert '"mcpServers"' in reader.run(install)
    assert next(reader._blocks, None) is None, "all of the page was walked"
