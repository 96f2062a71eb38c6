"""What a call over RPC has beside its messages, as a handler sees it: `Context.rpc`. Which it is, is the protocol's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

__all__ = ["RpcHeaders", "RpcInfo"]


class RpcHeaders(Protocol):
    """Headers or trailers: names in any case, and the first value of each. A value is ``bytes`` under a name that
    ends with ``-bin``, else ``str``."""

    def __getitem__(self, name: str, /) -> str | bytes:
        """The first value; KeyError where there is none."""
        ...

    def __setitem__(self, name: str, value: str | bytes, /) -> None:
        """Put this value in the place of all others.

        Raises:
            ValueError: It cannot be sent, or the name is the protocol's own.
            TypeError: Text under a ``-bin`` name, or bytes under another one.
        """
        ...

    def __contains__(self, name: object, /) -> bool:
        """Whether there is a value."""
        ...

    def __iter__(self) -> Iterator[str]:
        """The names, in lower case."""
        ...

    def get(self, name: str, default: Any = None, /) -> Any:
        """The first value, or `default`."""
        ...

    def add(self, name: str, value: str | bytes) -> None:
        """One more value. Raises as `__setitem__` does."""
        ...

    def all(self, name: str) -> list[str | bytes]:
        """All values; none is an empty list."""
        ...


class RpcInfo(Protocol):
    """The call as it was asked for, and what goes with its answer."""

    @property
    def path(self) -> str:
        """``package.Service/Method``."""
        ...

    @property
    def protocol(self) -> str:
        """``connect``, ``grpc`` or ``grpc-web``."""
        ...

    @property
    def codec(self) -> str:
        """``proto`` or ``json``."""
        ...

    @property
    def http_method(self) -> str:
        """``POST``, or ``GET`` for a Connect call without side effects."""
        ...

    @property
    def query(self) -> bytes:
        """The query of its URL, raw."""
        ...

    @property
    def principal(self) -> str:
        """Who calls, once authenticated; ``""`` is nobody."""
        ...

    @property
    def timeout(self) -> float | None:
        """The seconds that the client gave it, or None."""
        ...

    @property
    def headers(self) -> RpcHeaders:
        """The request's."""
        ...

    @property
    def response_headers(self) -> RpcHeaders:
        """The answer's; what is put in once the first message of a stream is sent comes too late."""
        ...

    @property
    def response_trailers(self) -> RpcHeaders:
        """The answer's trailers."""
        ...

    async def send_headers(self) -> None:
        """Of a stream: send the answer's headers now, before its first message. Elsewhere, nothing happens."""
        ...
