"""What a client and each of its calls can be told: limits, time, compression, retries; checked where it is said."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypedDict

from tailrace.errors import Code, DefinitionError
from tailrace.wire.compression import CODECS, IDENTITY

if TYPE_CHECKING:
    from tailrace.clients.connect.call import Call

__all__ = ["CallOptions", "Options", "Retries"]


class CallOptions(TypedDict, total=False):
    """What every call takes beside its own arguments.

    Attributes:
        timeout: Seconds for the whole call, also told to the server; by default the client's for unary calls, and no
            limit for streams; `math.inf`: none. The deadline of the call that it is made in holds as well.
        headers: Sent with it; ``-bin`` names take bytes.
        call: An object to look at afterwards: its `answer` has the headers and trailers.
        close_timeout: Seconds that a graceful close may take.
        close_max_bytes: Bytes that a graceful close may read.
        read_max_bytes: Of one message that is received, decompressed.
        send_max_bytes: Of one message that is sent, uncompressed.
        send_compression: ``identity``, ``gzip``, ``br`` or ``zstd``.
        compress_min_bytes: Shorter messages are sent as they are.
    """

    timeout: float | None
    headers: Mapping[str, str | bytes | Sequence[str | bytes]] | None
    call: Call | None
    close_timeout: float
    close_max_bytes: int
    read_max_bytes: int
    send_max_bytes: int | None
    send_compression: str
    compress_min_bytes: int


@dataclass(frozen=True, slots=True)
class Retries:
    """How a unary call that may run twice (`idempotency_key`, `idempotent=True`, `get=True`) is tried again.

    Args:
        attempts: At most, the first one counted; 1: no retry. A call's deadline ends them all.
        backoff: Seconds before the second; doubled from one to the next, of which a random part is waited.
        max_backoff: Seconds, at most. A server's ``retry-after`` is waited for, if it is no longer.
        codes: What is tried again.
    """

    attempts: int = 3
    backoff: float = 0.1
    max_backoff: float = 5.0
    codes: frozenset[Code] = frozenset({Code.UNAVAILABLE})

    def pause(self, failed: int, after: float | None) -> float | None:
        """Seconds to wait once `failed` attempts have; None: the server asked for more than is waited.

        Args:
            failed: How many attempts there were.
            after: Seconds that the server asked for, or None.
        """
        if after is not None:
            return after if after <= self.max_backoff else None
        return min(self.backoff * 2 ** (failed - 1), self.max_backoff) * (0.5 + random.random() / 2)


@dataclass(frozen=True, slots=True)
class Options:
    """A client's options, and those of one call over them; see `CallOptions` and `Client`."""

    timeout: float = 60.0
    close_timeout: float = 30.0
    close_max_bytes: int = 1_048_576
    read_max_bytes: int = 4_194_304
    send_max_bytes: int | None = None
    send_compression: str = IDENTITY
    compress_min_bytes: int = 1024
    accept_compression: tuple[str, ...] = tuple(CODECS)
    get_max_url_bytes: int = 8192
    retries: Retries = Retries()

    def __post_init__(self) -> None:
        for name in (self.send_compression, *self.accept_compression):
            if name != IDENTITY and name not in CODECS:
                raise DefinitionError(
                    f"the compression {name!r} is not here: {', '.join((IDENTITY, *CODECS))} are"
                    " (br and zstd come with tailrace[compression])"
                )

    def over(self, given: CallOptions) -> Options:
        """These, with what one call was given."""
        own = {name: value for name, value in given.items() if name not in ("timeout", "headers", "call")}
        return replace(self, **own) if own else self
