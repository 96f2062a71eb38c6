"""What one client has found out of a server's era, the next one knows; and finds out anew where that is wrong."""

from __future__ import annotations

import asyncio

import pytest

from tailrace.clients.mcp import Client
from tailrace.clients.mcp.eras import ERAS, Eras
from tailrace.errors import ProtocolError

from .fake_http import Exchange, Script, legacy, modern, serving


async def nothing(x: Exchange) -> None:
    await x.result({"tools": []})


async def test_the_next_client_of_a_legacy_server_greets_it_without_a_probe() -> None:
    async with serving(legacy(nothing)) as server:
        for _ in range(3):
            async with Client(server.url) as c:
                assert c.era == "legacy"
        assert len(server.asked("server/discover")) == 1
        assert len(server.asked("initialize")) == 3


async def test_the_address_with_and_without_its_path_is_one_server() -> None:
    async with serving(legacy(nothing)) as server:
        base = server.url.removesuffix("/mcp")
        for url in (base, base + "/", base + "/mcp"):
            async with Client(url) as c:
                assert c.era == "legacy"
        assert len(server.asked("server/discover")) == 1


async def test_a_server_that_was_legacy_and_is_modern_only_now_is_probed_again() -> None:
    now: list[Script] = [legacy(nothing)]
    async with serving(lambda x: now[0](x)) as server:
        async with Client(server.url) as c:
            assert c.era == "legacy"

        async def modern_only(x: Exchange) -> None:
            if x.rpc == "initialize":
                await x.error(400, -32601)
            elif x.method != "POST":
                await x.reply(405)  # of the first client, which has left: its GET may arrive late
            else:
                await modern(nothing)(x)

        now[0] = modern_only
        for _ in range(2):
            async with Client(server.url) as c:
                assert c.era == "modern"
        assert len(server.asked("initialize")) == 2  # by the first client, and by the second, in vain


async def test_a_server_that_was_modern_and_is_legacy_now_is_greeted() -> None:
    now: list[Script] = [modern(nothing)]
    async with serving(lambda x: now[0](x)) as server:
        async with Client(server.url) as c:
            assert c.era == "modern"
        now[0] = legacy(nothing)
        for _ in range(2):
            async with Client(server.url) as c:
                assert c.era == "legacy"
        assert len(server.asked("server/discover")) == 2


async def test_a_known_modern_server_may_take_the_whole_time_for_its_answer() -> None:
    slow = asyncio.Event()

    async def script(x: Exchange) -> None:
        if x.rpc == "server/discover" and slow.is_set():
            await asyncio.sleep(5.2)  # of 10 s, of which a probe has half
        await modern(nothing)(x)

    async with serving(script) as server:
        async with Client(server.url) as c:
            assert c.era == "modern"
        slow.set()
        async with Client(server.url, connect_timeout=10.0) as c:
            assert c.era == "modern"
        assert not server.asked("initialize")


async def test_who_is_told_to_say_who_he_is_learns_nothing_of_the_era() -> None:
    refusing = False

    async def script(x: Exchange) -> None:
        await (x.reply(401, b"") if refusing else legacy(nothing)(x))

    async with serving(script) as server:
        async with Client(server.url):
            pass
        refusing = True
        with pytest.raises(Exception, match="401"):
            await Client(server.url).__aenter__()
        assert len(server.asked("server/discover")) == 1  # a probe would have been refused as well


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_who_asks_for_an_era_neither_uses_nor_makes_the_memory(era: str) -> None:
    async with serving(modern(nothing) if era == "modern" else legacy(nothing)) as server:
        for _ in range(2):
            async with Client(server.url, era=era) as c:  # type: ignore[arg-type]
                assert c.era == era
        async with Client(server.url) as c:
            assert c.era == era
        assert len(server.asked("server/discover")) == (3 if era == "modern" else 1)


async def test_what_failed_is_not_remembered() -> None:
    async def script(x: Exchange) -> None:
        await x.error(200, -32603)

    async with serving(legacy(nothing)) as server:
        async with Client(server.url):
            pass
        place = next(iter(ERAS._known))  # type: ignore[attr-defined]
        assert ERAS.find(place) == "legacy"
        server.script = script
        with pytest.raises(ProtocolError):
            await Client(server.url).__aenter__()
        assert ERAS.find(place) is None


# --- the table ------------------------------------------------------------------------------------


def test_an_era_is_forgotten_in_time() -> None:
    time = [0.0]
    eras = Eras(seconds=10.0, now=lambda: time[0])
    eras.learn("a", "legacy")
    time[0] = 9.0
    assert eras.find("a") == "legacy"
    eras.learn("a", "modern")
    time[0] = 18.0
    assert eras.find("a") == "modern"
    time[0] = 19.0
    assert eras.find("a") is None


def test_the_table_has_its_limit_and_the_oldest_goes() -> None:
    eras = Eras(limit=3)
    for name in "abca":
        eras.learn(name, "legacy")
    eras.learn("d", "legacy")
    assert [name for name in "abcd" if eras.find(name)] == ["a", "c", "d"]


def test_what_nobody_knows_can_be_forgotten() -> None:
    eras = Eras()
    eras.forget("a")
    eras.learn("a", "modern")
    eras.forget("a")
    assert eras.find("a") is None
