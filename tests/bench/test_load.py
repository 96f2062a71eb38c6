"""The load generator finds what a server does wrong, and nothing wrong with ours."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from bench.measure import measure
from bench.servers import HERE, SERVERS, Server, build_load, prepare
from bench.trials import TRIALS, Trial
from tests.conftest import Needs

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def built() -> Path | None:
    """The load generator; None where there is no Go (nothing is installed for a test)."""
    if shutil.which("go") is None and not (HERE / ".venvs/go/bin/go").exists():
        return None
    return build_load()


@pytest.fixture
def load(built: Path | None, needs: Needs) -> Path:
    return built or needs("go", "it builds the load generator; `make bench` installs one")


# --- ours -----------------------------------------------------------------------------------------


def trial(name: str, **flags: str) -> Trial:
    found = next(one for one in TRIALS if one.name == name)
    return replace(found, flags={**found.flags, **flags}, quick_flags={})


@pytest.mark.parametrize("name", ["echo", "echo-modern", "echo-sse", "echo-stdio", "structured"])
def test_every_answer_of_ours_is_right(load: Path, tmp_path: Path, name: str) -> None:
    sample = measure(trial(name), SERVERS[0], load, tmp_path, quick=True)
    assert sample["calls"] > 0
    assert (sample["failed"], sample["wrong"], sample["reconnects"]) == (0, 0, 0)
    assert sample["p50_us"] <= sample["p90_us"] <= sample["p99_us"]
    assert sample["cpu_us"] > 0


@pytest.mark.parametrize(
    "one",
    [
        trial("burst"),
        trial("burst-sse"),
        trial("broadcast", sessions="20"),
        trial("idle-streams", sessions="20", hold="0.2s"),
        trial("resume"),
    ],
    ids=lambda one: one.name,
)
def test_nothing_of_ours_is_lost(load: Path, tmp_path: Path, one: Trial) -> None:
    sample = measure(one, SERVERS[0], load, tmp_path, quick=True)
    assert (sample["lost"], sample.get("misordered", 0)) == (0, 0)
    assert sample.get("said", "complete") == "complete"


def of(name: str) -> Server:
    return next(one for one in SERVERS if one.name == name)


@pytest.mark.parametrize(
    ("name", "server", "relayed"),
    [
        ("workers-8", "tailrace-2", None),
        ("workers-each-8", "tailrace-1", None),
        ("stores-32", "tailrace-valkey-own", 0),
        ("stores-32", "tailrace-valkey-other", 100),
    ],
)
def test_calls_of_workers_are_right_and_go_where_they_should(
    load: Path, tmp_path: Path, needs: Needs, name: str, server: str, relayed: int | None
) -> None:
    contestant = of(server)
    if (missing := prepare(contestant)) is not None:
        needs("valkey", missing)
    sample = measure(trial(name), contestant, load, tmp_path, quick=True)
    assert sample["calls"] > 0
    assert (sample["failed"], sample["wrong"], sample["reconnects"]) == (0, 0, 0)
    assert sample.get("away_percent") == relayed
    assert ("beside_us" in sample) == (relayed is not None)
    assert sample["cpu_us"] > 0


def test_a_slow_reader_does_not_hold_up_its_own_session(load: Path, tmp_path: Path) -> None:
    sample = measure(trial("slow-reader"), SERVERS[0], load, tmp_path, quick=True)
    assert (sample["failed"], sample["same_session_failed"]) == (0, 0)
    assert sample["same_session_calls"] > 0
    assert sample["p50_ratio"] > 0


def test_a_server_that_cannot_be_started_is_an_error(load: Path, tmp_path: Path) -> None:
    broken = replace(SERVERS[0], command=lambda *_: ["false"])
    with pytest.raises(RuntimeError, match="ended with 1"):
        measure(trial("echo"), broken, load, tmp_path, quick=True)


# --- others, that do something wrong --------------------------------------------------------------

Answering = Callable[[dict[str, Any]], list[dict[str, Any]]]


def result(request: dict[str, Any], text: str, **more: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request["id"], "result": {"content": [{"type": "text", "text": text}], **more}}


def progress(request: dict[str, Any], n: int) -> dict[str, Any]:
    params = {"progressToken": request["params"]["_meta"]["progressToken"], "progress": n, "message": "x" * 64}
    return {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}


@pytest.fixture
def faulty() -> Iterator[Callable[[Answering], str]]:
    """Serve what a function answers to each tools/call, as one event stream; gives the URL."""
    servers: list[ThreadingHTTPServer] = []

    def serve(answering: Answering) -> str:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                message = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if "id" not in message:
                    self.send_response(202)
                    self.send_header("content-length", "0")
                    return self.end_headers()
                told = answering(message) if message["method"] == "tools/call" else [result(message, "hello")]
                body = "".join(f"data: {json.dumps(one)}\n\n" for one in told).encode()
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                return None

            def log_message(self, *_: Any) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/mcp"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def generated(load: Path, url: str, *flags: str) -> tuple[dict[str, Any], str]:
    command = [str(load), f"-url={url}", "-clients=1", "-seconds=300ms", "-warmup=0s", "-limit=30s", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    last = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}
    return last.get("result", {}), done.stderr


def echoed(request: dict[str, Any]) -> str:
    return request["params"]["arguments"]["text"]


@pytest.mark.parametrize(
    ("answering", "complaint"),
    [
        (lambda request: [result(request, "something else")], "not what was asked for"),
        (lambda request: [result({"id": request["id"] + 1}, echoed(request))], "not the id"),
        (lambda request: [result(request, echoed(request), isError=True)], "the tool failed"),
        (lambda request: [{"jsonrpc": "2.0", "id": request["id"], "error": {"code": -1, "message": "no"}}], "an error"),
        (lambda request: [], "the stream ended before the answer"),
    ],
    ids=["another text", "another id", "a tool error", "an error", "no answer"],
)
def test_a_wrong_answer_is_not_counted_as_a_call(
    load: Path, faulty: Callable[[Answering], str], answering: Answering, complaint: str
) -> None:
    got, _ = generated(load, faulty(answering))
    assert got["calls"] == 0
    assert got["failed"] + got["wrong"] > 0
    assert complaint in got["complaint"]


@pytest.mark.parametrize(
    ("numbers", "lost", "misordered"),
    [
        ([1, 2, 3, 4], 0, 0),
        ([1, 2, 4], 1, 0),
        ([1, 2], 2, 0),
        ([], 4, 0),
        ([1, 2, 2, 3, 4], 0, 1),
        ([2, 1, 3, 4], 1, 1),
    ],
    ids=["all", "one missing", "the end missing", "none", "one twice", "out of order"],
)
def test_notifications_that_are_lost_or_out_of_order_are_counted(
    load: Path, faulty: Callable[[Answering], str], numbers: list[int], lost: int, misordered: int
) -> None:
    url = faulty(lambda request: [*(progress(request, n) for n in numbers), result(request, "sent")])
    got, errors = generated(load, url, "-trial=burst", "-count=4")
    assert errors == ""
    calls = got["calls"]
    assert (got["lost"], got["misordered"]) == (lost * calls, misordered * calls)


def test_a_notification_behind_its_answer_is_not_counted_for_the_next_call(
    load: Path, faulty: Callable[[Answering], str]
) -> None:
    late: list[dict[str, Any]] = []

    def answering(request: dict[str, Any]) -> list[dict[str, Any]]:
        told = [*late, *(progress(request, n) for n in (1, 2, 3)), result(request, "sent")]
        late[:] = [progress(request, 4)]
        return told

    got, _ = generated(load, faulty(answering), "-trial=burst", "-count=4")
    assert got["lost"] == got["calls"]
    assert got["arrived"] == 3 * got["calls"]
    assert got["misordered"] >= got["calls"] - 1
