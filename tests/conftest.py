"""What all tests share: nothing of Tailrace blocks the loop, and a missing real part lets no test pass.

While a test runs, a blocking call (a file, a socket, a sleep, a lock) below a function of Tailrace raises
`blockbuster.BlockingError` where an event loop is running. `@pytest.mark.may_block` switches that off.

A test that needs a part which cannot always be had (Node, a package, the network) skips with a
reason that begins with ``needs``:

    pytest.skip("needs node: npm ci failed, see the output of `make test`")
    node = pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
    def test_typescript(needs): needs("node", "run `make test` once with a network")

Where ``CI`` is set those skips are failures: nobody may believe that such a test has run.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from typing import Any, NoReturn

import pytest
from blockbuster import blockbuster_ctx
from hypothesis import HealthCheck, settings

from tailrace.clients.mcp.eras import ERAS
from tests.rigs.garbage import (  # noqa: F401  hooks
    pytest_addoption,
    pytest_runtest_protocol,
    pytest_runtest_teardown,
)
from tests.rigs.longest_first import (  # noqa: F401  hooks
    pytest_collection_modifyitems,
    pytest_runtest_logreport,
    pytest_sessionfinish,
)

# How long an example takes, or to think of one, says more of the machine than of us.
settings.register_profile("tailrace", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tailrace")

Needs = Callable[[str, str], NoReturn]

LOOKS_BLOCKING = [
    ("os.write", "tailrace/transports/stdio.py", "_put"),  # asks poll() first, and writes what a pipe then takes
    ("threading.Lock.acquire", "coverage/collector.py", "lock_data"),  # the measuring, not the measured
]
HARMLESS = ("os.path.abspath", "os.getcwd")  # no disk is asked; `inspect` uses them while a service is defined


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported and collected stays: half a million objects, which a collection of garbage would look at for a
    third of a second, each time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def loop_is_not_blocked(request: pytest.FixtureRequest) -> Iterator[None]:
    """Find a blocking call of Tailrace's own on the event loop."""
    watched = request.node.get_closest_marker("may_block") is None
    with blockbuster_ctx("tailrace") if watched else nullcontext() as guard:
        if guard is not None:
            for function, file, within in LOOKS_BLOCKING:
                guard.functions[function].can_block_in(file, within)
            for function in HARMLESS:
                guard.functions[function].deactivate()
        yield


@pytest.fixture(autouse=True)
def nothing_is_known_of_servers() -> None:
    """What clients of earlier tests found out about a port is not true of whoever listens there now."""
    ERAS.clear()


@pytest.fixture(autouse=True)
def grpcio_ends_with_its_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """The last of grpcio's objects to go ends its threads, and waits for them: not on the loop of some later test."""
    yield
    if hasattr(request.module, "grpc"):
        gc.collect()


@pytest.fixture
def needs() -> Needs:
    """Say that a part is missing, and why: `needs(part, reason)` skips, and fails where `CI` is set."""

    def missing(part: str, reason: str) -> NoReturn:
        pytest.skip(f"needs {part}: {reason}")

    return missing


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _failed_where_a_part_is_missing((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _failed_where_a_part_is_missing((yield))


def _failed_where_a_part_is_missing(report: Any) -> Any:
    if report.skipped and isinstance(report.longrepr, tuple) and os.environ.get("CI", "") not in ("", "0", "false"):
        path, line, text = report.longrepr
        reason = text.removeprefix("Skipped: ")
        if reason.startswith("needs "):
            report.outcome = "failed"
            report.longrepr = f"{path}:{line}: {reason} (a skip for a missing part is a failure where CI is set)"
    return report
