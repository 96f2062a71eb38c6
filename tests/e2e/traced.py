"""A program of somebody's, instrumented with OpenTelemetry: it calls two tools, and consumes what they publish.

Arguments: the server's URL, the broker's address, how many messages to consume.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from aiokafka import AIOKafkaConsumer  # pyright: ignore[reportMissingTypeStubs]
from opentelemetry import propagate, trace

from tailrace.connect import Client as RpcClient
from tailrace.mcp import Client
from tailrace.telemetry import set_up_export


async def main(url: str, broker: str, count: int) -> None:
    """Call, then consume."""
    tracer = trace.get_tracer("program")
    with tracer.start_as_current_span("checkout"):
        async with Client(url + "/mcp") as client:
            assert (await client.call_tool("order", {"item": "tea"})).data == "tea"
        async with RpcClient(url, codec="json") as rpc:
            await rpc.unary("shop.v1.Shop/Pack", b'{"item":"tea"}', response=bytes)
    consumer: Any = AIOKafkaConsumer("mails", bootstrap_servers=broker, auto_offset_reset="earliest")
    await consumer.start()
    try:
        async with asyncio.timeout(90.0):
            for _ in range(count):
                message = await consumer.getone()
                carrier = {name: value.decode() for name, value in message.headers}
                context = propagate.extract(carrier)
                name = f"process {message.value.decode()}"
                with tracer.start_as_current_span(name, context=context, kind=trace.SpanKind.CONSUMER):
                    pass
    finally:
        await consumer.stop()


if __name__ == "__main__":
    end = set_up_export("program")
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
    end()
