"""Accepts connections that begin with TLS, counted from their first packet on.

The loop's own servers say nothing of a connection before its handshake is over, and nothing at all of
one whose handshake fails: a flood of them would be bounded by nothing. So accepting is done here.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket
    import ssl

    from tailrace.transports.http.listener import Listener

__all__ = ["TlsPort"]

_AT_ONCE = 64  # accepted before the loop looks at anything else
_REST = 1.0  # seconds without accepting when the process has no more descriptors
_TLS_END = 2.0  # seconds for the peer's close_notify


class TlsPort:
    """One listening socket.

    Args:
        listener: Limits and table.
        listening: Bound, listening and not blocking; closed by `close`.
        context: The certificate.
    """

    def __init__(self, listener: Listener, listening: socket.socket, context: ssl.SSLContext) -> None:
        self.context = context
        self._listener = listener
        self._listening = listening
        self._resting: asyncio.TimerHandle | None = None
        self._listen()

    def close(self) -> None:
        """Accept nothing more."""
        self._listener.loop.remove_reader(self._listening)
        if self._resting is not None:
            self._resting.cancel()
        self._listening.close()

    def _listen(self) -> None:
        self._resting = None
        self._listener.loop.add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                accepted, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # no descriptors, no memory: what is open will end
                self._listener.loop.remove_reader(self._listening)
                self._resting = self._listener.loop.call_later(_REST, self._listen)
                return
            accepted.setblocking(False)
            _Handshake(self._listener, accepted, self.context).begin()


class _Handshake(asyncio.Protocol):
    """A connection until its TLS is up; then the protocol that ALPN chose has it."""

    __slots__ = ("_context", "_listener", "_socket", "_task", "deadline")

    def __init__(self, listener: Listener, accepted: socket.socket, context: ssl.SSLContext) -> None:
        self.deadline = listener.after(listener.settings.tls_time)
        self._listener = listener
        self._socket = accepted
        self._context = context
        self._task: asyncio.Task[Any] | None = None

    def begin(self) -> None:
        """Take the place in the table, if there is one."""
        self._listener.accepted += 1
        if self._listener.add(self):
            self._task = self._listener.server.tasks.start(self._run(), name="tailrace-tls")
        else:  # to refuse it in words would cost us the handshake
            self._listener.discard(self)
            self._socket.close()

    def connection_made(self, transport: Any) -> None:
        """The handshake is done."""
        self._listener.discard(self)
        secured = transport.get_extra_info("ssl_object")
        connection = self._listener.protocol(None if secured is None else secured.selected_alpn_protocol())
        transport.set_protocol(connection)
        connection.connection_made(transport)

    def expired(self) -> None:
        """It took too long."""
        self._listener.expired += 1
        self.abort()

    def retire(self) -> None:
        """It is accepted; its protocol asks the listener how things are."""

    def drain(self) -> None:
        """No request has begun."""
        self.abort()

    def abort(self) -> None:
        """End it."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            with contextlib.suppress(OSError):  # among them ssl.SSLError: the client's fault, and nobody else's
                await self._listener.loop.connect_accepted_socket(
                    lambda: self,
                    self._socket,
                    ssl=self._context,
                    ssl_handshake_timeout=self._listener.settings.tls_time + _TLS_END,  # the sweep comes first
                    ssl_shutdown_timeout=_TLS_END,
                )
        finally:
            self._listener.discard(self)
