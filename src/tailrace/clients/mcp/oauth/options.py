"""How a program wants its tokens to be had: `Client(url, auth=OAuth(...))`."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Literal, cast

from tailrace.clients.mcp.oauth.grants import TokenKey
from tailrace.clients.mcp.oauth.redirect import Ask, Function, Loopback, Redirect
from tailrace.clients.mcp.oauth.tokens import MemoryTokens, TokenStore
from tailrace.errors import DefinitionError

__all__ = ["OAuth"]


class OAuth:
    """Tokens of the authorization server that guards an MCP server, found, asked for, refreshed and kept by the client.

    Who the client is to the authorization server, in this order: `client_id`, if it was registered there beforehand;
    `client_metadata_url`, where the server reads such documents; else it registers by itself. One object may serve
    several clients one after the other, which then share what they are given.

    Args:
        client_id: The client as it was registered.
        client_secret: Its secret, if it has one.
        issuer: Where it was registered; it is shown to no other. None: to the first that the server names, only.
        client_metadata_url: The https address of the client's metadata document (CIMD), which is then its id.
        client_name: For the authorization server's page, where the client registers by itself.
        scopes: Asked for in any case, beside those that the server asks for.
        offline: Ask for a refresh token (``offline_access``) where the authorization server offers it.
        redirect: How the user gets to the authorization server and back: None: by a browser, which returns to a
            listener on 127.0.0.1; ``async (url) -> address``, with `redirect_uri`; or a `Redirect`.
        redirect_uri: Where a function's users return to.
        port: Of the listener; 0: any. Some authorization servers want the one that was registered.
        tokens: Where tokens and registrations are kept; None: in memory. `FileTokens` keeps them for the next run.
        timeout: Seconds that the user has.
        grant: ``client_credentials``: the program is known by its own secret or key, and no user is asked.
        private_key: The key, as PEM, that such a program authenticates with instead of a secret (`tailrace[auth]`).
        algorithm: What the key signs with.

    Raises:
        DefinitionError: The options do not fit together.
    """

    def __init__(
        self,
        *,
        client_id: str | None = None,
        client_secret: str | None = None,
        issuer: str | None = None,
        client_metadata_url: str | None = None,
        client_name: str = "Tailrace",
        scopes: str | Sequence[str] = (),
        offline: bool = True,
        redirect: Redirect | Ask | None = None,
        redirect_uri: str | None = None,
        port: int = 0,
        tokens: TokenStore | None = None,
        timeout: float = 300.0,
        grant: Literal["authorization_code", "client_credentials"] = "authorization_code",
        private_key: str | None = None,
        algorithm: str = "ES256",
    ) -> None:
        if client_id is None and (client_secret is not None or private_key is not None or issuer is not None):
            raise DefinitionError("client_secret=, private_key= and issuer= belong to a client_id=")
        if grant == "client_credentials" and not (client_id and (client_secret or private_key)):
            raise DefinitionError("client_credentials needs client_id= and client_secret= or private_key=")
        if client_metadata_url is not None and not client_metadata_url.startswith("https://"):
            raise DefinitionError("client_metadata_url is an https:// address")
        if not 0 < timeout < math.inf:
            raise DefinitionError("timeout is a number of seconds above 0")
        self.client_id = client_id
        self.client_secret = client_secret
        self.issuer = issuer
        self.client_metadata_url = client_metadata_url
        self.client_name = client_name
        self.scopes = tuple(scopes.split() if isinstance(scopes, str) else scopes)
        self.offline = offline
        self.tokens: TokenStore = tokens if tokens is not None else MemoryTokens()
        self.timeout = timeout
        self.interactive = grant == "authorization_code"
        self.key = TokenKey(private_key, algorithm) if private_key is not None else None
        self.redirect = _redirect(redirect, redirect_uri, port)


def _redirect(given: Redirect | Ask | None, uri: str | None, port: int) -> Redirect:
    if given is None:
        return Loopback(port)
    if inspect.isfunction(given) or inspect.ismethod(given):
        if uri is None:
            raise DefinitionError("redirect= with a function needs redirect_uri=, where its users return to")
        return Function(cast("Ask", given), uri)
    return cast("Redirect", given)
