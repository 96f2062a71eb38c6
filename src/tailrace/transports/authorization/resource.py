"""What a guarded server tells whoever has no token, or too narrow a one: its metadata, and where that is (RFC 9728)."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from tailrace.errors import DefinitionError
from tailrace.fetch import check_address, is_loopback_url
from tailrace.wire.challenge import write_challenge
from tailrace.wire.wellknown import resource_address

if TYPE_CHECKING:
    from tailrace.core.access import Access
    from tailrace.core.exchange import Exchange

__all__ = ["ResourceServer", "Verifier"]

Verifier: TypeAlias = Callable[[str], Awaitable["Access | str | None"]]

_PATH = "/.well-known/oauth-protected-resource"
_PLACES = frozenset({_PATH, *(f"{_PATH}{path}" for path in ("/mcp", "/mcp/", "/sse", "/sse/"))})


class ResourceServer:
    """A server whose tokens come from an authorization server: ``svc.run("http", auth=ResourceServer(...))``.

    Args:
        verifier: Judges tokens: a `JwtVerifier`, an `Introspection`, or ``async (token) -> Access | principal | None``.
        issuers: The authorization servers that give them; None: the verifier's.
        resource: This server's address as clients know it, e.g. ``https://orders.example/mcp``, which is what tokens
            are asked for; None: made of each request's Host, with http on loopback and https elsewhere.
        scopes: What every request needs.
        scopes_supported: All scopes that a client may want, for the metadata; None: `scopes`.
        name: For people.
        documentation: The address of a page for them.

    Raises:
        DefinitionError: An option cannot work.
    """

    def __init__(
        self,
        verifier: Verifier,
        *,
        issuers: Sequence[str] | None = None,
        resource: str | None = None,
        scopes: str | Sequence[str] = (),
        scopes_supported: Sequence[str] | None = None,
        name: str | None = None,
        documentation: str | None = None,
    ) -> None:
        known: Sequence[str] = getattr(verifier, "issuers", ())
        self.issuers = tuple(issuers if issuers is not None else known)
        if not self.issuers:
            raise DefinitionError("ResourceServer needs issuers=: the authorization servers that give its tokens")
        if not is_async(verifier):
            raise DefinitionError("the verifier is an async function: (token: str) -> Access | str | None")
        if resource is not None:
            _check_resource(resource)
        self.verifier = verifier
        self.scopes = tuple(scopes.split() if isinstance(scopes, str) else scopes)
        self._resource = resource
        said = {
            "authorization_servers": list(self.issuers),
            "scopes_supported": list(scopes_supported if scopes_supported is not None else self.scopes) or None,
            "bearer_methods_supported": ["header"],
            "resource_name": name,
            "resource_documentation": documentation,
        }
        self._said = {name: value for name, value in said.items() if value is not None}

    def serves(self, path: str) -> bool:
        """Whether the metadata is at this path; it is open to everybody."""
        return path in _PLACES

    def metadata(self, exchange: Exchange) -> bytes:
        """The metadata, as JSON."""
        return msgspec.json.encode({"resource": self._identifier(exchange), **self._said})

    def challenge(
        self, exchange: Exchange, error: str | None, text: str | None = None, scopes: Sequence[str] = ()
    ) -> bytes:
        """The header `WWW-Authenticate` of a refusal.

        Args:
            error: None where no token was shown (RFC 6750, 3.1).
            text: Why, for people.
            scopes: What the request needs; beside what every request does.
        """
        needed = " ".join(dict.fromkeys((*self.scopes, *scopes))) or None
        return write_challenge(
            {
                "error": error,
                "error_description": text,
                "scope": needed,
                "resource_metadata": resource_address(self._identifier(exchange)),
            }
        )

    def _identifier(self, exchange: Exchange) -> str:
        if self._resource is not None:
            return self._resource
        path = exchange.path.rstrip("/")
        path = path.removeprefix(_PATH) if path.startswith(_PATH) else path
        host = exchange.header(b"host") or ""
        scheme = "http" if is_loopback_url(f"http://{host}") else "https"
        return f"{scheme}://{host}{exchange.prefix}{'/sse' if path in ('/sse', '/messages') else '/mcp'}"


def is_async(verifier: object) -> bool:
    """Whether it can be awaited for a verdict."""
    called = getattr(verifier, "__call__", None)  # noqa: B004 - of an object with an async __call__
    return inspect.iscoroutinefunction(verifier) or inspect.iscoroutinefunction(called)


def _check_resource(resource: str) -> None:
    try:
        check_address(resource, loopback=True)
        resource_address(resource)
    except Exception as error:
        raise DefinitionError(f"resource={resource!r} is no address of a server: {error}") from None
    if "#" in resource:
        raise DefinitionError("resource= has no fragment (RFC 8707, 2)")
