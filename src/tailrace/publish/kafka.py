"""Apache Kafka, through aiokafka: an idempotent producer, every message acknowledged by all replicas in sync.

The producer itself retries a batch under the same sequence number for as long as `request_timeout` says, so that
a broker that comes back does not store it twice; only after that the relay tells it anew, under the same
`message-id`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from tailrace.errors import DefinitionError
from tailrace.publish.publishers import Rejected

if TYPE_CHECKING:
    from aiokafka import AIOKafkaProducer  # pyright: ignore[reportMissingTypeStubs]

    from tailrace.core.outgoing import Message

__all__ = ["KafkaPublisher"]

_theirs = logging.getLogger("aiokafka")

_CONNECT_LIMIT = 10.0  # seconds for the first contact
_TOPIC_LIMIT = 5.0  # seconds for a topic's partitions to be known
_CLOSE_LIMIT = 0.6  # seconds, and then once more for the sockets: after the drain there is nothing left to flush
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_OPTIONS = frozenset({"mechanism", "ca", "cert", "key", "compression", "client_id"})
_FINAL = (  # by name: those that say something about the message, not about the broker
    "RecordTooLargeError", "MessageSizeTooLargeError", "RecordListTooLargeError", "InvalidTopicError",
    "TopicAuthorizationFailedError", "CorruptRecordException", "InvalidTimestampError", "PolicyViolationError",
    "UnknownTopicOrPartitionError", "UnsupportedForMessageFormatError", "MessageSizeError",
)  # fmt: skip


class KafkaPublisher:
    """Publishes to a Kafka cluster.

    Args:
        servers: ``HOST:PORT`` of some of its brokers.
        tls: Talk TLS; with `context`, or the system's trust.
        user: For SASL, with `password` and `mechanism`.
        password: For SASL.
        mechanism: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.
        context: TLS context of your own.
        compression: gzip, snappy, lz4 or zstd (the last three need their packages), or None.
        client_id: What the broker's logs call us.
        request_timeout: Seconds for which the producer tries one batch before it gives it back.

    Raises:
        DefinitionError: aiokafka is not installed, or an option cannot be.
    """

    def __init__(
        self,
        servers: Sequence[str],
        *,
        tls: bool = False,
        user: str | None = None,
        password: str | None = None,
        mechanism: str = "PLAIN",
        context: ssl.SSLContext | None = None,
        compression: str | None = None,
        client_id: str = "tailrace",
        request_timeout: float = 120.0,
    ) -> None:
        try:
            import aiokafka  # pyright: ignore[reportMissingTypeStubs]
        except ImportError:
            raise DefinitionError("publishing to Kafka needs aiokafka: pip install 'tailrace[kafka]'") from None
        if mechanism not in _MECHANISMS:
            raise DefinitionError(f"no such SASL mechanism: {mechanism!r}; there are {', '.join(_MECHANISMS)}")
        if (user is None) != (password is None):
            raise DefinitionError("SASL needs a user and a password")
        self.name = "kafka://" + ",".join(servers)
        self._make: Any = aiokafka.AIOKafkaProducer
        self._options: dict[str, Any] = {
            "bootstrap_servers": list(servers),
            "client_id": client_id,
            "acks": "all",
            "enable_idempotence": True,
            "compression_type": compression,
            "request_timeout_ms": int(request_timeout * 1000),
            "max_request_size": 2 * 1024 * 1024,
            "security_protocol": ("SASL_" if user else "") + ("SSL" if tls else "PLAINTEXT"),
        }
        if user:
            self._options |= {
                "sasl_mechanism": mechanism,
                "sasl_plain_username": user,
                "sasl_plain_password": password,
            }
        if tls:
            self._options["ssl_context"] = context or ssl.create_default_context()
        self._producer: AIOKafkaProducer | None = None

    @classmethod
    def from_url(cls, url: str) -> KafkaPublisher:
        """From ``kafka://[USER:PASSWORD@]HOST:PORT[,HOST:PORT][?mechanism=…&compression=…&client_id=…]``.

        ``kafkas://`` talks TLS, and also takes ``ca``, ``cert`` and ``key`` (PEM files).

        Raises:
            DefinitionError: It says something else.
        """
        parts = urlsplit(url)
        given = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        if unknown := sorted(set(given) - _OPTIONS):
            raise DefinitionError(f"no such option of kafka://: {', '.join(unknown)}; there are {', '.join(_OPTIONS)}")
        credentials, _, addresses = parts.netloc.rpartition("@")
        servers = [server for server in addresses.split(",") if server]
        if not servers or parts.path.strip("/") or any(not _is_address(server) for server in servers):
            raise DefinitionError("give kafka://HOST:PORT, or several of them with commas")
        user, _, password = credentials.partition(":")
        tls = parts.scheme == "kafkas"
        files = {name: given.pop(name) for name in ("ca", "cert", "key") if name in given}
        if files and not tls:
            raise DefinitionError("ca, cert and key are for TLS: kafkas://")
        return cls(
            servers,
            tls=tls,
            user=unquote(user) if credentials else None,
            password=unquote(password) if credentials else None,
            context=_tls_context(**files) if files else None,
            mechanism=given.get("mechanism", "PLAIN"),
            compression=given.get("compression"),
            client_id=given.get("client_id", "tailrace"),
        )

    async def open(self) -> None:
        """Connect to one of the brokers; aiokafka's own errors say why not."""
        if self._producer is not None:
            return
        if _theirs.level == logging.NOTSET:
            _theirs.setLevel(logging.CRITICAL)  # two ERRORs for each of its attempts; the relay says it once
        producer = self._make(**self._options)
        try:
            async with asyncio.timeout(_CONNECT_LIMIT):
                await producer.start()
        except BaseException:
            await _stop(producer)
            raise
        self._producer = producer

    async def publish(self, messages: Sequence[Message]) -> Sequence[Exception | None]:
        """Hand all to the producer, then wait for the acknowledgements."""
        producer = self._producer
        if producer is None:
            raise ConnectionError("not connected")
        topics = {message.topic for message in messages}
        verdicts = dict(zip(topics, await asyncio.gather(*(_find(producer, topic) for topic in topics)), strict=True))
        outcomes: list[Exception | None] = []
        sent: list[tuple[int, asyncio.Future[Any]]] = []
        for place, message in enumerate(messages):
            outcomes.append(verdicts[message.topic])
            if outcomes[-1] is None:
                try:
                    future = await self._send(producer, message)
                    future.add_done_callback(_seen)
                    sent.append((place, future))
                except Exception as error:
                    outcomes[-1] = _verdict(error)
        answers = await asyncio.gather(*(future for _, future in sent), return_exceptions=True)
        for (place, _), answer in zip(sent, answers, strict=True):
            if isinstance(answer, Exception):
                outcomes[place] = _verdict(answer)
            elif isinstance(answer, BaseException):  # the producer was stopped under us
                outcomes[place] = ConnectionError("the producer was stopped")
        return outcomes

    async def _send(self, producer: AIOKafkaProducer, message: Message) -> asyncio.Future[Any]:
        return await producer.send(  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            message.topic,
            message.value,
            key=message.key,
            headers=list(message.headers),
            timestamp_ms=int(message.created * 1000),
        )

    async def close(self) -> None:
        """Let the producer flush for a moment, then let go."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await _stop(producer)


def _is_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and port.isdigit() and 0 < int(port) < 65536


def _tls_context(ca: str | None = None, cert: str | None = None, key: str | None = None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca)
        if cert is not None:
            context.load_cert_chain(cert, key)
    except OSError as error:
        raise DefinitionError(f"the files for TLS to Kafka cannot be used: {error}") from None
    return context


async def _find(producer: AIOKafkaProducer, topic: str) -> Exception | None:
    """None once the topic's partitions are known: a topic that is not there must not hold up the others."""
    try:
        async with asyncio.timeout(_TOPIC_LIMIT):
            await producer.partitions_for(topic)  # pyright: ignore[reportUnknownMemberType]
    except TimeoutError:
        if await _answers(producer):
            return Rejected(f"no such topic: {topic}")
        return ConnectionError("the brokers do not answer")
    except Exception as error:
        return _verdict(error)
    return None


async def _answers(producer: AIOKafkaProducer) -> bool:
    """Whether the brokers are there at all."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_TOPIC_LIMIT):
            return bool(await producer.client.force_metadata_update())
    return False


def _seen(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()  # a wait for the rest of the batch may be given up: what failed then is not lost


def _verdict(error: Exception) -> Exception:
    if any(kind.__name__ in _FINAL for kind in type(error).__mro__):
        return Rejected(f"{type(error).__name__}: {error}")
    return error


async def _stop(producer: AIOKafkaProducer) -> None:
    """Stop it, also where its broker is away: then it would flush for ever."""
    with contextlib.suppress(Exception):  # what it could not deliver is delivered again
        async with asyncio.timeout(_CLOSE_LIMIT):
            await producer.stop()
        return
    sender: Any = getattr(producer, "_sender", None)  # its task outlives a stop that was cut short
    if sender is not None and sender.sender_task is not None:
        sender.sender_task.cancel()
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_CLOSE_LIMIT):
            await producer.client.close()
