"""Connect's own JavaScript clients against `tailrace run`: in Node, and in a page that a browser has from elsewhere."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import trustme

from tests.e2e.fixtures.echoes import svc
from tests.rigs.browser import Pages, report_of, serving_pages
from tests.rigs.debian import CHROMIUM, command_or_skip
from tests.rigs.npm import NODE, npm_problem
from tests.rigs.server import ROOT, ServerProcess, running, tailrace_command

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(480)]  # the first may fetch Chromium
FOLDER = ROOT / "tests" / "rpcnode" / "node"
ECHOES = ROOT / "tests" / "e2e" / "fixtures" / "echoes.py"
NO_RUM = {"code": "NotFound", "message": "no rum: \u2615", "details": ["why"], "hint": "try tea"}
TOKEN = "open-sesame"


@pytest.fixture(autouse=True)
def packages(needs: Callable[[str, str], NoReturn]) -> None:
    if problem := npm_problem(FOLDER):
        needs("node", problem)


@pytest.fixture
def descriptors() -> bytes:
    return svc.descriptor_set().SerializeToString()


@pytest.fixture
def pages(descriptors: bytes) -> Iterator[Pages]:
    """Pages of a site that is not the server's."""
    command_or_skip(CHROMIUM)
    with serving_pages(FOLDER, {"/set.binpb": descriptors}) as pages:
        yield pages


def check(seen: dict[str, Any]) -> None:
    """What `commonCalls` of calls.mjs has seen, whatever the protocol."""
    assert seen["echo"]
    assert (seen["asked"], seen["raw"]) == ("tea?", "AAE")
    assert seen["counted"] == list(range(100))
    assert seen["error"] == NO_RUM
    assert seen["late"]["code"] == "DeadlineExceeded"
    assert seen["left"]["code"] == "Canceled"


def is_quiet(server: ServerProcess) -> None:
    assert server.records() == [], server.stderr_tail()


@pytest.mark.parametrize(
    ("protocol", "http", "options"),
    [
        ("connect", "1.1", {}),
        ("connect", "2", {}),
        ("connect", "2", {"json": True}),  # and by GET
        ("connect", "2", {"gzip": True}),
        ("grpc", "2", {}),
        ("grpc", "2", {"gzip": True}),
        ("grpc-web", "1.1", {}),
        ("grpc-web", "2", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_connect_node_calls_all_kinds(
    protocol: str, http: str, options: dict[str, bool], descriptors: bytes, tmp_path: Path
) -> None:
    with running(tailrace_command(ECHOES), tmp_path / "log") as server:
        given = {"url": server.url, "set": base64.b64encode(descriptors).decode(), "protocol": protocol, "http": http}
        command = [str(NODE), str(FOLDER / "node.mjs"), json.dumps({**given, **options})]
        result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
        assert result.returncode == 0, result.stderr[-2000:]
        report = json.loads(result.stdout)
        check(report)
        gone = "StreamReset" if http == "2" else "ClientGone"
        assert f"left: {gone}" in report["left"]["seen"]
        assert report["joined"] == "a,b"
        assert report["chat"] == ["TEA", "MILK"]
        assert report["refused"]["code"] == "Unimplemented"
        is_quiet(server)


@pytest.mark.parametrize("secure", [False, True], ids=["clear", "tls"])
def test_a_page_of_an_allowed_origin_calls(secure: bool, pages: Pages, tmp_path: Path) -> None:
    command = tailrace_command(ECHOES, "--allow-origin", pages.origin)
    if secure:  # browsers speak HTTP/2 over TLS alone
        file = tmp_path / "server.pem"
        trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(file))
        command += ["--tls-cert", str(file), "--tls-key", str(file)]
    with running(command, tmp_path / "log") as server:
        report = report_of(pages, {"target": server.url, "goes_on": "NotFound"})
        assert report.pop("origin") == pages.origin
        assert set(report) == {"connect", "connect in binary", "grpc-web"}, report
        for seen in report.values():
            assert seen["first"] == NO_RUM
            check(seen)
            assert f"left: {'StreamReset' if secure else 'ClientGone'}" in seen["left"]["seen"]
        is_quiet(server)


def test_a_page_without_the_token_learns_so_and_with_it_calls(pages: Pages, tmp_path: Path) -> None:
    command = tailrace_command(ECHOES, "--allow-origin", pages.origin, "--auth-token", TOKEN)
    with running(command, tmp_path / "log") as server:
        report = report_of(pages, {"target": server.url, "token": TOKEN, "goes_on": "Unauthenticated"})
        del report["origin"]
        assert set(report) == {"connect", "connect in binary", "grpc-web"}, report
        for seen in report.values():
            assert seen["first"]["code"] == "Unauthenticated"
            check(seen)
        is_quiet(server)


def test_a_page_of_another_origin_is_refused(pages: Pages, tmp_path: Path) -> None:
    with running(tailrace_command(ECHOES), tmp_path / "log") as server:
        report = report_of(pages, {"target": server.url, "goes_on": "NotFound"})
        del report["origin"]
        assert set(report) == {"connect", "connect in binary", "grpc-web"}, report
        for seen in report.values():
            assert seen.keys() == {"first"}
            assert seen["first"]["code"] == "Unknown"
            assert "fetch" in seen["first"]["message"]
        is_quiet(server)
