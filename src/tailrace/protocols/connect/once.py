"""Methods that run once a key (`once=True`, G1b): one run for all who ask, and its answer for those who ask again.

Each request stays a call of its own, with its own deadline and its own end. The handler runs in a call of the
server's, to which requests attach and from which they leave. The keys are `core.ledger`'s, and shared with MCP: a key
that stands for a call over one of the two is refused over the other.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from tailrace.core.context import Context
from tailrace.core.ledger import KeyReused, Ledger, Withheld
from tailrace.core.ledger_entry import Entry, EntryState
from tailrace.core.outgoing import Leaving
from tailrace.errors import CallCancelled, ClientGone, Code, DeadlineExceeded, EntryTaken, RpcError, StoreError
from tailrace.protocols.connect.call import RpcCall, RpcReply
from tailrace.wire.grpc import Status, decode_status, encode_status
from tailrace.wire.rpc import details_of

if TYPE_CHECKING:
    from tailrace.core.exchange import Exchange
    from tailrace.protocols.connect.call import Home
    from tailrace.protocols.connect.opening import Opening

__all__ = ["OnceCall"]

logger = logging.getLogger("tailrace.rpc")

MAX_KEY = 255  # bytes
_HEADER = b"idempotency-key"
_RESULT, _ERROR = b"m", b"s"  # how a remembered answer begins: a message, or a status; others are MCP's
_UNKNOWN = "the server was stopped while the call with this key was running; whether it took effect is unknown"
_REPLAYED = "idempotent-replayed"

_encode_sorted = msgspec.json.Encoder(order="sorted").encode


class Claim(NamedTuple):
    """What a request asks to run once."""

    principal: str
    key: str
    fingerprint: bytes


class OnceCall(RpcCall):
    """One request for a method that runs once. Without a key it is a call as any other."""

    __slots__ = ("ledger",)

    def __init__(self, number: int, home: Home, opening: Opening, exchange: Exchange, *, ledger: Ledger) -> None:
        super().__init__(number, home, opening, exchange)
        self.ledger = ledger

    async def _single(self) -> bytes:
        value = self._request()
        key = self._key(value)
        if key is None:
            return self._frame(await self._handle(value))
        try:
            return self._remembered(*await self._outcome(key, value))
        except KeyReused as error:
            raise RpcError(Code.INVALID_ARGUMENT, str(error)) from None
        except StoreError as error:
            if not isinstance(error, Withheld):  # that it fails was said when the answer could not be stored
                logger.error("the store fails: %s", error)  # its text names the file: not for clients
            raise RpcError(Code.UNAVAILABLE, "the store fails; try again later") from None

    def _key(self, value: Any) -> str | None:
        """The key of the request, from the field of its message that holds it, or from the header.

        Raises:
            RpcError: Two that differ, or one that cannot be a key.
        """
        keys = [_unquoted(text) for text in self.reply.exchange.header_values(_HEADER)]
        name = self.method.once
        if isinstance(name, str):
            arguments = self.method.bind(value)
            given = arguments.get(name) if name in arguments else getattr(value, name, None)
            if isinstance(given, str) and given:
                keys.append(given)
        for key in keys:
            if not 0 < len(key.encode()) <= MAX_KEY:
                raise RpcError(Code.INVALID_ARGUMENT, f"an idempotency key has 1 to {MAX_KEY} bytes")
            if key != keys[0]:
                raise RpcError(Code.INVALID_ARGUMENT, "the idempotency keys of the message and of the header differ")
        return keys[0] if keys else None

    async def _outcome(self, key: str, value: Any) -> tuple[bytes, bool]:
        """The remembered answer, and whether it was there before this request came. The first request of a key starts
        a run; those that come while it goes on attach to it, or wait for it where it is another process's."""
        plain = _encode_sorted(msgspec.json.decode(self.method.input.to_json(value)))
        fingerprint = hashlib.sha256(b"rpc\0" + self.method.path.encode() + b"\0" + plain).digest()
        claim = Claim(self.reply.exchange.principal, key, fingerprint)
        while True:
            try:
                return await self._attach(claim, value)
            except EntryTaken:
                found = await self.ledger.elsewhere(*claim)
                if found is not None:
                    return found

    async def _attach(self, claim: Claim, value: Any) -> tuple[bytes, bool]:
        entry = self.ledger.find(*claim)
        if entry is not None and entry.state is EntryState.ENDED:
            self.ledger.replayed += 1
            return await self.ledger.answer(entry), True
        self.ledger.attached += entry is not None
        if entry is None:
            entry = self._begin(claim, value)
        run: _Run | None = entry.owner
        if run is None:  # it was abandoned: there is an error
            return await self.ledger.answer(entry), False
        run.listeners += 1
        self.info = run.rpc  # what the handler puts into its headers goes to all who wait
        try:
            return await self.ledger.answer(entry), False
        except asyncio.CancelledError:
            run.leave(self.cancelled_by)
            raise
        finally:
            run.listeners -= 1

    def _begin(self, claim: Claim, value: Any) -> Entry:
        """Claim the key, and start the run once that is committed. There is no `await` between `find` and here."""
        self.ledger.check_room(claim.principal)
        run = _Run(self, value)
        self.tasks.admit(run)
        run.entry = self.ledger.claim(*claim, b"", run.committed, run)
        return run.entry

    def _remembered(self, answer: bytes, replayed: bool) -> bytes:
        """A remembered answer as this request's own."""
        kind, data = answer[:1], answer[1:]
        if replayed:
            self.rpc.response_headers[_REPLAYED] = "true"
        if kind == _RESULT:
            output, form = self.method.output, self.opening.form
            return form.frame(output.to_json(output.from_proto(data)) if form.kind.codec == "json" else data)
        if kind == _ERROR:
            status = decode_status(data)
            raise RpcError(Code(status.code), status.message, status.details)
        raise RpcError(Code.UNKNOWN, _UNKNOWN)


