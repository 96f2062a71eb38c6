"""What becomes of a call when its stream breaks under each client of `WAYS`: the answer waits, who comes for it?

The call reports progress and waits at a gate. The test then arms the proxy, so that the next byte on this connection
ends it (`closed`: FIN in the middle of the body, `reset`: RST, `ended`: as a server that ends a stream in order), and
opens the gate.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.e2e import installing
from tests.e2e.clients import RESUMES, STUCK, WAITS, WAYS, Cut, Way, drive, outcome
from tests.e2e.plans import CALLS
from tests.e2e.witness import Witness
from tests.rigs.proxy import Plan, Proxy, running_proxy
from tests.rigs.server import ServerProcess, running_async, tailrace_command

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]  # the first to need a part sets it up
PLANS: dict[Cut, Plan] = {
    "reset": Plan(fault="rst"),
    "closed": Plan(fault="fin"),
    "ended": Plan(fault="fin", parting=b"0\r\n\r\n"),  # the last chunk
}


@pytest.fixture
async def server(witness: Witness, tmp_path: Path) -> AsyncIterator[ServerProcess]:
    command = tailrace_command(CALLS, "--server", "listener")
    async with running_async(command, tmp_path / "log", env=witness.env) as process:
        yield process


def arm(proxy: Proxy) -> None:
    """The connection that carries the call ends before its next byte; all later ones are whole."""
    carrying = [one for one in proxy.connections if b"step 1" in one.tail and not one.closed.is_set()]
    assert len(carrying) == 1, f"{len(carrying)} connections carried the progress"
    carrying[0].cut_after = carrying[0].down
    proxy.plan = lambda _: Plan()


async def cut_once(way: Way, cut: Cut, server: ServerProcess, witness: Witness, folder: Path) -> dict[str, Any]:
    """One call, one cut; what the client made of it."""
    folder.mkdir()
    key = f"{way}-{cut}"
    async with running_proxy(server.port, lambda _: PLANS[cut]) as proxy:

        async def at_cut() -> None:
            arm(proxy)
            witness.open(key)

        async def leaving() -> None:
            if not way.modern:  # there, a lost connection cancels
                await witness.sees(f"end {key}")

        patience = 5.0 if way.cut[cut] in (WAITS, STUCK) else 45.0  # one that never answers costs all of it
        step = {"name": "steps", "arguments": {"key": key, "count": 3, "after": 1}}
        report = await drive(
            way, proxy.url, {"cut": step}, folder, at={"cut": at_cut, "leaving": leaving}, patience=patience
        )
    assert "failed" not in report, report["failed"]
    return report["cut"]


@pytest.mark.parametrize("way", [way for way in WAYS if way.cut], ids=str)
async def test_what_a_cut_does(
    way: Way, server: ServerProcess, witness: Witness, tmp_path: Path, needs: Callable[[str, str], NoReturn]
) -> None:
    cuts = list(way.cut)
    try:
        reports = await asyncio.gather(*(cut_once(way, cut, server, witness, tmp_path / cut) for cut in cuts))
    except installing.Missing as missing:
        needs(*missing.args)
    assert {cut: outcome(report) for cut, report in zip(cuts, reports, strict=True)} == way.cut, reports
    for cut, report in zip(cuts, reports, strict=True):
        if way.cut[cut] == RESUMES:
            check_whole(report, way)
        assert witness.count(f"start {way}-{cut}") == 1, "the call ran again"
    assert server.records() == [], f"a client's cut is no error of the server\n{server.stderr_tail()}"


TWICE = [way for way in WAYS if str(way) in ("python2-streamable-legacy", "typescript1-streamable-legacy",
                                             "typescript2-streamable-legacy")]  # fmt: skip


async def test_what_is_resumed_and_cut_again_before_its_first_event_is_resumed_again(
    server: ServerProcess, witness: Witness, tmp_path: Path, needs: Callable[[str, str], NoReturn]
) -> None:
    """The TypeScript clients forget the id that they resumed with: they need it again."""
    assert len(TWICE) == 3
    try:
        reports = await asyncio.gather(*(cut_twice(way, server, witness, tmp_path / str(way)) for way in TWICE))
    except installing.Missing as missing:
        needs(*missing.args)
    for way, report in zip(TWICE, reports, strict=True):
        assert outcome(report) == RESUMES, report
        check_whole(report, way)
        assert witness.count(f"start {way}-twice") == 1, "the call ran again"


async def cut_twice(way: Way, server: ServerProcess, witness: Witness, folder: Path) -> dict[str, Any]:
    """One call that waits at its gate until its stream was cut, resumed, cut and resumed."""
    folder.mkdir()
    key = f"{way}-twice"
    async with running_proxy(server.port, lambda _: Plan()) as proxy:

        async def at_cut() -> None:
            (begun,) = [one for one in proxy.connections if b"step 1" in one.tail]
            stream = re.findall(rb"id: (\S+)-\d+\n", begun.tail)[-1]
            for times in (1, 2):
                proxy.cut()
                async with asyncio.timeout(60):
                    while sum(stream in one.tail for one in proxy.connections) < 1 + times:
                        await asyncio.sleep(0.02)
            witness.open(key)

        async def leaving() -> None:
            await witness.sees(f"end {key}")

        step = {"name": "steps", "arguments": {"key": key, "count": 3, "after": 1}}
        at = {"cut": at_cut, "leaving": leaving}
        report = await drive(way, proxy.url, {"cut": step}, folder, at=at, patience=60.0)
    assert "failed" not in report, report["failed"]
    return report["cut"]


def check_whole(report: dict[str, Any], way: Way) -> None:
    """The answer, and every progress exactly once."""
    assert report["text"] == "done", report
    steps = [[number, 3, f"step {number}"] for number in (1, 2, 3)]
    if way.drops_late_progress:
        assert report["seen"] == steps[: len(report["seen"])], report
    else:
        assert report["seen"] == steps, report
