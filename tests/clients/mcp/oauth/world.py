"""A guarded MCP server and its authorization server, on one port, that do as a test says; what was asked is kept."""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from tailrace.clients.mcp import Client, OAuth
from tests.clients.mcp.fake_http import DISCOVERED, Exchange, FakeServer, result, serving

REDIRECT = "http://localhost:3000/callback"


@dataclass
class World:
    """What the two servers do, and what they saw.

    Attributes:
        issuer: Path of the authorization server.
        needs: The scopes that a call needs; a token without them gets a 403.
        accepts: Tokens that the MCP server takes, with their scopes.
        metadata, resource, registered, token: Added to what is said; None removes.
    """

    issuer: str = "/as"
    needs: tuple[str, ...] = ()
    challenge: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    resource: dict[str, Any] = field(default_factory=dict)
    registered: dict[str, Any] = field(default_factory=dict)
    token: dict[str, Any] = field(default_factory=dict)
    answer: dict[str, Any] = field(default_factory=dict)  # of the authorization endpoint
    refuse: str | None = None  # of the token endpoint
    accepts: dict[str, set[str]] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, Any], dict[str, str]]] = field(default_factory=list)
    server: FakeServer | None = None
    _challenges: dict[str, str] = field(default_factory=dict)

    @property
    def base(self) -> str:
        assert self.server is not None
        return self.server.url

    def seen(self, name: str) -> list[dict[str, Any]]:
        return [params for what, params, _ in self.asked if what == name]

    def client(self, oauth: OAuth | None = None, **options: Any) -> Client:
        return Client(self.base + "/mcp", auth=oauth if oauth is not None else self.oauth(), era="modern", **options)

    def oauth(self, **options: Any) -> OAuth:
        return OAuth(redirect=self.browse, redirect_uri=REDIRECT, **options)

    async def browse(self, url: str) -> str:
        """The user's part: goes where they are sent, and says yes."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        self.asked.append(("authorize", asked, {}))
        code = f"code-{len(self.seen('authorize'))}"
        self._challenges[code] = asked["code_challenge"]
        self._scope = asked.get("scope")
        answer = {"code": code, "state": asked["state"], "iss": self.base + self.issuer, **self.answer}
        said = {name: value for name, value in answer.items() if value is not None}
        return f"{asked['redirect_uri']}?{urlencode(said)}"

    # --- the servers ---

    async def serve(self, x: Exchange) -> None:
        path = urlsplit(x.path).path
        if path == "/mcp":
            return await self._mcp(x)
        if path.startswith("/.well-known/oauth-protected-resource"):
            return await self._prm(x, path)
        if path == f"/.well-known/oauth-authorization-server{self.issuer}":
            self.asked.append(("metadata", {}, {}))
            return await x.reply(200, self._as_metadata())
        if path == f"{self.issuer}/register":
            self.asked.append(("register", x.message, {}))
            given = {"client_id": f"dynamic-{len(self.seen('register'))}", **self.registered}
            return await x.reply(201, given)
        if path == f"{self.issuer}/token":
            return await self._token(x)
        return await x.reply(404, b"")

    async def _prm(self, x: Exchange, path: str) -> None:
        self.asked.append(("prm", {"path": path}, {}))
        said = {"resource": self.base + "/mcp", "authorization_servers": [self.base + self.issuer], **self.resource}
        await x.reply(200, {name: value for name, value in said.items() if value is not None})

    def _as_metadata(self) -> dict[str, Any]:
        issuer = self.base + self.issuer
        said = {
            "issuer": issuer,
            "authorization_endpoint": issuer + "/authorize",
            "token_endpoint": issuer + "/token",
            "registration_endpoint": issuer + "/register",
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["none", "client_secret_basic"],
            **self.metadata,
        }
        return {name: value for name, value in said.items() if value is not None}

    async def _token(self, x: Exchange) -> None:
        form = {name: values[0] for name, values in parse_qs(x.body.decode()).items()}
        self.asked.append(("token", form, x.headers))
        if self.refuse is not None:
            return await x.reply(400, {"error": self.refuse, "error_description": "as the test says"})
        if form["grant_type"] == "authorization_code":
            digest = hashlib.sha256(form["code_verifier"].encode()).digest()
            assert self._challenges[form["code"]] == base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        granted = self._scope if form["grant_type"] != "client_credentials" else form.get("scope")
        token = f"token-{len(self.seen('token'))}"
        self.accepts[token] = set((granted or "").split())
        said = {"access_token": token, "token_type": "Bearer", **self.token}
        return await x.reply(200, {name: value for name, value in said.items() if value is not None})

    _scope: str | None = None

    async def _mcp(self, x: Exchange) -> None:
        scheme, _, token = x.headers.get("authorization", "").partition(" ")
        self.asked.append(("mcp", {"token": token, "method": x.message.get("method")}, x.headers))
        challenge = dict(self.challenge)
        if scheme != "Bearer" or token not in self.accepts:
            return await self._challenge(x, 401, challenge)
        if x.message["method"] == "tools/call" and not set(self.needs) <= self.accepts[token]:
            challenge |= {"error": "insufficient_scope", "scope": " ".join(self.needs)}
            return await self._challenge(x, 403, challenge)
        if x.message["method"] == "server/discover":
            return await x.result(DISCOVERED)
        return await x.reply(200, result(x.message["id"]))

    async def _challenge(self, x: Exchange, status: int, params: dict[str, str]) -> None:
        said = ", ".join(f'{name}="{value}"' for name, value in params.items())
        await x.reply(status, b"", www_authenticate=f"Bearer {said}".strip())


@contextlib.asynccontextmanager
async def world(**options: Any) -> AsyncIterator[World]:
    made = World(**options)
    async with serving(made.serve) as server:
        made.server = server
        yield made
