"""One client's right to use one server: had when it is asked for, refreshed before it ends, widened when too narrow.

The work is done once, in a task of the client's, however many requests wait for it; a request that is cancelled
meanwhile takes nothing from the others. Documents, grants and users are left to the other files of this folder.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qs, urlencode, urlsplit

import msgspec

from tailrace.clients.mcp.oauth.grants import Refused, request_token
from tailrace.clients.mcp.oauth.metadata import (
    Resource,
    ServerMetadata,
    canonical,
    find_resource,
    find_server,
    find_server_of_old,
)
from tailrace.clients.mcp.oauth.registration import choose_method, is_usable, register
from tailrace.clients.mcp.oauth.tokens import Registration, Token, load, save
from tailrace.errors import AuthorizationError, TransportError
from tailrace.fetch import Fetch, check_address, is_loopback_url

if TYPE_CHECKING:
    from tailrace.clients.mcp.links.http import HttpRefused
    from tailrace.clients.mcp.oauth.options import OAuth
    from tailrace.core.tasks import Tasks
    from tailrace.wire.challenge import Challenge

__all__ = ["Authorization", "Authorizer", "GivenToken"]

_LEEWAY = 10.0  # seconds before its end at which a token is refreshed
_CODE_CHALLENGE = "S256"


class Authorizer(Protocol):
    """What a client's HTTP requests show, and what is done when that is refused.

    Attributes:
        generation: Grows with each new token, so that a request knows whether another one is there by now.
    """

    generation: int

    async def token(self) -> str | None:
        """The bearer token to show, or None."""
        ...

    async def satisfy(self, refused: HttpRefused, generation: int, tried: set[str]) -> bool:
        """After a refusal: whether the same request may be made again, now with another token.

        Args:
            refused: Why.
            generation: Of the token that was shown.
            tried: What was done for this request already; what is done now is added.

        Raises:
            AuthorizationError: What has to be done fails.
        """
        ...

    async def aclose(self) -> None:
        """Let go of connections."""
        ...


class GivenToken:
    """A token that the program has, or an async function that gives one for each request; nobody is asked."""

    generation = 0

    def __init__(self, given: str | Callable[[], Awaitable[str]]) -> None:
        self._given = given

    async def token(self) -> str | None:
        """The token."""
        return self._given if isinstance(self._given, str) else await self._given()

    async def satisfy(self, refused: HttpRefused, generation: int, tried: set[str]) -> bool:
        """Nothing can be done."""
        return False

    async def aclose(self) -> None:
        """Nothing to let go of."""


class Authorization:
    """For one server. Only its own client uses it, on one loop.

    Args:
        options: What the program wants.
        url: The server's address.
        tasks: Where the work is done.
    """

    def __init__(self, options: OAuth, url: str, tasks: Tasks) -> None:
        self.generation = 0
        self._options = options
        self._url = url
        self._tasks = tasks
        self._fetch = Fetch(loopback=is_loopback_url(url))
        self._key = f"token {canonical(url)}"
        self._token: Token | None = None
        self._loaded = False
        self._server: ServerMetadata | None = None
        self._bound = options.issuer  # the one issuer that is shown the given client_id
        self._work: asyncio.Task[Exception | None] | None = None

    async def token(self) -> str | None:
        """The access token, refreshed where it is about to end; None where there is none."""
        if not self._loaded:
            await self._share(self._load)
        token = self._token
        if token is not None and token.expires_at is not None and token.expires_at - time.time() < _LEEWAY:
            with contextlib.suppress(TransportError):  # the server is the one to refuse the old one
                await self._share(self._refresh)
        return self._token.access_token if self._token is not None else None

    async def satisfy(self, refused: HttpRefused, generation: int, tried: set[str]) -> bool:
        """Refresh, authorize, or ask for more scopes, each once for a request."""
        if refused.status == 401:
            return await self._renew(refused.challenge, generation, tried)
        challenge = refused.challenge
        if refused.status != 403 or challenge is None or challenge.error != "insufficient_scope":
            return False
        if generation != self.generation:
            return True
        asked = self._token.scopes if self._token is not None else ()
        if set(challenge.scopes) <= set(asked) or f"scope {challenge.scopes}" in tried:
            return False  # these were asked for, and not given: asking again is a loop
        tried.add(f"scope {challenge.scopes}")
        await self._share(partial(self._authorize, challenge))
        return True

    async def aclose(self) -> None:
        """Close idle connections."""
        await self._fetch.aclose()

    # --- one at a time ---

    async def _share(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do it, or wait for what another request has begun."""
        task = self._work
        if task is None:
            task = self._work = self._tasks.start(self._outcome(work), name="tailrace-client-authorize")
        await asyncio.wait([task])
        if task.cancelled():
            raise AuthorizationError("the client was closed before it was authorized")
        error = task.result()
        if error is not None:
            raise error

    async def _outcome(self, work: Callable[[], Coroutine[Any, Any, None]]) -> Exception | None:
        """Do it; what goes wrong is for those who wait, if any still do."""
        try:
            await work()
        except Exception as error:
            return error
        finally:
            self._work = None
        return None

    async def _renew(self, challenge: Challenge | None, generation: int, tried: set[str]) -> bool:
        if generation != self.generation:
            return True  # another request has a new token already
        if self._token is not None and self._token.refresh_token is not None and "refresh" not in tried:
            tried.add("refresh")
            with contextlib.suppress(TransportError):
                await self._share(self._refresh)
            if generation != self.generation:
                return True
        if "authorize" in tried:
            return False
        tried.add("authorize")
        await self._share(partial(self._authorize, challenge))
        return True

    # --- the work ---

    async def _load(self) -> None:
        self._token = await load(self._options.tokens, self._key, Token)
        self._loaded = True

    async def _keep(self, token: Token) -> None:
        self._token = token
        self.generation += 1
        await save(self._options.tokens, self._key, token)

    async def _refresh(self) -> None:
        token = self._token
        if token is None or token.refresh_token is None:
            return
        server = await self._server_of(token.issuer)
        registration = await self._known(server, None)
        if registration is None:
            return
        form = {"grant_type": "refresh_token", "refresh_token": token.refresh_token}
        if token.resource is not None:
            form["resource"] = token.resource
        try:
            await self._keep(
                await request_token(
                    self._fetch,
                    server,
                    registration,
                    form,
                    scopes=token.scopes,
                    key=self._options.key,
                    refresh_token=token.refresh_token,
                )
            )
        except Refused as error:
            if error.error == "invalid_grant":  # it has ended: not asked for again
                self._token = msgspec.structs.replace(token, refresh_token=None)
                await save(self._options.tokens, self._key, self._token)
            raise

    async def _authorize(self, challenge: Challenge | None) -> None:
        resource, server = await self._discover(challenge)
        identifier = resource.resource if resource is not None else canonical(self._url)
        scopes = self._scopes(challenge, resource, server)
        grant = self._by_user if self._options.interactive else self._by_credentials
        await self._keep(await grant(server, identifier, scopes))

    async def _discover(self, challenge: Challenge | None) -> tuple[Resource | None, ServerMetadata]:
        named = challenge.resource_metadata if challenge is not None else None
        resource = await find_resource(self._fetch, self._url, named)
        if resource is None:
            server = await find_server_of_old(self._fetch, self._url)
        else:
            issuers = resource.authorization_servers
            server = await find_server(self._fetch, self._bound if self._bound in issuers else issuers[0])
        self._server = server
        return resource, server

    async def _server_of(self, issuer: str) -> ServerMetadata:
        if self._server is None or self._server.issuer != issuer:
            old = canonical(self._url).startswith(issuer.rstrip("/") + "/")
            try:
                self._server = await find_server(self._fetch, issuer)
            except AuthorizationError:
                if not old:
                    raise
                self._server = await find_server_of_old(self._fetch, self._url)
        return self._server

    def _scopes(
        self, challenge: Challenge | None, resource: Resource | None, server: ServerMetadata
    ) -> tuple[str, ...]:
        """What to ask for; empty: nothing is said of scopes (2026-07-28, authorization: scope selection)."""
        wanted: Iterable[str] = challenge.scopes if challenge is not None else ()
        if not wanted and resource is not None:
            wanted = resource.scopes_supported or ()
        had = self._token.scopes if self._token is not None and self._token.issuer == server.issuer else ()
        scopes = dict.fromkeys((*had, *self._options.scopes, *wanted))
        offered = server.scopes_supported or ()
        if scopes and self._options.offline and self._options.interactive and "offline_access" in offered:
            scopes["offline_access"] = None
        return tuple(scopes)

    # --- who this client is ---

    async def _known(self, server: ServerMetadata, redirect_uri: str | None) -> Registration | None:
        """Who this client is to the server without registering."""
        options = self._options
        if options.client_id is not None:
            if self._bound is None:
                self._bound = server.issuer
            if self._bound == server.issuer:
                secret = options.client_secret
                method = "none" if secret is None else choose_method(server)
                return Registration(options.client_id, secret, method)
        if options.client_metadata_url is not None and server.client_id_metadata_document_supported:
            return Registration(options.client_metadata_url)
        stored = await load(options.tokens, f"client {server.issuer}", Registration)
        return stored if stored is not None and is_usable(stored, redirect_uri) else None

    async def _identify(self, server: ServerMetadata, redirect_uri: str) -> Registration:
        known = await self._known(server, redirect_uri)
        if known is not None:
            return known
        made = await register(self._fetch, server, redirect_uri, self._options.client_name)
        await save(self._options.tokens, f"client {server.issuer}", made)
        return made

    # --- the grants ---

    async def _by_credentials(self, server: ServerMetadata, resource: str, scopes: tuple[str, ...]) -> Token:
        registration = await self._known(server, None)
        if registration is None or registration.client_id != self._options.client_id:
            raise AuthorizationError(f"the server trusts {server.issuer}, and client_id= belongs to {self._bound}")
        form = {"grant_type": "client_credentials", "resource": resource}
        if scopes:
            form["scope"] = " ".join(scopes)
        return await request_token(self._fetch, server, registration, form, scopes=scopes, key=self._options.key)

    async def _by_user(self, server: ServerMetadata, resource: str, scopes: tuple[str, ...]) -> Token:
        """The authorization code grant with PKCE (OAuth 2.1, 4.1)."""
        if _CODE_CHALLENGE not in (server.code_challenge_methods_supported or ()):
            raise AuthorizationError(f"{server.issuer} does not say that it supports PKCE with S256: not used")
        if server.authorization_endpoint is None:
            raise AuthorizationError(f"{server.issuer} names no authorization endpoint")
        check_address(server.authorization_endpoint, loopback=is_loopback_url(self._url))
        redirect = self._options.redirect
        before = await load(self._options.tokens, f"client {server.issuer}", Registration)
        redirect_uri = await redirect.open(before.redirect_uri if before is not None else None)
        try:
            registration = await self._identify(server, redirect_uri)
            verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(24)
            asked = {
                "response_type": "code",
                "client_id": registration.client_id,
                "redirect_uri": redirect_uri,
                "state": state,
                "code_challenge": _challenge_of(verifier),
                "code_challenge_method": _CODE_CHALLENGE,
                "resource": resource,
            }
            if scopes:
                asked["scope"] = " ".join(scopes)
            if "offline_access" in scopes:
                asked["prompt"] = "consent"  # OpenID Connect Core, 11
            try:
                async with asyncio.timeout(self._options.timeout):
                    address = await redirect.ask(_with_query(server.authorization_endpoint, asked), state)
            except TimeoutError:
                raise AuthorizationError(f"nobody authorized within {self._options.timeout:g} s") from None
        finally:
            await redirect.close()
        form = {
            "grant_type": "authorization_code",
            "code": _code_of(address, state, server),
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
            "resource": resource,
        }
        try:
            return await request_token(self._fetch, server, registration, form, scopes=scopes, key=self._options.key)
        except Refused as error:
            if error.error == "invalid_client" and registration.dynamic:  # forgotten there: registered anew next time
                await save(self._options.tokens, f"client {server.issuer}", None)
            raise


