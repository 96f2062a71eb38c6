"""An authorization server for tests: it has keys, signs tokens, publishes and introspects."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from tests.clients.mcp.fake_http import Exchange, FakeServer, serving

AUDIENCE = "https://orders.example/mcp"


class Key:
    """A signing key with an id."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.private = ec.generate_private_key(ec.SECP256R1())

    def public(self) -> dict[str, Any]:
        made = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self.private.public_key()))
        return {**made, "kid": self.id, "use": "sig", "alg": "ES256"}


class Issuer:
    """What it publishes, and what it was asked for."""

    def __init__(self) -> None:
        self.keys = [Key("k1")]
        self.status = 200
        self.metadata: dict[str, Any] = {}
        self.active: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.server: FakeServer | None = None

    @property
    def url(self) -> str:
        assert self.server is not None
        return self.server.url

    def token(self, *, key: Key | None = None, head: Any = None, **claims: Any) -> str:
        """A token that is valid but for what is said otherwise; None leaves a claim out."""
        key = key or self.keys[0]
        now = int(time.time())
        whole = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "ann",
            "iat": now,
            "exp": now + 300,
            "scope": "read",
            **claims,
        }
        said = {name: value for name, value in whole.items() if value is not None}
        headers = {"kid": key.id, "typ": "at+jwt", **(head or {})}
        return jwt.encode(said, key.private, algorithm="ES256", headers={k: v for k, v in headers.items() if v})

    async def serve(self, x: Exchange) -> None:
        self.asked.append(x.path)
        self.headers.append(x.headers)
        if x.path == "/.well-known/oauth-authorization-server":
            said = {"issuer": self.url, "jwks_uri": self.url + "/jwks", **self.metadata}
            await x.reply(200, said)
        elif x.path == "/jwks":
            await x.reply(self.status, {"keys": [key.public() for key in self.keys]})
        elif x.path == "/introspect":
            token = parse_qs(x.body.decode())["token"][0]
            await x.reply(self.status, self.active.get(token, {"active": False}))
        else:
            await x.reply(404, b"")


@contextlib.asynccontextmanager
async def issuer() -> AsyncIterator[Issuer]:
    made = Issuer()
    async with serving(made.serve) as server:
        made.server = server
        yield made
