"""Connect's official conformance suite against our client, over HTTP/1.1 and HTTP/2: every case passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import pytest

from tests.conformance.rpc.runner import CLIENT, LIMIT, Missing, run_suite

CASES = 8978  # 3,362 of HTTP/1.1, 5,584 of HTTP/2, and 32 that name no version


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(LIMIT + 300)
def test_every_case_passes(needs: Callable[[str, str], NoReturn]) -> None:
    try:
        score = run_suite("client", CLIENT)
    except Missing as missing:
        needs(*missing.args)
    assert (score.passed, score.total, score.known) == (CASES, CASES, 0), score.failures
    assert score.ok
