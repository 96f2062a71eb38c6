"""What members of one service say to each other of a request that one received and another handles.

Each piece is one message of an inbox (`core.ports.Inbox`), which brings those of one sender in order and each once.
All but the last four belong to a relay, which the member that received the request has numbered; their `seq` counts
what one side has said of it, so that a missing piece is noticed. Who says what when is left to `relay_asked` (the side
of the client) and `relay_served` (the side of the session).
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from tailrace.core.access import Access

__all__ = [
    "PART",
    "Body",
    "BodyFailed",
    "BodyTaken",
    "Broken",
    "Data",
    "Declined",
    "End",
    "FromAsker",
    "FromOwner",
    "Head",
    "Left",
    "Open",
    "Piece",
    "Ping",
    "Pong",
    "Reply",
    "ReplyTaken",
    "Reset",
    "Stop",
    "Tell",
    "Took",
    "decode",
    "encode",
    "pack_access",
    "unpack_access",
]

PART = 64 * 1024  # bytes of a body in one piece
Fields: TypeAlias = list[tuple[bytes, bytes]]
PackedAccess: TypeAlias = tuple[str, "list[str] | None", bytes, "str | None", "float | None"]


# They are encoded as arrays that begin with their tag. During a rolling deployment old and new members talk: a tag is
# never given to another piece, and a new field comes last and has a default.


class Open(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=1):
    """A request. Its credentials stay behind: who asks was found out where it arrived."""

    relay: int
    method: str
    path: str
    query: bytes
    prefix: str
    version: str
    headers: list[tuple[bytes, str]]
    body: bytes  # whole, unless `more` or `streams`
    more: bool  # the rest of it follows
    streams: bool  # it is read as it comes
    trailers: bool
    loopback: bool
    principal: str
    access: PackedAccess | None
    challenges: bool  # whoever may not is told how to ask for it


class Body(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=2):
    """Some of the request's body; the last of it may be empty."""

    relay: int
    seq: int
    data: bytes
    last: bool


class BodyFailed(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=3):
    """Nothing more of the body comes, though it is not complete."""

    relay: int
    seq: int
    reason: str


class Left(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=4):
    """The client is gone, or waits no longer: the end of the relay."""

    relay: int
    seq: int
    reset: bool  # it reset its HTTP/2 stream


class ReplyTaken(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=5):
    """So many bytes more of the reply are with the client's transport."""

    relay: int
    seq: int
    size: int


class Took(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=21):
    """The request is being handled, and takes its time."""

    relay: int
    seq: int


class Reply(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=22):
    """The whole reply: the end of the relay."""

    relay: int
    seq: int
    status: int
    headers: Fields
    body: bytes
    trailers: Fields


class Head(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=23):
    """The head of a reply whose body follows."""

    relay: int
    seq: int
    status: int
    headers: Fields
    whole: bool  # it is to be sent once it is complete
    joined: bool = False  # it is not to be sent without the first of its body, which follows


class Data(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=24):
    """Some of the reply's body."""

    relay: int
    seq: int
    data: bytes
    more: bool  # what was written together goes on in the next


class End(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=25):
    """The reply is complete: the end of the relay."""

    relay: int
    seq: int
    trailers: Fields


class Broken(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=26):
    """There is no reply, or no more of it: the end of the relay."""

    relay: int
    seq: int


class Declined(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=27):
    """The request is not for this member, which has done nothing: the end of the relay."""

    relay: int
    seq: int


class BodyTaken(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=28):
    """So many bytes more of the request's body were read."""

    relay: int
    seq: int
    size: int


class Stop(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=29):
    """Nothing more of the request's body is wanted."""

    relay: int
    seq: int


class Tell(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=41):
    """Something for a handler of its kind, which concerns no request."""

    kind: str
    payload: bytes


class Reset(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=42):
    """Whatever was begun between these two has ended: pieces were lost."""


class Ping(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=43):
    """Is anybody there?"""


class Pong(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=44):
    """Yes."""


FromAsker: TypeAlias = Body | BodyFailed | Left | ReplyTaken
FromOwner: TypeAlias = Took | Reply | Head | Data | End | Broken | Declined | BodyTaken | Stop
Piece: TypeAlias = Open | FromAsker | FromOwner | Tell | Reset | Ping | Pong

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Piece).decode


def pack_access(access: Access) -> PackedAccess:
    """What travels of it: of its claims those that are JSON-like; others mean something in one process only."""
    scopes = None if access.scopes is None else sorted(access.scopes)
    try:
        claims = encode(dict(access.claims))
    except (TypeError, ValueError, OverflowError):
        claims = encode({name: value for name, value in access.claims.items() if _travels(value)})
    return access.principal, scopes, claims, access.client_id, access.expires_at


def unpack_access(packed: PackedAccess) -> Access:
    """As it was packed."""
    principal, scopes, claims, client_id, expires_at = packed
    given: dict[str, Any] = msgspec.msgpack.decode(claims)
    return Access(principal, None if scopes is None else frozenset(scopes), given, client_id, expires_at)


def _travels(value: Any) -> bool:
    try:
        encode(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True
