"""Who asks: a bearer token becomes the request's principal, or the request goes no further (RFC 6750).

Tokens are either given (compared in constant time), or judged by a function of the user's, which runs
in a task of the server's, within its time. No token is ever logged or stored.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import inspect
import logging
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias, cast

from tailrace.errors import DefinitionError

if TYPE_CHECKING:
    from tailrace.core.exchange import Exchange, Headers

__all__ = ["Bearer", "Judge", "Refusal", "Tokens", "Verifier", "VerifierJudge", "make_bearer"]

logger = logging.getLogger("tailrace.auth")

Verifier: TypeAlias = Callable[[str], Awaitable[str | None]]
Refusal: TypeAlias = tuple[int, str]

_MISSING: Refusal = (401, "this server wants to know who asks: send the header Authorization: Bearer TOKEN")
_INVALID: Refusal = (401, "the bearer token is not valid")
_FAILED: Refusal = (503, "the token cannot be verified at present; try again in a moment")
_BUSY: Refusal = (503, "too many tokens are being verified; try again in a moment")
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
        self._known = {digest: f"token-{digest.hex()[:_DIGEST]}" for digest in digests}

    def principal(self, token: str) -> str | None:
        """Whose the token is, None if it is nobody's. How long it takes tells nothing of the tokens."""
        given, found = _digest(token), None
        for known, name in self._known.items():  # all of them, also behind the one that fits
            if hmac.compare_digest(known, given):
                found = name
        return found


class VerifierJudge:
    """Tokens that a function of the user's judges.

    Args:
        verifier: ``async (token) -> principal`` (1 to 255 characters), or None for a token that is not valid.
        seconds: For one token; then the function is cancelled, and the request refused.
        limit: Tokens that are judged at once; one more is refused.
    """

    def __init__(self, verifier: Verifier, *, seconds: float = 5.0, limit: int = 1000) -> None:
        self._verifier = verifier
        self._seconds = seconds
        self._limit = limit
        self._running = 0

    async def judge(self, token: str) -> str | Refusal:
        """The principal, or what to refuse the request with. Failures of the function are refusals, too."""
        if self._running >= self._limit:
            return _BUSY
        self._running += 1
        limit = asyncio.timeout(self._seconds)
        try:
            async with limit:
                principal = cast("object", await self._verifier(token))  # the user's: it may be anything
        except (Exception, SystemExit) as error:
            if isinstance(error, TimeoutError) and limit.expired():
                logger.error("the token verifier did not end within %.1fs", self._seconds)
            else:
                text = "".join(traceback.format_exception(error)).replace(token, "[token]")
                logger.error("the token verifier failed\n%s", text)
            return _FAILED
        finally:
            self._running -= 1
        if principal is None:
            return _INVALID
        if not isinstance(principal, str) or not 0 < len(principal) <= _MAX_PRINCIPAL:
            logger.error("the token verifier gave no principal: that is a str of 1 to %d characters", _MAX_PRINCIPAL)
            return _FAILED
        return principal


Judge: TypeAlias = Tokens | VerifierJudge


class Bearer:
    """Sets the principal of requests, or says what to refuse them with.

    Args:
        judge: Knows whose a token is.
    """

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    def check(self, exchange: Exchange) -> Refusal | Awaitable[Refusal | None] | None:
        """None if the request may pass, with its principal set; else the refusal; or either of them, to be awaited.

        A request that shows no token, or none that can be one, is refused without asking anybody.
        """
        token = _token(exchange)
        if not isinstance(token, str):
            return token
        if isinstance(self._judge, Tokens):
            return _settle(exchange, self._judge.principal(token) or _INVALID)
        return self._ask(self._judge, exchange, token)

    async def _ask(self, judge: VerifierJudge, exchange: Exchange, token: str) -> Refusal | None:
        return _settle(exchange, await judge.judge(token))

    @staticmethod
    def challenge(refusal: Refusal) -> Headers:
        """The header of a 401; a request that showed no token is told of no error (RFC 6750, 3.1)."""
        if refusal[0] != 401:
            return ()
        return ((b"www-authenticate", b"Bearer" if refusal is _MISSING else b'Bearer error="invalid_token"'),)


def make_bearer(auth: object, tokens: str | Sequence[str] | None, *, seconds: float, limit: int) -> Bearer | None:
    """What `auth=` and `auth_token=` mean; None where both are left out.

    Raises:
        DefinitionError: Both are given; the verifier is no async function; a token cannot be one.
    """
    if auth is not None and tokens:
        raise DefinitionError("give auth= or auth_token=, not both: one of them decides whose a token is")
    if auth is not None:
        called = getattr(auth, "__call__", None)  # noqa: B004 - of an object with an async __call__
        if not (inspect.iscoroutinefunction(auth) or inspect.iscoroutinefunction(called)):
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


def _settle(exchange: Exchange, verdict: str | Refusal) -> Refusal | None:
    if not isinstance(verdict, str):
        return verdict
    exchange.principal = verdict
    return None


def _digest(token: str) -> bytes:
    return hashlib.sha256(b"tailrace bearer token\0" + token.encode()).digest()
