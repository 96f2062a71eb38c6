"""Publishers without a broker, and how one is chosen."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from tailrace.core.context import Context
from tailrace.errors import DefinitionError
from tailrace.publish.encoding import make_message
from tailrace.publish.kafka import KafkaPublisher
from tailrace.publish.publishers import LogPublisher, MemoryPublisher, make_publisher


async def test_the_log_shows_what_would_go_out(caplog: pytest.LogCaptureFixture) -> None:
    publisher = make_publisher("log:")
    assert isinstance(publisher, LogPublisher)
    await publisher.open()
    with caplog.at_level("INFO", "tailrace.publish"):
        assert await publisher.publish([make_message(Context.background(), "orders", {"n": 1}, "k")]) == [None]
    assert "topic=orders" in caplog.text
    assert '{"n":1}' in caplog.text
    await publisher.close()


async def test_memory_keeps_the_newest() -> None:
    publisher = make_publisher("memory:")
    assert isinstance(publisher, MemoryPublisher)
    await publisher.open()
    messages = [make_message(Context.background(), "t", n) for n in range(10_001)]
    await publisher.publish(messages)
    assert list(publisher.messages) == messages[1:]
    await publisher.close()


@pytest.mark.parametrize("text", ["kafka", "redis://x", "kafka://", "kafka://x", "kafka://x:y", "kafka://x:1/topic",
                                  "kafka://x:1?acks=0", "kafka://x:1?ca=/ca.pem", "kafka://u:p@x:1?mechanism=OWN",
                                  "kafkas://x:1?ca=/nowhere.pem", "kafka://u@x:1?mechanism=PLAINER"])  # fmt: skip
def test_what_is_no_publisher_is_refused(text: str) -> None:
    with pytest.raises(DefinitionError):
        make_publisher(text)


def test_kafka_is_told_by_url() -> None:
    publisher = make_publisher("kafkas://us%40er:p%3Aw@a:9092,b:9093?mechanism=SCRAM-SHA-256&compression=gzip")
    assert isinstance(publisher, KafkaPublisher)
    options = publisher._options
    assert publisher.name == "kafka://a:9092,b:9093"  # no password in it
    assert options["bootstrap_servers"] == ["a:9092", "b:9093"]
    assert options["security_protocol"] == "SASL_SSL"
    assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("us@er", "p:w")
    assert options["sasl_mechanism"] == "SCRAM-SHA-256"
    assert options["compression_type"] == "gzip"
    assert options["acks"] == "all"
    assert options["enable_idempotence"] is True


async def test_kafka_that_is_not_connected_says_so() -> None:
    publisher = KafkaPublisher(["127.0.0.1:9"])
    with pytest.raises(ConnectionError):
        await publisher.publish([make_message(Context.background(), "t", "x")])
    await publisher.close()


class FullProducer:
    """Of aiokafka: takes one message, and has no room for the next before the brokers are back."""

    def __init__(self) -> None:
        self.taken: list[asyncio.Future[Any]] = []
        self.is_full = asyncio.Event()

    async def partitions_for(self, topic: str) -> set[int]:
        return {0}

    async def send(self, *_: Any, **__: Any) -> asyncio.Future[Any]:
        if self.taken:
            self.is_full.set()
            await asyncio.Event().wait()
        self.taken.append(asyncio.get_running_loop().create_future())
        return self.taken[0]


async def test_what_kafka_refuses_after_a_batch_was_given_up_is_not_reported_as_lost() -> None:
    lost: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: lost.append(context))
    publisher, producer = KafkaPublisher(["127.0.0.1:9"]), FullProducer()
    publisher._producer = producer  # type: ignore[assignment]
    batch = [make_message(Context.background(), "t", n) for n in range(2)]
    publishing = asyncio.ensure_future(publisher.publish(batch))
    await producer.is_full.wait()
    publishing.cancel()
    await asyncio.wait([publishing])
    del publishing
    producer.taken.pop().set_exception(ConnectionError("the brokers do not answer"))
    await asyncio.sleep(0)  # what is told to callbacks
    gc.collect()
    assert lost == []
