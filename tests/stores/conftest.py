"""The real Valkey of a file's tests, which each of them finds empty."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.rigs.valkey import Valkey


@pytest.fixture(scope="module")
def shared() -> Iterator[Valkey]:
    with Valkey() as server:
        yield server


@pytest.fixture
def server(shared: Valkey) -> Valkey:
    shared.ask("FLUSHALL")
    return shared
