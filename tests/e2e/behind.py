"""Reverse proxies as people put them in front of a server, as they are: Go's `httputil.ReverseProxy`, and nginx.

nginx comes by no package of pip: see `tests/rigs/debian.py`.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e import installing
from tests.rigs.debian import NGINX, command_or_skip
from tests.rigs.ports import free_port
from tests.rigs.server import running

_READY = re.compile(r"proxy ready url=(?P<url>\S+)")
_NGINX_READY = re.compile(r"start worker process (?P<url>\d+)")
_NGINX = """\
    daemon off;
    worker_processes 1;
    pid {folder}/nginx.pid;
    error_log stderr notice;
    events {{ worker_connections 256; }}
    http {{
        access_log off;
        client_body_temp_path {folder}/body;
        proxy_temp_path {folder}/proxy;
        fastcgi_temp_path {folder}/fastcgi;
        uwsgi_temp_path {folder}/uwsgi;
        scgi_temp_path {folder}/scgi;
        server {{
            listen 127.0.0.1:{port};
            location / {{
                proxy_pass {target};
                proxy_http_version 1.1;
                proxy_set_header Connection "";
            }}
        }}
    }}
"""


@contextmanager
def proxied(kind: str, target: str, folder: Path, *flags: str) -> Iterator[str]:
    """The address of a proxy of `kind` ("go" or "nginx") in front of `target`; `flags` are for the Go program."""
    with _go(target, folder, *flags) if kind == "go" else _nginx(target, folder) as url:
        yield url


@contextmanager
def _go(target: str, folder: Path, *flags: str) -> Iterator[str]:
    try:
        program = installing.go_proxy()
    except installing.Missing as missing:
        part, reason = missing.args
        pytest.skip(f"needs {part}: {reason}")
    with running([str(program), *flags, target], folder / "goproxy.log", ready=_READY) as process:
        yield process.url


@contextmanager
def _nginx(target: str, folder: Path) -> Iterator[str]:
    """As it comes: its buffering is on, and our streams ask for theirs to be off.

    (Small events come through either way; with buffering it would also take megabytes for a client that reads slowly.)
    """
    nginx = command_or_skip(NGINX)
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(textwrap.dedent(_NGINX).format(folder=folder, port=port, target=target))
    command = [nginx, "-p", str(folder), "-c", str(config)]
    with running(command, folder / "nginx.log", ready=_NGINX_READY) as process:
        yield f"http://127.0.0.1:{port}"
        process.stop()  # its worker ends with it
