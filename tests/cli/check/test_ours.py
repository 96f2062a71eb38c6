"""Tailrace passes its own check, over every way it speaks, on both servers and both stores."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailrace.cli.check.model import Verdict
from tests.cli.check.support import GENEROUS, ours, said, tried

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(700),
    pytest.mark.may_block,  # a program alone on its loop: it reads the witness file and /proc where it stands
]
FORGETFUL = ("kill-*",)  # what a store in memory does not promise


@pytest.mark.parametrize("served_by", ["listener", "uvicorn"])
async def test_with_a_durable_store_everything_passes(served_by: str, tmp_path: Path) -> None:
    command = ours(
        "--port", "{port}", "--store", f"sqlite:{tmp_path / 'store.db'}", "--server", served_by, "--drain", "3"
    )
    report = await tried(command, tmp_path, limits=GENEROUS)
    assert said(report, Verdict.PASS) == {}


async def test_with_a_store_in_memory_all_but_the_kills_passes(tmp_path: Path) -> None:
    command = ours("--port", "{port}", "--store", "memory", "--drain", "3")
    report = await tried(command, tmp_path, skip=FORGETFUL, limits=GENEROUS)
    assert said(report, Verdict.PASS) == {}


@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_over_stdio_everything_passes(store: str, tmp_path: Path) -> None:
    where = store if store == "memory" else f"sqlite:{tmp_path / 'store.db'}"
    report = await tried(ours("--stdio", "--store", where, "--drain", "3"), tmp_path, http=False, limits=GENEROUS)
    assert said(report, Verdict.PASS) == {}
