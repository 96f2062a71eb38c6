"""Who asks: a bearer token becomes the request's principal, or the request goes no further (RFC 6750).

Tokens are either given (compared in constant time), or judged by a function, the user's or one of `authorization`,
which runs in a task of the server's, within its time. No token is ever logged or stored.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import traceback
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

from tailrace.core.access import Access, InvalidToken, is_text
from tailrace.core.interrupts import is_foreign
from tailrace.errors import DefinitionError
from tailrace.transports.authorization.resource import ResourceServer, Verifier, is_async
from tailrace.wire.challenge import write_challenge

if TYPE_CHECKING:
    from tailrace.core.exchange import Exchange, Headers

__all__ = ["Bearer", "Judge", "Refusal", "Tokens", "Verifier", "VerifierJudge", "make_bearer"]

logger = logging.getLogger("tailrace.auth")


class Refusal(NamedTuple):
    """Why a request goes no further: its status, what it reads, and the ``error`` of its challenge."""

    status: int
    text: str
    error: str | None = None


_MISSING = Refusal(401, "this server wants to know who asks: send the header Authorization: Bearer TOKEN")
_INVALID = Refusal(401, "the bearer token is not valid", "invalid_token")
_FAILED = Refusal(503, "the token cannot be verified at present; try again in a moment")
_BUSY = Refusal(503, "too many tokens are being verified; try again in a moment")
_NARROW = Refusal(403, "the token is not good for this server", "insufficient_scope")
_MAX_TOKEN = 16 * 1024  # characters: more than any token has, and less than a head may hold
_MAX_PRINCIPAL = 255  # characters
_DIGEST = 16  # hexadecimal characters of a principal that was made of a token


class Tokens:
    """Tokens that were given, e.g. with ``--auth-token``.

    The principal of each is a digest of it: the same after a restart, and not the token. Whoever can read the
    store can try guesses against it, so a token should be long and random.

    Args:
        tokens: At least one.

    Raises:
        DefinitionError: One of them is empty, or cannot be sent in a header.
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        for token in tokens:
            if not token or not token.isascii() or not token.isprintable() or " " in token:
                raise DefinitionError("an auth token is visible ASCII without spaces, and not empty")
        if not tokens:
            raise DefinitionError("auth_token has no token: without one, leave it out")
        digests = [_digest(token) for token in tokens]
        self._known = {digest: Access(f"token-{digest.hex()[:_DIGEST]}") for digest in digests}

    def access(self, token: str) -> Access | None:
        """Whose the token is, None if it is nobody's. How long it takes tells nothing of the tokens."""
        given, found = _digest(token), None
        for known, access in self._known.items():  # all of them, also behind the one that fits
            if hmac.compare_digest(known, given):
                found = access
        return found

    def principal(self, token: str) -> str | None:
        """The principal of `access`."""
        access = self.access(token)
        return access.principal if access is not None else None


class VerifierJudge:
    """Tokens that a function of the user's judges.

    Args:
        verifier: ``async (token) -> principal`` (1 to 255 characters), or an `Access`, or None for a token that is not
            valid; `InvalidToken` says why.
        seconds: For one token; then the function is cancelled, and the request refused.
        limit: Tokens that are judged at once; one more is refused.
    """

    def __init__(self, verifier: Verifier, *, seconds: float = 5.0, limit: int = 1000) -> None:
        self._verifier = verifier
        self._seconds = seconds
        self._limit = limit
        self._running = 0

    async def judge(self, token: str) -> Access | Refusal:
        """What the token allows, or what to refuse the request with. Failures of the function are refusals, too."""
        if self._running >= self._limit:
            return _BUSY
        self._running += 1
        limit = asyncio.timeout(self._seconds)
        try:
            async with limit:
                said = cast("object", await self._verifier(token))  # the user's: it may be anything
        except InvalidToken as error:
            return Refusal(401, str(error) or _INVALID.text, "invalid_token")
        except (Exception, KeyboardInterrupt, SystemExit) as error:
            if is_foreign(error, None):
                raise
            if isinstance(error, TimeoutError) and limit.expired():
                logger.error("the token verifier did not end within %.1fs", self._seconds)
            else:
                text = "".join(traceback.format_exception(error)).replace(token, "[token]")
                logger.error("the token verifier failed\n%s", text)
            return _FAILED
        finally:
            self._running -= 1
        if said is None:
            return _INVALID
        access = said if isinstance(said, Access) else Access(cast("str", said))
        principal = cast("object", access.principal)
        if not isinstance(principal, str) or not 0 < len(principal) <= _MAX_PRINCIPAL or not is_text(principal):
            logger.error("the token verifier gave no principal: that is a str of 1 to %d characters", _MAX_PRINCIPAL)
            return _FAILED
        return access

    async def aclose(self) -> None:
        """Close the verifier, where it is one that has to be."""
        close = getattr(self._verifier, "aclose", None)
        if close is not None:
            await close()


