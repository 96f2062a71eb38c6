"""A real Prometheus that scrapes one server, and answers queries.

pip cannot bring it: see `debian.py`.
"""

from __future__ import annotations

import contextlib
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.rigs.ports import free_port
from tests.rigs.server import ServerProcess

__all__ = ["Prometheus", "scraping"]

LIMIT = 60.0  # seconds for it to be ready, and for what is expected to be scraped
_CONFIG = """
global:
  scrape_interval: 500ms  # and as long may a scrape take
scrape_configs:
  - job_name: tailrace
    authorization: {{type: Bearer, credentials: {token}}}
    static_configs:
      - targets: ["{target}"]
"""


class Prometheus:
    """One that runs.

    Args:
        url: Its address.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str) -> Any:
        """A reply of its API; None while it does not answer."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=10.0) as reply:
                return reply.read()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None

    def value(self, query: str) -> float | None:
        """The sum of what a query finds now; None where it finds nothing."""
        reply = self.get("/api/v1/query?" + urllib.parse.urlencode({"query": query}))
        found = [] if reply is None else json.loads(reply)["data"]["result"]
        return sum(float(one["value"][1]) for one in found) if found else None

    def wait_value(self, query: str, expected: float) -> None:
        """Wait until a query gives `expected`, at most `LIMIT` seconds."""
        deadline = time.monotonic() + LIMIT
        while (value := self.value(query)) != expected:
            assert time.monotonic() < deadline, f"{query} is {value}, and not {expected}"
            time.sleep(0.1)


@contextlib.contextmanager
def scraping(command: str, target: str, token: str, folder: Path) -> Iterator[Prometheus]:
    """One that scrapes `target` (host and port) with a token."""
    config = folder / "prometheus.yml"
    config.write_text(_CONFIG.format(target=target, token=token))
    port = free_port()
    arguments = [command, f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}",
                 f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]  # fmt: skip
    process = ServerProcess(arguments, folder / "prometheus.log", ready=None)
    server = Prometheus(f"http://127.0.0.1:{port}")
    try:
        deadline = time.monotonic() + LIMIT
        while server.get("/-/ready") is None:
            assert process.process.poll() is None, process.stderr_tail()
            assert time.monotonic() < deadline, process.stderr_tail()
            time.sleep(0.1)
        yield server
    finally:
        process.close()
