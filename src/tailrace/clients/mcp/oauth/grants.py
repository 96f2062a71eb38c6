"""The token endpoint: what is exchanged for a token there (OAuth 2.1, 4), and how its client shows who it is."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec import Struct

from tailrace.clients.mcp.oauth.registration import refusal, secret_of
from tailrace.clients.mcp.oauth.tokens import Registration, Token
from tailrace.errors import AuthorizationError, DefinitionError

if TYPE_CHECKING:
    from tailrace.clients.mcp.oauth.metadata import ServerMetadata
    from tailrace.fetch import Fetch

__all__ = ["Refused", "TokenKey", "request_token"]

_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_ASSERTION_LIFE = 60  # seconds


class Refused(AuthorizationError):
    """The token endpoint refused.

    Args:
        error: Its code, e.g. ``invalid_grant``.
        message: What it said.
    """

    def __init__(self, error: str, message: str) -> None:
        super().__init__(message)
        self.error = error


class TokenKey(Struct, frozen=True):
    """A private key that a client authenticates with (RFC 7523).

    Attributes:
        pem: The key.
        algorithm: E.g. ``ES256``.
    """

    pem: str
    algorithm: str


class _Answer(Struct):
    access_token: str
    token_type: str = "Bearer"
    expires_in: float | None = None
    refresh_token: str | None = None
    scope: str | None = None


class _Error(Struct):
    error: str = ""


async def request_token(
    fetch: Fetch,
    server: ServerMetadata,
    registration: Registration,
    form: Mapping[str, str],
    *,
    scopes: tuple[str, ...],
    key: TokenKey | None = None,
    refresh_token: str | None = None,
) -> Token:
    """Exchange something for a token.

    Args:
        form: What, without the client's authentication.
        scopes: What was asked for.
        key: The client authenticates with it.
        refresh_token: Stays valid where the answer has none.

    Raises:
        Refused: The server refuses.
        AuthorizationError: It answers with what is no bearer token.
        TransportError: It cannot be reached.
    """
    if server.token_endpoint is None:
        raise AuthorizationError(f"{server.issuer} names no token endpoint")
    fields, headers = secret_of(registration)
    if key is not None:
        fields, headers = _assertion(server, registration, key), dict[str, str]()
    asked = time.time()
    found = await fetch.post_form(server.token_endpoint, {**form, **fields}, headers)
    if found.status != 200:
        said = refusal(found.status, found.body)
        try:
            error = found.decode(_Error).error
        except Exception:
            error = ""
        raise Refused(error, f"{server.issuer} gives no token: {said}")
    answer = found.decode(_Answer)
    if answer.token_type.lower() != "bearer" or not _can_be_sent(answer.access_token):
        raise AuthorizationError(f"{server.issuer} gave a token of type {answer.token_type[:40]!r}, not a bearer token")
    granted = tuple(answer.scope.split()) if answer.scope is not None else ()
    return Token(
        issuer=server.issuer,
        access_token=answer.access_token,
        refresh_token=answer.refresh_token or refresh_token,
        scopes=tuple(dict.fromkeys((*scopes, *granted))),
        expires_at=asked + answer.expires_in if answer.expires_in is not None else None,
        resource=form.get("resource"),
    )


def _can_be_sent(token: str) -> bool:
    return bool(token) and token.isascii() and token.isprintable() and " " not in token


def _assertion(server: ServerMetadata, registration: Registration, key: TokenKey) -> dict[str, str]:
    """A signed statement of who asks (RFC 7523, 3); each is used once."""
    try:
        import jwt
    except ImportError:
        raise DefinitionError("OAuth(private_key=) needs the extra: pip install 'tailrace[auth]'") from None
    now = int(time.time())
    id = registration.client_id
    claims = {"iss": id, "sub": id, "aud": server.issuer, "iat": now, "exp": now + _ASSERTION_LIFE}
    signed = jwt.encode({**claims, "jti": secrets.token_urlsafe(16)}, key.pem, algorithm=key.algorithm)
    return {"client_id": id, "client_assertion_type": _ASSERTION, "client_assertion": signed}
