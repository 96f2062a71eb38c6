"""What a client carries from one leg of its request to the next (2026-07-28, multi round-trip requests).

The state is sealed with the store's secret for one principal, names the request that it belongs to by a digest, and
expires; so a server of the same store can go on where another stopped, and nobody else can make one up. It is not
encrypted: it holds what its client has answered itself, and no more.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Raw, Struct

from tailrace.protocols.mcp.keys import fingerprint_of

if TYPE_CHECKING:
    from tailrace.protocols.mcp.framing import Seals

__all__ = ["Answer", "RequestState", "binding_of", "digest_of", "open_state", "seal_state"]

_PURPOSE = b"tailrace request state 1"
_DIGEST = 12  # bytes that tell one question from another


class Answer(Struct, frozen=True, array_like=True):
    """What a client has said to one question.

    Attributes:
        question: Its digest; an answer is never given to another question.
        result: As JSON.
    """

    question: bytes
    result: bytes


class RequestState(Struct, frozen=True, array_like=True):
    """What is under the seal.

    Attributes:
        identity: Names the call over all its legs.
        binding: Of the request: its method, its name and its arguments.
        born: Wall clock, seconds: when its first leg ended.
        expires: Wall clock, seconds.
        leg: How many legs there were.
        answers: By the questions' keys.
        asked: The digests of the questions that were asked last, by their keys.
    """

    identity: str
    binding: bytes
    born: float
    expires: float
    leg: int
    answers: dict[str, Answer]
    asked: dict[str, bytes]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(RequestState).decode
_encode_sorted = msgspec.json.Encoder(order="sorted").encode


def seal_state(seals: Seals, state: RequestState, principal: str) -> str:
    """The text for the client."""
    payload = _encode(state)
    return base64.urlsafe_b64encode(seals.stamp(_PURPOSE, payload, principal) + payload).rstrip(b"=").decode()


def open_state(seals: Seals, text: str, principal: str) -> RequestState:
    """Read it back. Whether it has expired, and is of this request, is for the caller to look at.

    Raises:
        ValueError: It was not made here, or for somebody else.
    """
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not a request state of this server") from None
    if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != text:
        raise ValueError("not a request state of this server")
    return _decode(seals.opened(_PURPOSE, raw, principal))


def binding_of(method: str, name: str, arguments: Any) -> bytes:
    """Names a request by what it asks for; equal requests have equal ones. `arguments` are raw JSON, or missing.

    Raises:
        MsgspecError, RecursionError: They are no JSON that can be compared.
    """
    plain: Any = msgspec.json.decode(arguments) if isinstance(arguments, Raw) else {}
    return hashlib.sha256(method.encode() + b"\0" + fingerprint_of(name, plain)).digest()


def digest_of(method: str, params: Any) -> bytes:
    """Tells a question from others: it is the same for the same method and parameters."""
    return hashlib.sha256(method.encode() + b"\0" + _encode_sorted(params)).digest()[:_DIGEST]
