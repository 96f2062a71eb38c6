"""The well-known addresses of authorization: of a resource (RFC 9728), and of its issuers (RFC 8414, OpenID)."""

from __future__ import annotations

from urllib.parse import urlsplit

__all__ = ["issuer_addresses", "origin_of", "resource_address", "resource_addresses"]

_RESOURCE = "/.well-known/oauth-protected-resource"
_PORTS = {"http": 80, "https": 443}


def origin_of(url: str) -> str:
    """Scheme, host and port as one string, so that two that are the same read the same.

    Raises:
        ValueError: It is no address.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = "" if parts.port in (None, _PORTS.get(parts.scheme)) else f":{parts.port}"
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}"


def resource_address(resource: str) -> str:
    """Where a resource's metadata is (RFC 9728, 3.1). Raises as `origin_of` does."""
    return origin_of(resource) + _RESOURCE + urlsplit(resource).path.rstrip("/")


def resource_addresses(url: str) -> list[str]:
    """Where to look for the metadata of the server at `url`, in order (2026-07-28, authorization). Raises likewise."""
    return list(dict.fromkeys((resource_address(url), origin_of(url) + _RESOURCE)))


def issuer_addresses(issuer: str) -> list[str]:
    """Where to look for an issuer's metadata, in order (2026-07-28, authorization). Raises likewise."""
    origin, path = origin_of(issuer), urlsplit(issuer).path.rstrip("/")
    places = (
        f"{origin}/.well-known/oauth-authorization-server{path}",
        f"{origin}/.well-known/openid-configuration{path}",
        f"{origin}{path}/.well-known/openid-configuration",
    )
    return list(dict.fromkeys(places))