def _challenge_of(verifier: str) -> str:
    """RFC 7636, 4.2."""
    digest = hashlib.sha256(verifier.encode("ascii")).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def _with_query(url: str, params: dict[str, str]) -> str:
    parts = urlsplit(url)
    query = f"{parts.query}&{urlencode(params)}" if parts.query else urlencode(params)
    return parts._replace(query=query).geturl()


def _code_of(address: str, state: str, server: ServerMetadata) -> str:
    """The code in the address that the user was sent back to.

    Raises:
        AuthorizationError: It is from another server (RFC 9207), of another request, or a refusal.
    """
    said = parse_qs(urlsplit(address).query, keep_blank_values=True)
    issuers = said.get("iss", [])
    if issuers != [server.issuer] and (issuers or server.authorization_response_iss_parameter_supported):
        raise AuthorizationError(
            f"the answer is not from {server.issuer}: its iss is {str(issuers)[:200]}; not trusted"
        )
    if said.get("state") != [state]:
        raise AuthorizationError("the answer's state is not the one that was sent: it belongs to another request")
    if "error" in said:
        text = ", ".join((said["error"] + said.get("error_description", []))[:2])
        raise AuthorizationError(f"{server.issuer} did not authorize: {text[:300]}")
    if len(said.get("code", [])) != 1 or not said["code"][0]:
        raise AuthorizationError(f"{server.issuer} sent no code")
    return said["code"][0]
