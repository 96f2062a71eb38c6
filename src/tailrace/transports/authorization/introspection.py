"""Tokens that only their issuer can read: it is asked (RFC 7662), and its verdict is remembered for a short while."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote_plus

from tailrace.core.access import Access, InvalidToken
from tailrace.errors import DefinitionError, TransportError
from tailrace.fetch import Fetch, is_loopback_url
from tailrace.transports.authorization.jwts import access_of
from tailrace.transports.authorization.remembered import Remembered

__all__ = ["Introspection"]


class Introspection:
    """Asks an authorization server about each token.

    Args:
        endpoint: Its introspection endpoint.
        client_id: This server, as it is registered there.
        client_secret: Its secret.
        issuer: The authorization server, for clients, and for answers that say who gave a token.
        audience: What tokens have to be for; one of several. None: not looked at, for authorization servers that answer
            each resource server only about its own tokens.
        remember: Seconds for which a verdict is kept; a token that is withdrawn is accepted for so long.

    Raises:
        DefinitionError: An option cannot work.
    """

    def __init__(
        self,
        endpoint: str,
        client_id: str,
        client_secret: str,
        *,
        issuer: str,
        audience: str | Sequence[str] | None = None,
        remember: float = 10.0,
    ) -> None:
        if not (endpoint and client_id and issuer):
            raise DefinitionError("Introspection needs an endpoint, a client_id and an issuer")
        self.issuers = (issuer,)
        self._endpoint = endpoint
        pair = f"{quote_plus(client_id)}:{quote_plus(client_secret)}".encode()
        self._headers = {"authorization": "Basic " + base64.b64encode(pair).decode()}
        self._audiences = None if audience is None else {audience} if isinstance(audience, str) else set(audience)
        self._remembered = Remembered(remember)
        self._fetch: Fetch | None = None

    async def __call__(self, token: str) -> Access | None:
        """What the token allows; None for one that is not active.

        Raises:
            InvalidToken: It is for another server, or from another one.
            TransportError: The authorization server does not say.
        """
        known = self._remembered.find(token)
        if known is not None:
            return known
        if self._fetch is None:
            self._fetch = Fetch(loopback=is_loopback_url(self._endpoint), seconds=4.0)
        form = {"token": token, "token_type_hint": "access_token"}
        found = await self._fetch.post_form(self._endpoint, form, self._headers)
        if found.status != 200:
            raise TransportError(f"{self._endpoint} answered HTTP {found.status}")
        said = found.decode(dict[str, Any])
        if said.get("active") is not True:
            return None
        self._check(said)
        access = access_of({**said, "sub": said.get("sub") or said.get("username")})
        self._remembered.keep(token, access)
        return access

    async def aclose(self) -> None:
        """Close connections. Idempotent; a later token opens them anew."""
        fetch, self._fetch = self._fetch, None
        if fetch is not None:
            await fetch.aclose()

    def _check(self, said: dict[str, Any]) -> None:
        if said.get("iss", self.issuers[0]) != self.issuers[0]:
            raise InvalidToken("the token is from another issuer")
        expires = said.get("exp")
        if isinstance(expires, (int, float)) and expires <= time.time():
            raise InvalidToken("the token has expired")
        audience: Any = said.get("aud")
        given: list[Any] = audience if isinstance(audience, list) else [audience]  # pyright: ignore
        if self._audiences is not None and not any(one in self._audiences for one in given if isinstance(one, str)):
            raise InvalidToken("the token is for another server")
