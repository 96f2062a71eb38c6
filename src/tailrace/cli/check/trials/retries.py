"""A client that lost an answer asks again: once means once, and two equal orders are two orders."""

from __future__ import annotations

import asyncio

from tailrace.cli.check.lab import Lab, unique
from tailrace.cli.check.model import Failed, Way, trial
from tailrace.cli.check.shared_stream import drop

__all__ = ["TRIALS"]

_WORK = 0.6  # seconds a call takes


@trial(
    "retry-keyed", "A call that is sent again with the same idempotency key runs once.",
    "2026-07-28 transports: a lost request is issued again under a new id, and nothing says how a server knows "
    "it again: judged by what is done twice. The key is sent as the header Idempotency-Key and as "
    "_meta[\"io.tailrace/idempotencyKey\"]",
    Way.STREAMABLE, Way.SSE, Way.MODERN, needs=("effect",),
)  # fmt: skip
async def retry_keyed(lab: Lab) -> str:
    trace, once = unique("order"), unique("key")
    first, second = await lab.client(), await lab.client()
    running = await lab.sent(first, lab.call("effect", key=trace, seconds=_WORK, once=once))
    await lab.started(trace)
    drop(first, running)
    again = await lab.sent(second, lab.call("effect", key=trace, seconds=_WORK, once=once))
    await second.finish(again, _WORK + lab.options.answer_within)
    answer = again.answer
    await asyncio.sleep(_WORK)  # a second run would begin by now
    ran = lab.witness.count("start", trace)
    if ran != 1:
        raise Failed(f"the order was carried out {ran} times")
    if answer is None:
        raise Failed(f"it ran once, and the retry got no answer: {again.how}")
    return "cut off, sent again with its key: it ran once, and the retry was answered"


@trial(
    "retry-plain", "Two equal calls without a key are two calls.",
    "JSON-RPC 2.0, 4: each request object is a request; taking two equal ones for one loses an order",
    Way.STREAMABLE, Way.SSE, Way.MODERN, Way.STDIO, needs=("effect",),
)  # fmt: skip
async def retry_plain(lab: Lab) -> str:
    client, trace = await lab.client(), unique("order")
    for _ in range(2):
        running = await lab.sent(client, lab.call("effect", key=trace, seconds=0))
        (await client.finish(running, lab.options.answer_within)).result()
    ran = lab.witness.count("start", trace)
    if ran != 2:
        raise Failed(f"two equal orders were carried out {ran} times")
    return "two equal orders, two runs"


TRIALS = (retry_keyed, retry_plain)
