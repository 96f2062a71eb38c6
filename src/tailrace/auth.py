"""The public door to authorization: who may ask a server, and how a client gets the right to.

``from tailrace.auth import JwtVerifier, ResourceServer`` for servers, ``OAuth`` and `FileTokens` for clients.
"""

from __future__ import annotations

from tailrace.clients.mcp.oauth import FileTokens, Loopback, MemoryTokens, OAuth, Redirect, TokenStore
from tailrace.core.access import Access, InvalidToken
from tailrace.transports.authorization import Introspection, JwtVerifier, ResourceServer

__all__ = [
    "Access",
    "FileTokens",
    "Introspection",
    "InvalidToken",
    "JwtVerifier",
    "Loopback",
    "MemoryTokens",
    "OAuth",
    "Redirect",
    "ResourceServer",
    "TokenStore",
]
