"""Connect's conformance runner against our server and our client: every case of HTTP/1.1 and HTTP/2 passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import pytest

from tests.conformance.rpc.runner import CLIENT, LIMIT, SERVER, Missing, run_suite

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(LIMIT + 650)]  # a cold build comes first

CASES = {"server": 7288, "client": 8978}  # that the claimed features ask for: fewer, and one is not claimed


@pytest.mark.parametrize(("side", "command"), [("server", SERVER), ("client", CLIENT)])
def test_every_case_passes(side: str, command: tuple[str, ...], needs: Callable[[str, str], NoReturn]) -> None:
    try:
        score = run_suite(side, command)
    except Missing as missing:
        needs(*missing.args)
    assert score.ok, score.failures
    assert score.passed == score.total
    assert score.total == CASES[side], score.line(side)
