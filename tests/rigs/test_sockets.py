"""A connection is known by its process: the soak of many workers cuts the network of one of them by it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from tests.rigs.sockets import has_connection


def test_a_connection_is_that_of_the_process_that_has_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            own = client.getsockname()[1]
            assert has_connection(os.getpid(), own, port)
            assert not has_connection(os.getppid(), own, port)
            assert not has_connection(os.getpid(), own, own), "to somebody else"
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        assert not has_connection(ended.pid, own, port)
