"""Chromium without a screen, and the pages that it loads: a folder with packages of npm, served as it is on loopback.

pip cannot bring Chromium: see `debian.py`.
"""

from __future__ import annotations

import contextlib
import functools
import html
import json
import os
import re
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlencode

from tests.rigs.debian import CHROMIUM, find_command

__all__ = ["Pages", "report_of", "serving_pages"]

LIMIT = 90.0  # seconds for a page, on a busy machine
NAME = "pages.example"  # another site's, and no loopback name


@dataclass(frozen=True)
class Pages:
    """Where a folder is served.

    Attributes:
        port: On 127.0.0.1.
        done: A page has said that it has all.
    """

    port: int
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def origin(self) -> str:
        """What a page's requests say; only the Chromium of `report_of` can resolve the name."""
        return f"http://{NAME}:{self.port}"


@contextlib.contextmanager
def serving_pages(folder: Path, files: Mapping[str, bytes]) -> Iterator[Pages]:
    """Serve a folder with a `node_modules`, and files that are not in it.

    In `page.html`, IMPORT_MAP stands for one of the packages; `held` is answered once a page has posted to `done`.
    """
    page = (folder / "page.html").read_text().replace("IMPORT_MAP", json.dumps({"imports": _modules(folder)}))
    handler = functools.partial(_Handler, folder, {"/page.html": page.encode(), **files})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.pages = pages = Pages(server.server_address[1])  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, name="pages", daemon=True)
        thread.start()
        try:
            yield pages
        finally:
            pages.done.set()
            server.shutdown()
            thread.join(10.0)


def report_of(pages: Pages, query: Mapping[str, str], picture: Path | None = None) -> dict[str, Any]:
    """Load the page, wait until it is done, and read the JSON that it wrote.

    Args:
        pages: Where it is.
        query: The page's.
        picture: Make one (PNG) instead, for people: the report is empty.

    Raises:
        AssertionError: It was not done in time, or there is no report.
    """
    command = find_command(CHROMIUM)
    pages.done.clear()
    what = "--dump-dom" if picture is None else f"--screenshot={picture}"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server"]
        options += ["--no-first-run", "--disable-background-networking", "--disable-component-update"]
        options += ["--ignore-certificate-errors"]  # servers of tests show their own
        options += [f"--user-data-dir={profile}", f"--host-resolver-rules=MAP {NAME} 127.0.0.1", what]
        with subprocess.Popen(
            [command, *options, f"{pages.origin}/page.html?{urlencode(query)}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "HOME": profile},
            start_new_session=True,  # it has children: they end with it
        ) as process:
            try:
                out, log = process.communicate(timeout=LIMIT)
            except subprocess.TimeoutExpired:
                raise AssertionError(f"the page was not done after {LIMIT:g} s") from None
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    if picture is not None:
        return {}
    found = re.search(r'<pre id="report">(.+?)</pre>', out, re.DOTALL)
    assert found is not None, f"no report in the page\n{out[-2000:]}\n{log[-2000:]}"
    return json.loads(html.unescape(found[1]))


class _Handler(SimpleHTTPRequestHandler):
    extensions_map: ClassVar[dict[str, str]] = {  # whatever this machine thinks of them
        ".html": "text/html; charset=utf-8",
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        "": "application/octet-stream",
    }

    def __init__(self, folder: Path, files: Mapping[str, bytes], *args: Any) -> None:
        self.files = files
        super().__init__(*args, directory=str(folder))

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/held":
            self._done.wait(LIMIT)
            return self._answer(b"", "image/png")
        if path in self.files:
            return self._answer(self.files[path], self.guess_type(path))
        return super().do_GET()

    def do_POST(self) -> None:
        self._done.set()
        self._answer(b"", "text/plain")

    @property
    def _done(self) -> threading.Event:
        return self.server.pages.done  # type: ignore[attr-defined]

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _modules(folder: Path) -> dict[str, str]:
    """Where a browser finds what `import` names, as the packages' `exports` say it."""
    found: dict[str, str] = {}
    for name in json.loads((folder / "package.json").read_text())["dependencies"]:
        package = json.loads((folder / "node_modules" / name / "package.json").read_text())
        for key, target in package["exports"].items():
            if isinstance(target, dict) and "import" in target:
                found[name + key[1:]] = f"/node_modules/{name}/{target['import'].removeprefix('./')}"
    return found
