"""Who guards a server: its protected resource metadata (RFC 9728), and its authorization server's (RFC 8414, OpenID).

Both are what strangers say of themselves: a resource that is not the server asked for, and an issuer that is not the
one whose address the document was found at, end the matter (2026-07-28, authorization).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from msgspec import Struct

from tailrace.errors import AuthorizationError, TransportError
from tailrace.wire.wellknown import issuer_addresses, origin_of, resource_addresses

if TYPE_CHECKING:
    from tailrace.fetch import Fetch, Fetched

__all__ = [
    "Resource",
    "ServerMetadata",
    "canonical",
    "find_resource",
    "find_server",
    "find_server_of_old",
]

Document = TypeVar("Document")


class Resource(Struct, frozen=True):
    """What a server says of itself.

    Attributes:
        resource: Its identifier, sent to authorization servers exactly so.
        authorization_servers: Their issuers.
        scopes_supported: All scopes that a client may want; None: not said.
    """

    resource: str
    authorization_servers: list[str] = []
    scopes_supported: list[str] | None = None


class ServerMetadata(Struct, frozen=True):
    """What an authorization server says of itself; absent lists mean what RFC 8414 says they do."""

    issuer: str
    authorization_endpoint: str | None = None
    token_endpoint: str | None = None
    registration_endpoint: str | None = None
    scopes_supported: list[str] | None = None
    grant_types_supported: list[str] | None = None
    code_challenge_methods_supported: list[str] | None = None
    token_endpoint_auth_methods_supported: list[str] | None = None
    client_id_metadata_document_supported: bool = False
    authorization_response_iss_parameter_supported: bool = False


async def find_resource(fetch: Fetch, url: str, named: str | None) -> Resource | None:
    """The metadata of the server at `url`: from where its challenge says, else from the two well-known places.

    Returns:
        None where it has none, as servers of 2025-03-26.

    Raises:
        AuthorizationError: It is another server's, or names no authorization server.
        TransportError: It cannot be had.
    """
    for place in [named] if named is not None else resource_addresses(url):
        found = await fetch.get(place)
        if _absent(found) and named is None:
            continue
        resource = _document(found, Resource)
        if not _covers(resource.resource, url):
            raise AuthorizationError(f"{place} is about {resource.resource[:200]}, not about {url}: not trusted")
        if not resource.authorization_servers:
            raise AuthorizationError(f"{place} names no authorization server")
        return resource
    return None


async def find_server(fetch: Fetch, issuer: str) -> ServerMetadata:
    """The metadata of an authorization server, from the well-known places of its issuer.

    Raises:
        AuthorizationError: It is another issuer's, or there is none.
        TransportError: It cannot be had.
    """
    for place in _addresses(issuer):
        found = await fetch.get(place)
        if _absent(found):
            continue
        metadata = _document(found, ServerMetadata)
        if metadata.issuer != issuer:  # RFC 8414, 3.3: identical, and nothing of it is to be used otherwise
            raise AuthorizationError(f"{place} is about {metadata.issuer[:200]!r}, not {issuer!r}: not trusted")
        return metadata
    raise AuthorizationError(f"the authorization server {issuer} has no metadata")


async def find_server_of_old(fetch: Fetch, url: str) -> ServerMetadata:
    """What a server of 2025-03-26 is guarded by: itself, with metadata at its root, or with the usual endpoints.

    Raises:
        AuthorizationError: The metadata is another issuer's.
        TransportError: It cannot be had.
    """
    origin = _origin(url)
    found = await fetch.get(f"{origin}/.well-known/oauth-authorization-server")
    if not _absent(found):
        metadata = _document(found, ServerMetadata)
        if metadata.issuer.rstrip("/") != origin:
            raise AuthorizationError(f"{found.url} is about {metadata.issuer[:200]!r}, not {origin!r}: not trusted")
        return metadata
    return ServerMetadata(
        issuer=origin,
        authorization_endpoint=f"{origin}/authorize",
        token_endpoint=f"{origin}/token",
        registration_endpoint=f"{origin}/register",
        code_challenge_methods_supported=["S256"],  # 2025-03-26 demands PKCE of every client
        token_endpoint_auth_methods_supported=["none", "client_secret_basic", "client_secret_post"],
    )


def canonical(url: str) -> str:
    """The identifier of a server that says none itself: without query, fragment and a last slash (RFC 8707, 2)."""
    return _origin(url) + urlsplit(url).path.rstrip("/")


# --- inside -------------------------------------------------------------------------------------


def _covers(resource: str, url: str) -> bool:
    """Whether the identifier is the server's address, or a path above it."""
    if urlsplit(resource).fragment or _origin(resource) != _origin(url):
        return False
    above, path = urlsplit(resource).path.rstrip("/"), urlsplit(url).path.rstrip("/")
    return path == above or path.startswith(above + "/")


def _origin(url: str) -> str:
    try:
        return origin_of(url)
    except ValueError:
        raise AuthorizationError(f"{url[:200]!r} is no address") from None


def _addresses(issuer: str) -> list[str]:
    _origin(issuer)
    return issuer_addresses(issuer)


def _absent(found: Fetched) -> bool:
    """Whether nothing is there; a server that fails is another matter: the next place would be the wrong one."""
    return 400 <= found.status < 500


def _document(found: Fetched, kind: type[Document]) -> Document:
    if found.status != 200:
        raise AuthorizationError(f"{found.url} answered HTTP {found.status}")
    try:
        return found.decode(kind)
    except TransportError as error:
        raise AuthorizationError(str(error)) from error
