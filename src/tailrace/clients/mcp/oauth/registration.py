"""Who this client is to an authorization server: known beforehand, by the address of its metadata, or by registering.

In this order (2026-07-28, authorization: client registration). Whatever it is stays with the issuer it was made for.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus, urlsplit

import msgspec
from msgspec import Struct

from tailrace.clients.mcp.oauth.tokens import Registration
from tailrace.errors import AuthorizationError
from tailrace.fetch import is_loopback_url

if TYPE_CHECKING:
    from tailrace.clients.mcp.oauth.metadata import ServerMetadata
    from tailrace.fetch import Fetch

__all__ = ["choose_method", "is_usable", "register", "secret_of"]

_BY_DEFAULT = ("client_secret_basic",)  # RFC 8414, 2: where the server does not say
_METHODS = ("client_secret_basic", "client_secret_post")


class _Registered(Struct):
    client_id: str
    client_secret: str | None = None
    client_secret_expires_at: float = 0
    token_endpoint_auth_method: str | None = None


class _Refused(Struct):
    error: str = "an error"
    error_description: str | None = None


async def register(fetch: Fetch, server: ServerMetadata, redirect_uri: str, client_name: str) -> Registration:
    """Register dynamically (RFC 7591). No scope is named: the registered one would be the most that is ever given, and
    what a server asks for may grow.

    Raises:
        AuthorizationError: The server does not offer it, or refuses.
        TransportError: It cannot be reached.
    """
    if server.registration_endpoint is None:
        raise AuthorizationError(
            f"{server.issuer} registers no clients by itself: register this one there, and give OAuth(client_id=)"
        )
    offered = server.token_endpoint_auth_methods_supported or _BY_DEFAULT
    method = "none" if "none" in offered else choose_method(server)
    body: dict[str, Any] = {
        "client_name": client_name,
        "redirect_uris": [redirect_uri],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": method,
        "application_type": "native" if is_native(redirect_uri) else "web",
    }
    found = await fetch.post_json(server.registration_endpoint, body)
    if found.status not in (200, 201):
        raise AuthorizationError(f"{server.issuer} does not register this client: {refusal(found.status, found.body)}")
    given = found.decode(_Registered)
    method = "none" if given.client_secret is None else given.token_endpoint_auth_method or method
    if method not in (*_METHODS, "none"):
        raise AuthorizationError(f"{server.issuer} wants this client to authenticate by {method[:100]!r}")
    return Registration(
        client_id=given.client_id,
        client_secret=given.client_secret,
        method=method,
        redirect_uri=redirect_uri,
        expires_at=given.client_secret_expires_at,
        dynamic=True,
    )


def choose_method(server: ServerMetadata) -> str:
    """How a client with a secret authenticates at the token endpoint.

    Raises:
        AuthorizationError: In no way that is known here.
    """
    offered = server.token_endpoint_auth_methods_supported or _BY_DEFAULT
    for method in _METHODS:
        if method in offered:
            return method
    raise AuthorizationError(f"{server.issuer} authenticates clients by none of {', '.join(_METHODS)}")


def is_usable(registration: Registration, redirect_uri: str | None) -> bool:
    """Whether it can be used once more: its secret lives, and the user can be sent back to where it was registered."""
    alive = not registration.expires_at or registration.expires_at > time.time()
    return alive and (redirect_uri is None or registration.redirect_uri in (None, redirect_uri))


def secret_of(registration: Registration) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """What a request to the token endpoint carries: form fields, and headers."""
    id, secret = registration.client_id, registration.client_secret
    if secret is None or registration.method == "none":
        return {"client_id": id}, {}
    if registration.method == "client_secret_post":
        return {"client_id": id, "client_secret": secret}, {}
    pair = f"{quote_plus(id)}:{quote_plus(secret)}".encode()  # RFC 6749, 2.3.1
    return {}, {"authorization": "Basic " + base64.b64encode(pair).decode()}


def refusal(status: int, body: bytes) -> str:
    """What an authorization server said, in few words."""
    try:
        said = msgspec.json.decode(body, type=_Refused)
    except (msgspec.MsgspecError, RecursionError):
        return f"HTTP {status}"
    return f"{said.error}, {said.error_description}"[:300] if said.error_description else said.error[:100]


def is_native(redirect_uri: str) -> bool:
    """Whether the user returns to a program of this machine, by a loopback address or a scheme of its own."""
    return urlsplit(redirect_uri).scheme not in ("http", "https") or is_loopback_url(redirect_uri)