Judge: TypeAlias = Tokens | VerifierJudge


class Bearer:
    """Sets the principal of requests, or says what to refuse them with.

    Args:
        judge: Knows whose a token is.
        resource: What this server is to authorization servers; None: to none.
    """

    def __init__(self, judge: Judge, resource: ResourceServer | None = None) -> None:
        self._judge = judge
        self.resource = resource

    def check(self, exchange: Exchange) -> Refusal | Awaitable[Refusal | None] | None:
        """None if the request may pass, with its principal set; else the refusal; or either of them, to be awaited.

        A request that shows no token, or none that can be one, is refused without asking anybody.
        """
        token = _token(exchange)
        if not isinstance(token, str):
            return token
        if isinstance(self._judge, Tokens):
            return self._settle(exchange, self._judge.access(token) or _INVALID)
        return self._ask(self._judge, exchange, token)

    async def _ask(self, judge: VerifierJudge, exchange: Exchange, token: str) -> Refusal | None:
        return self._settle(exchange, await judge.judge(token))

    def _settle(self, exchange: Exchange, verdict: Access | Refusal) -> Refusal | None:
        if isinstance(verdict, Refusal):
            return verdict
        if self.resource is not None and not verdict.covers(self.resource.scopes):
            return _NARROW
        exchange.principal = verdict.principal
        exchange.access = verdict
        exchange.challenge = self.narrower
        return None

    def narrower(self, exchange: Exchange, scopes: Sequence[str]) -> bytes:
        return self._challenge(exchange, "insufficient_scope", None, scopes)

    def challenge(self, exchange: Exchange, refusal: Refusal) -> Headers:
        """The header of a 401 or 403; a request that showed no token is told of no error (RFC 6750, 3.1)."""
        if refusal.status not in (401, 403):
            return ()
        text = refusal.text if refusal.error is not None and self.resource is not None else None
        return ((b"www-authenticate", self._challenge(exchange, refusal.error, text, ())),)

    def _challenge(self, exchange: Exchange, error: str | None, text: str | None, scopes: Sequence[str]) -> bytes:
        if self.resource is not None:
            return self.resource.challenge(exchange, error, text, scopes)
        return write_challenge({"error": error, "scope": " ".join(scopes) or None})

    async def aclose(self) -> None:
        """Let go of what the verifier holds, if it holds anything."""
        if isinstance(self._judge, VerifierJudge):
            await self._judge.aclose()


def make_bearer(auth: object, tokens: str | Sequence[str] | None, *, seconds: float, limit: int) -> Bearer | None:
    """What `auth=` and `auth_token=` mean; None where both are left out.

    Raises:
        DefinitionError: Both are given; the verifier is no async function; a token cannot be one.
    """
    if auth is not None and tokens:
        raise DefinitionError("give auth= or auth_token=, not both: one of them decides whose a token is")
    if auth is not None:
        if not isinstance(auth, ResourceServer) and getattr(auth, "issuers", None):
            auth = ResourceServer(cast("Verifier", auth))  # a verifier that knows where its tokens come from
        if isinstance(auth, ResourceServer):
            return Bearer(VerifierJudge(auth.verifier, seconds=seconds, limit=limit), auth)
        if not is_async(auth):
            raise DefinitionError("auth= takes an async function: (token: str) -> str | None, the principal")
        return Bearer(VerifierJudge(cast("Verifier", auth), seconds=seconds, limit=limit))
    if tokens is None or tokens == ():
        return None
    return Bearer(Tokens([tokens] if isinstance(tokens, str) else tokens))


def _token(exchange: Exchange) -> str | Refusal:
    """The request's token; one in the query is none (RFC 6750, 2.3: not recommended)."""
    values = exchange.header_values(b"authorization")
    scheme, _, token = values[0].strip().partition(" ") if values else ("", "", "")
    if scheme.lower() != "bearer":
        return _MISSING
    token = token.strip()
    if len(values) > 1 or not token or len(token) > _MAX_TOKEN or not token.isascii():
        return _INVALID
    return token


def _digest(token: str) -> bytes:
    return hashlib.sha256(b"tailrace bearer token\0" + token.encode()).digest()
