"""Where tokens are kept: a file of their owner's alone, replaced whole."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tailrace.clients.mcp.oauth import FileTokens, MemoryTokens
from tailrace.clients.mcp.oauth.tokens import Token, load, save
from tailrace.errors import AuthorizationError


async def test_a_file_keeps_them_for_the_next_run_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "tokens.json"
    tokens = FileTokens(path)
    assert await tokens.load("a") is None
    await tokens.save("a", "1")
    await tokens.save("b", "2")
    await tokens.save("a", None)
    assert [await FileTokens(path).load(key) for key in "ab"] == [None, "2"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [file.name for file in path.parent.iterdir()] == ["tokens.json"]


async def test_a_file_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    path.write_text("not ours")
    with pytest.raises(AuthorizationError, match="cannot be read"):
        await FileTokens(path).save("a", "1")
    assert path.read_text() == "not ours"
    with pytest.raises(AuthorizationError, match="cannot be kept"):
        await FileTokens("/proc/none/tokens").save("a", "1")


async def test_what_cannot_be_read_is_as_good_as_nothing() -> None:
    store = MemoryTokens()
    await store.save("k", "{}")
    assert await load(store, "k", Token) is None
    token = Token("https://a.example", "t", "r", ("s",), 1.5)
    await save(store, "k", token)
    assert await load(store, "k", Token) == token
    await save(store, "k", None)
    assert await load(store, "k", Token) is None
