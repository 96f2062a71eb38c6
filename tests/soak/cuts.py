"""Streams cut at random bytes and resumed, over both transports: every event once and in order, every call run once."""

from __future__ import annotations

from tests.e2e.cutting import COUNT, Collected, Cutter, burst, cut_http_sse, cut_streamable
from tests.rigs.proxy import Proxy, running_proxy
from tests.rigs.rawmcp import STREAMABLE_VERSIONS, HttpSse, Streamable
from tests.soak.lanes import Lane

PER_SESSION = 10
STORES = ("memory", "sqlite")


async def cuts(lane: Lane, rounds: int) -> None:
    """So many rounds with at least one cut each."""
    number = done = usual = 0
    while done < rounds:
        store = STORES[number // PER_SESSION % 2]
        await lane.start("memory" if store == "memory" else f"sqlite:{lane.folder / 'store.db'}")
        async with running_proxy(lane.port) as proxy:
            http = await Streamable(lane.life.url, STREAMABLE_VERSIONS[number // PER_SESSION % 3]).open()
            sse = await HttpSse(lane.life.url).open(through=proxy.url)
            usual = usual or await _usual(http, proxy)
            for _ in range(min(PER_SESSION, rounds - done)):
                cutter = Cutter(lane.random.randrange(1 << 32), number, usual)
                key = lane.key()
                number += 1
                lane.diary.sent(key, "cuts")
                if number % 2:
                    collected = await cut_streamable(http, proxy, cutter, key)
                else:
                    collected = await cut_http_sse(sse, proxy, cutter, key)
                    await sse.resume(sse.last_event_id, through=proxy.url)
                if collected is not None:
                    _write_down(lane, collected)
                    done += bool(collected.cuts)
            sse.close()
        await lane.term()


async def _usual(client: Streamable, proxy: Proxy) -> int:
    """How many bytes an uncut stream has."""
    reply = await client.post(burst("uncut", 0), through=proxy.url)
    await reply.answer("uncut")
    reply.close()
    return proxy.connections[-1].down


def _write_down(lane: Lane, collected: Collected) -> None:
    """The cutters read on until the answer: what they collected is judged by `recount`."""
    lane.diary.accepted(collected.key)
    ids_doubled = len(collected.ids) - len(set(collected.ids))
    lane.diary.events(collected.key, collected.numbers, COUNT, ids_doubled)
    for answer in collected.answers:
        lane.diary.delivered(collected.key, answer)
    if collected.cuts:
        lane.diary.round()
