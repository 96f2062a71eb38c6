"""h2spec, the conformance tests of HTTP/2 (RFC 9113, RFC 7541), run against the listener, in clear and over TLS."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from xml.etree import ElementTree

import pytest
import trustme

from tests.conftest import Needs
from tests.e2e import installing
from tests.transports.http.rig import PLAIN, serving

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(700)]

TESTS = 145
# In clear both versions are spoken on one port: what does not begin as HTTP/2 is answered in HTTP/1.1, and closed.
ON_ONE_PORT = {"Sends invalid connection preface"}


@pytest.mark.parametrize("secure", [False, True], ids=["clear", "tls"])
async def test_the_listener_is_as_the_specification_says(secure: bool, needs: Needs, tmp_path: Path) -> None:
    try:
        program = await asyncio.to_thread(installing.h2spec)
    except installing.Missing as missing:
        needs(*missing.args)
    report = tmp_path / "report.xml"
    async with serving(tls=certified() if secure else None) as served:
        served.rig.other = lambda exchange: exchange.respond(200, PLAIN, b"hello\n" * 20)
        port = str(served.address[1])
        secured = ["--tls", "--insecure"] if secure else []
        arguments = ["--host", "127.0.0.1", "--port", port, "--timeout", "5", "--junit-report", str(report), *secured]
        process = await asyncio.create_subprocess_exec(program, *arguments, stdout=asyncio.subprocess.DEVNULL)
        try:
            await asyncio.wait_for(process.wait(), 300)
        finally:
            if process.returncode is None:
                process.kill()
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    failed = {
        case.attrib["classname"] for case in cases if case.find("failure") is not None or case.find("error") is not None
    }
    assert len(cases) == TESTS
    assert failed == (set() if secure else ON_ONE_PORT)


def certified() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    return server, server
