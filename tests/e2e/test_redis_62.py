"""The oldest engine that `--store valkey://` takes keeps the promises of the newest: the store's own tests, run on it.

Any other engine in the same way: `TAILRACE_VALKEY=/path/to/redis-server make test TESTS=tests/stores`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Needs
from tests.e2e.installing import Missing, redis_6_2
from tests.rigs.server import ROOT

LIMIT = 580.0  # seconds; alone it takes half a minute

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(LIMIT + 20)]

FILES = ("test_store", "test_valkey", "test_valkey_membership", "test_inbox")
AT_LEAST = 180  # tests: a run that found fewer has missed some


@pytest.fixture
def oldest(needs: Needs) -> Path:
    try:
        return redis_6_2()
    except Missing as missing:
        needs(*missing.args)


def test_all_that_the_store_promises_holds_on_redis_6_2(oldest: Path) -> None:
    version = subprocess.run([oldest, "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
    assert "v=6.2." in version
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_", "COVERAGE_"))}
    plain = [option for name in ("randomly", "xdist", "cov", "cacheprovider") for option in ("-p", f"no:{name}")]
    files = [f"tests/stores/{name}.py" for name in FILES]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", *plain, "-k", "valkey or inbox", *files],
            cwd=ROOT, env={**env, "TAILRACE_VALKEY": str(oldest)}, capture_output=True, text=True, timeout=LIMIT,
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        pytest.fail(f"not done after {LIMIT:g} s: {(late.stdout or b'')[-2000:]!r}")
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2_000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= AT_LEAST, done.stdout[-2_000:]
