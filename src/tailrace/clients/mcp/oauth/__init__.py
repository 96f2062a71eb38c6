"""Authorization of MCP clients (2026-07-28, authorization): OAuth 2.1 with discovery, PKCE and step-up."""

from tailrace.clients.mcp.oauth.authorization import Authorization, Authorizer, GivenToken
from tailrace.clients.mcp.oauth.options import OAuth
from tailrace.clients.mcp.oauth.redirect import Loopback, Redirect
from tailrace.clients.mcp.oauth.tokens import FileTokens, MemoryTokens, TokenStore

__all__ = [
    "Authorization",
    "Authorizer",
    "FileTokens",
    "GivenToken",
    "Loopback",
    "MemoryTokens",
    "OAuth",
    "Redirect",
    "TokenStore",
]
