"""Requests from member to member: whichever process of a service receives one, the owner of its session handles it.

One more transport: what arrives here is sent on as pieces through the owner's inbox, is an ordinary `Exchange` over
there, and its reply comes back piece by piece through ours. This is the switchboard: it numbers relays, reads the
inbox, and ends what the end of a member or a lost piece has cut. The two sides of one relay are `relay_asked` and
`relay_served`; who owns what is left to the server.

Nothing hangs: a member of which nothing is heard is asked whether it is there and then counts as lost; what was lost
ends everything between the two. What is on its way of one body is bounded by a window, how many there are by a limit.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from msgspec import MsgspecError

from tailrace.core.timers import DelayLine
from tailrace.errors import StoreError
from tailrace.transports.relay_asked import Asked
from tailrace.transports.relay_pieces import (
    Body,
    BodyFailed,
    FromAsker,
    FromOwner,
    Left,
    Open,
    Piece,
    Ping,
    Pong,
    ReplyTaken,
    Reset,
    Tell,
    decode,
    encode,
)
from tailrace.transports.relay_served import RelayedExchange

if TYPE_CHECKING:
    from tailrace.core.exchange import Exchange, Handler
    from tailrace.core.ports import Inbox
    from tailrace.core.tasks import Tasks
    from tailrace.core.timers import Sweeper

__all__ = ["Relay"]

logger = logging.getLogger("tailrace.relay")

Told: TypeAlias = Callable[[str, bytes], None]
Challenge: TypeAlias = "Callable[[Exchange, Sequence[str]], bytes]"

_PING, _PONG, _RESET = encode(Ping()), encode(Pong()), encode(Reset())
_FROM_ASKER = (Body, BodyFailed, Left, ReplyTaken)


class _Peer:
    """Another member, as long as there is something between it and this one.

    Attributes:
        heard: When it last said something (loop time).
        pinged: When it was asked whether it is there, if it has said nothing since.
        asked: Requests that it handles, by number.
        served: Requests of its clients that are handled here, by number.
        reset_due: It has to hear that all of it has ended, before anything else.
    """

    __slots__ = ("asked", "heard", "pinged", "reset_due", "served")

    def __init__(self, heard: float) -> None:
        self.heard = heard
        self.pinged: float | None = None
        self.asked: dict[int, Asked] = {}
        self.served: dict[int, RelayedExchange] = {}
        self.reset_due = False


class Relay:
    """The requests that this member sends on, and those that others send it.

    Args:
        inbox: What carries the pieces; open, and closed by whoever opened it.
        tasks: Where what has to wait runs.
        sweeper: Calls `sweep`.
        handle: Handles a request of another member's client (a `RelayedExchange`): who asks is known. One for which
            this is the wrong member it declines.
        refuse: Replies with an error: status and text.
        again: Given a request which that member has declined, or which may be repeated and whose member was lost: sends
            it to whoever has it now. None: it is refused (503).
        repeatable: Whether a request does no more than once if it is handled twice. None: a GET is.
        challenge: As `Exchange.challenge`, for requests of other members' clients.
        limit: Relays at once in each direction; over it requests are refused (503).
        window: Bytes of one body in one direction that may be on their way.
        answer_time: Seconds for the first sign of life of whoever handles a request; then it is refused (504).
        silence: Seconds without a word of a member with which something is open, until it is asked whether it is
            there; it counts as lost twice as long after that.
    """

    def __init__(
        self,
        inbox: Inbox,
        tasks: Tasks,
        sweeper: Sweeper,
        handle: Handler,
        *,
        refuse: Callable[[Exchange, int, str], None],
        again: Callable[[Exchange, str], None] | None = None,
        repeatable: Callable[[Exchange], bool] | None = None,
        challenge: Challenge | None = None,
        limit: int = 10_000,
        window: int = 262_144,
        answer_time: float = 10.0,
        silence: float = 10.0,
    ) -> None:
        self.inbox = inbox
        self.tasks = tasks
        self.window = window
        self._refuse = refuse
        self._sweeper = sweeper
        self._handle = handle
        self._again = again
        self._repeatable = repeatable
        self._challenge = challenge
        self._limit = limit
        self._silence = silence
        self._handlers: dict[str, Told] = {}
        self._peers: dict[str, _Peer] = {}
        self._numbers = 0
        self._asked = self._served = 0  # at the moment
        self._answers = DelayLine(answer_time)
        self._signs = DelayLine(answer_time / 10)
        self._task: asyncio.Task[Any] | None = None
        self._closed = False
        self._forwarded = self._taken = self._refused = self._lost = 0  # ever
        self._bytes_out = self._bytes_in = 0

    def start(self) -> None:
        """Begin to read the inbox; on the loop."""
        self.inbox.on_lost = self.lost_pieces
        self._sweeper.add(self)
        self._task = self.tasks.start(self._read(), name="tailrace-relay")

    def close(self) -> None:
        """End all that is open, and say so to the others; nothing is sent on any more. Idempotent.

        Streams of events end in order between two of them, so that their clients ask another member for the rest;
        other clients get an error, or their replies are cut.
        """
        if self._closed:
            return
        self._closed = True
        for peer in self._peers.values():
            for asked in list(peer.asked.values()):
                asked.close()
            for exchange in list(peer.served.values()):
                exchange.break_off()
                exchange.leave()
        self._answers.close()
        self._signs.close()
        self._sweeper.discard(self)
        self.inbox.on_lost = None
        if self._task is not None:
            self._task.cancel()

    # --- for the server ---

    def forward(self, exchange: Exchange, to: str) -> None:
        """Have the member `to` handle a request; its reply comes here. Never waits."""
        if exchange.gone:
            return None
        if self._closed:
            return self._turn_away(exchange, "the server is shutting down; try again in a moment")
        if self._asked >= self._limit:
            return self._turn_away(exchange, f"{self._limit} requests are at other workers; try again later")
        self._numbers += 1
        asked = Asked(self, exchange, to, self._numbers)
        peer = self._peer(to)
        peer.asked[asked.number] = asked
        self._asked += 1
        self._forwarded += 1
        try:
            asked.begin()
        except StoreError as error:
            self.forget_asked(asked)
            logger.warning("a request cannot be sent on member=%s error=%s", to, error)  # its text is not for clients
            return self._turn_away(exchange, "the worker that has this session cannot be reached; try again later")
        return self._answers.add(asked)

    def on(self, kind: str, handler: Told) -> None:
        """Have `handler(sender, payload)` called for what others tell of this kind."""
        self._handlers[kind] = handler

    def tell(self, to: str, kind: str, payload: bytes = b"") -> None:
        """Say something to a member; it arrives once, or not at all. Never waits.

        Raises:
            StoreError: It cannot be sent.
        """
        self._post(to, Tell(kind, payload))

    def lost(self, member: str) -> None:
        """A member is gone, or was away for so long that another has taken its place: all that is between the two
        ends. Should it come back, it hears of that."""
        peer = self._peers.get(member)
        if peer is not None:
            self._end(member, peer)

    def lost_pieces(self) -> None:
        """Pieces may be lost, to or from anybody: everything ends."""
        for member, peer in list(self._peers.items()):
            self._end(member, peer)

    @property
    def is_awaited(self) -> bool:
        """Other members have requests of this one's clients that have no reply yet, not even its beginning."""
        return any(not asked.exchange.replied for peer in self._peers.values() for asked in peer.asked.values())

    def statistics(self) -> dict[str, int]:
        """Numbers for people: requests at other members and of others here, now and ever; refused and lost ones; bytes
        of pieces, to others and from them."""
        return {
            "asked": self._asked,
            "served": self._served,
            "forwarded": self._forwarded,
            "taken": self._taken,
            "refused": self._refused,
            "lost": self._lost,
            "bytes_out": self._bytes_out,
            "bytes_in": self._bytes_in,
        }

    # --- for the relays (fulfils `AskerHome` and `OwnerHome`) ---

    def open(self, to: str, piece: Open) -> None:
        """Send the first piece of a relay."""
        peer = self._peer(to)
        if peer.reset_due:
            self._post(to, _RESET)
            peer.reset_due = False
        self._post(to, piece)

    def say(self, to: str, piece: FromAsker | FromOwner) -> None:
        """Send a piece. What cannot be sent is lost, and nobody may wait for it: all between the two ends."""
        peer = self._peers.get(to)
        if peer is None or peer.reset_due:
            return
        try:
            self._post(to, piece)
        except StoreError:
            self._lost += 1
            peer.reset_due = True
            self.tasks.loop.call_soon(self._end, to, peer)  # not within whoever speaks

    def forget_asked(self, asked: Asked) -> None:
        """A request has its reply, or will have none."""
        peer = self._peers.get(asked.to)
        if peer is not None and peer.asked.pop(asked.number, None) is not None:
            self._asked -= 1

    def forget_served(self, exchange: RelayedExchange) -> None:
        """A request has its reply, or will have none."""
        peer = self._peers.get(exchange.sender)
        if peer is not None and peer.served.pop(exchange.number, None) is not None:
            self._served -= 1

    def hand_over(self, exchange: RelayedExchange) -> None:
        """Have a request handled whose body is here."""
        try:
            self._handle(exchange)
        except Exception:
            logger.exception("a relayed request could not be handled path=%s", exchange.path[:256])
            if not exchange.replied:
                self.refuse(exchange, 500, "internal error")
        if not exchange.settled:
            self._signs.add(exchange)

    def refuse(self, exchange: Exchange, status: int, message: str) -> None:
        """Reply with an error."""
        self._refuse(exchange, status, message)

    def ask_again(self, exchange: Exchange, to: str) -> None:
        """The member `to` has not handled a request."""
        if self._again is None or self._closed:
            self._turn_away(exchange, "the worker that had this session is gone; try again in a moment")
        else:
            self._again(exchange, to)

    def may_repeat(self, exchange: Exchange) -> bool:
        """Whether a request whose member was lost may be handled by another one, too."""
        return exchange.method == "GET" if self._repeatable is None else self._repeatable(exchange)

    def sweep(self, now: float) -> None:
        """Twice a second: who has not been heard of?"""
        for member, peer in list(self._peers.items()):
            quiet = now - peer.heard
            if peer.reset_due:
                peer.reset_due = not self._try(member, _RESET)
            elif not (peer.asked or peer.served):
                if quiet >= 6 * self._silence:
                    del self._peers[member]
            elif peer.pinged is not None:
                if now - peer.pinged >= 2 * self._silence:
                    logger.warning("nothing was heard of a member for %.0fs member=%s", quiet, member)
                    self._end(member, peer)
            elif quiet >= self._silence:
                peer.pinged = now
                self._try(member, _PING)

    # --- the inbox ---

    async def _read(self) -> None:
        while True:
            try:
                pieces = await self.inbox.receive()
            except StoreError as error:
                logger.error("the inbox of this member has ended: %s", error)
                self.lost_pieces()
                return self.close()
            self._bytes_in += sum(len(data) for _, data in pieces)
            heard = [(sender, piece) for sender, data in pieces if (piece := self._decoded(sender, data)) is not None]
            for sender, piece in heard if len(heard) == 1 else _wanted(heard):
                try:
                    self._hear(sender, piece)
                except Exception:
                    logger.exception("a piece could not be handled member=%s", sender)
                    self.lost(sender)

    def _decoded(self, sender: str, data: bytes) -> Piece | None:
        try:
            return decode(data)
        except MsgspecError as error:  # a newer version says what this one does not know
            logger.error("a piece cannot be read member=%s error=%s", sender, error)
            self.lost(sender)
            return None

    def _hear(self, sender: str, piece: Piece) -> None:
        peer = self._peer(sender)
        peer.heard, peer.pinged = self.tasks.loop.time(), None
        if isinstance(piece, Open):
            self._on_open(sender, peer, piece)
        elif isinstance(piece, _FROM_ASKER):
            exchange = peer.served.get(piece.relay)
            if exchange is not None:
                exchange.hear(piece)
        elif isinstance(piece, Tell):
            self._on_tell(sender, piece)
        elif isinstance(piece, Reset):
            self._end(sender, peer, tell=True)
        elif isinstance(piece, Ping):
            self._try(sender, _PONG)
        elif not isinstance(piece, Pong):
            asked = peer.asked.get(piece.relay)
            if asked is not None:
                asked.hear(piece)

    def _on_open(self, sender: str, peer: _Peer, piece: Open) -> None:
        exchange = RelayedExchange(self, sender, piece)
        if piece.challenges:
            exchange.challenge = self._challenge
        peer.served[piece.relay] = exchange
        self._served += 1
        self._taken += 1
        if self._closed or self._served > self._limit:
            self._turn_away(exchange, "this worker has too much to do; try again later")
        elif exchange.is_whole:
            self.hand_over(exchange)
        else:
            self._signs.add(exchange)

    def _on_tell(self, sender: str, piece: Tell) -> None:
        handler = self._handlers.get(piece.kind)
        if handler is not None:  # else a newer member knows more kinds
            try:
                handler(sender, piece.payload)
            except Exception:
                logger.exception("what a member told could not be handled kind=%s", piece.kind)

    # --- within ---

    def _peer(self, member: str) -> _Peer:
        peer = self._peers.get(member)
        if peer is None:
            peer = self._peers[member] = _Peer(self.tasks.loop.time())
        return peer

    def _end(self, member: str, peer: _Peer, *, tell: bool = False) -> None:
        """All between the two ends: `tell` it of what it may have begun since, else let it know that everything has."""
        asked, served = list(peer.asked.values()), list(peer.served.values())
        self._lost += len(asked) + len(served)
        if not tell:
            peer.reset_due = True
        for end in (*(partial(one.lost, tell=tell) for one in asked), *(exchange.leave for exchange in served)):
            try:
                end()
            except Exception:  # of whoever handles it: the others end, too, and the inbox that tells of a loss goes on
                logger.exception("a relay did not end as it should member=%s", member)
        if peer.reset_due:
            peer.reset_due = not self._try(member, _RESET)

    def _try(self, member: str, piece: bytes) -> bool:
        try:
            self._post(member, piece)
        except StoreError:
            return False
        return True

    def _post(self, to: str, piece: Piece | bytes) -> None:
        """The only place that sends."""
        data = piece if isinstance(piece, bytes) else encode(piece)
        self.inbox.send(to, data)
        self._bytes_out += len(data)

    def _turn_away(self, exchange: Exchange, message: str) -> None:
        self._refused += 1
        self.refuse(exchange, 503, message)


def _wanted(heard: list[tuple[str, Piece]]) -> list[tuple[str, Piece]]:
    """Without the requests for which nobody waits any more, as a member finds them that was held up: they are not
    begun."""
    over: set[tuple[str, int]] = set()
    reset: set[str] = set()
    wanted: list[tuple[str, Piece]] = []
    for sender, piece in reversed(heard):
        if isinstance(piece, Left):
            over.add((sender, piece.relay))
        elif isinstance(piece, Reset):
            reset.add(sender)
        elif isinstance(piece, Open) and (sender in reset or (sender, piece.relay) in over):
            continue
        wanted.append((sender, piece))
    return wanted[::-1]