class _Run(RpcCall):
    """The one run of a key. It belongs to the server: no client's end is its end.

    Attributes:
        entry: Of the ledger.
        listeners: How many requests wait for it.
    """

    __slots__ = ("_value", "entry", "ledger", "listeners")

    def __init__(self, first: OnceCall, value: Any) -> None:
        super().__init__(first.number, first.home, first.opening, first.reply.exchange)
        self.reply = _RunReply(first.reply.exchange)
        self.ledger = first.ledger
        self.principal = first.principal
        self.context = Context(first.context.detach(), call=self)  # its values
        self.entry: Entry | None = None
        self.listeners = 0
        self._value = value

    @property
    def operation(self) -> None:
        """The requests that wait for it are measured."""
        return

    def committed(self, error: StoreError | None) -> None:
        """The claim is safe, or is not."""
        if error is not None:
            return self.cancel(error)
        if self.method.timeout is not None:
            seconds = self.method.timeout
            self.set_timeout(seconds, DeadlineExceeded(f"{self.method.path} did not end within {seconds:g} s"))
        return self.start()

    def leave(self, error: Exception | None) -> None:
        """A request does not wait any more. The last one tells the handler, which goes on all the same."""
        if self.listeners == 1 and isinstance(error, ClientGone | DeadlineExceeded):
            self.context.cancel(error)

    def outlived(self, payload: bytes | None, error: Exception) -> bytes | None:
        """It answered although nobody waits any more: that is its answer."""
        return payload if self.cancelled_by is None else super().outlived(payload, error)

    async def _single(self) -> bytes:
        value = await self._handle(self._value)
        message = self.method.output.to_proto(value)
        most = self.home.settings.max_result
        if len(message) > most:
            raise RpcError(Code.RESOURCE_EXHAUSTED, f"the message has {len(message)} bytes; at most {most} are sent")
        return _RESULT + message

    async def _publish(self) -> None:
        """What it publishes is committed together with its answer: a crash leaves both, or neither."""
        collected = self.collected
        messages = collected.take(gone=not self.listeners) if collected is not None else ()
        if collected is not None and messages:
            self.decided = True
            self.leaving = Leaving(collected.outbox, messages, self._unpublished)

    def _unpublished(self, error: StoreError) -> bytes:
        logger.error("messages could not be committed, so the call failed method=%s error=%s", self.label, error)
        return _ERROR + encode_status(Status(int(Code.UNAVAILABLE), "what the call publishes could not be stored"))


class _RunReply(RpcReply):
    """The ledger, as the way back of a run."""

    __slots__ = ()

    def answer(self, call: Any, payload: bytes | None) -> None:
        """Remember how it ended."""
        entry: Entry | None = call.entry
        if entry is None:  # the claim was refused
            return
        cause = call.cancelled_by
        if isinstance(cause, StoreError) or (cause is not None and not isinstance(cause, DeadlineExceeded)):
            call.ledger.abandon(entry, cause if isinstance(cause, StoreError) else CallCancelled(str(cause)))
        elif call.error is None:
            call.ledger.finish(entry, payload or _RESULT, call.leaving)
        else:
            error: RpcError = call.error
            details = tuple(details_of(error.details))
            call.ledger.finish(entry, _ERROR + encode_status(Status(int(error.code), str(error.message), details)))


def _unquoted(value: str) -> str:
    """The header is a string in quotes where its client follows the draft (RFC 9651, 3.3.3), else it is as it is."""
    if len(value) < 2 or not (value.startswith('"') and value.endswith('"')):
        return value
    return value[1:-1].replace('\\"', '"').replace("\\\\", "\\")
