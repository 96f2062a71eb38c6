"""What a guarded server says of itself, and of a token that is missing, wrong or too narrow."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tailrace.core.access import Access, InvalidToken
from tailrace.errors import DefinitionError
from tailrace.transports.authorization import JwtVerifier, ResourceServer
from tailrace.transports.bearer import Bearer, Refusal, make_bearer
from tests.rigs.exchange import FakeExchange

ISSUER = "https://as.example"
METADATA = "https://orders.example/.well-known/oauth-protected-resource/mcp"


async def known(token: str) -> Access | str | None:
    if token == "expired":
        raise InvalidToken("the token has expired")
    return {"ann": Access("ann", frozenset({"read"})), "op": "operator", "weak": Access("weak", frozenset())}.get(token)


def guarded(**options: Any) -> ResourceServer:
    return ResourceServer(known, **({"issuers": [ISSUER], "resource": "https://orders.example/mcp"} | options))


def asking(token: str | None = None, path: str = "/mcp", host: str = "127.0.0.1:8000") -> FakeExchange:
    headers = [("host", host)] + ([("authorization", f"Bearer {token}")] if token is not None else [])
    return FakeExchange("POST", path, None, headers)


async def refused(auth: Any, exchange: FakeExchange) -> tuple[int, str]:
    bearer = make_bearer(auth, None, seconds=5, limit=5)
    assert isinstance(bearer, Bearer)
    verdict = bearer.check(exchange)
    verdict = verdict if verdict is None or isinstance(verdict, Refusal) else await verdict
    if verdict is None:
        return 200, ""
    return verdict.status, dict(bearer.challenge(exchange, verdict))[b"www-authenticate"].decode()


@pytest.mark.parametrize(
    ("token", "status", "header"),
    [
        (None, 401, f'Bearer scope="read", resource_metadata="{METADATA}"'),
        (
            "unknown",
            401,
            'Bearer error="invalid_token", error_description="the bearer token is not valid", scope="read", '
            f'resource_metadata="{METADATA}"',
        ),
        (
            "expired",
            401,
            'Bearer error="invalid_token", error_description="the token has expired", scope="read", '
            f'resource_metadata="{METADATA}"',
        ),
        (
            "weak",
            403,
            'Bearer error="insufficient_scope", error_description="the token is not good for this server", '
            f'scope="read", resource_metadata="{METADATA}"',
        ),
        ("ann", 200, ""),
        ("op", 200, ""),
    ],
)
async def test_a_refusal_says_what_is_needed_and_where_it_is_had(token: str | None, status: int, header: str) -> None:
    assert await refused(guarded(scopes="read"), asking(token)) == (status, header)


async def test_a_request_that_passes_knows_what_its_token_allows() -> None:
    exchange = asking("ann")
    assert await refused(guarded(), exchange) == (200, "")
    assert (exchange.principal, exchange.access) == ("ann", Access("ann", frozenset({"read"})))
    assert exchange.challenge is not None
    assert exchange.challenge(exchange, ["write"]).startswith(b'Bearer error="insufficient_scope", scope="write"')


def test_the_metadata_names_server_issuers_and_scopes() -> None:
    said = json.loads(guarded(scopes=["read"], name="Orders", documentation="https://d.example").metadata(asking()))
    assert said == {
        "resource": "https://orders.example/mcp",
        "authorization_servers": [ISSUER],
        "scopes_supported": ["read"],
        "bearer_methods_supported": ["header"],
        "resource_name": "Orders",
        "resource_documentation": "https://d.example",
    }
    assert "scopes_supported" not in json.loads(guarded().metadata(asking()))
    assert json.loads(guarded(scopes_supported=["a"]).metadata(asking()))["scopes_supported"] == ["a"]


@pytest.mark.parametrize(
    ("path", "host", "resource"),
    [
        ("/mcp", "127.0.0.1:8000", "http://127.0.0.1:8000/mcp"),
        ("/.well-known/oauth-protected-resource/mcp", "orders.example", "https://orders.example/mcp"),
        ("/.well-known/oauth-protected-resource", "orders.example", "https://orders.example/mcp"),
        ("/.well-known/oauth-protected-resource/sse", "localhost", "http://localhost/sse"),
        ("/messages/", "localhost", "http://localhost/sse"),
    ],
)
def test_a_server_that_was_not_told_its_address_is_where_it_is_asked(path: str, host: str, resource: str) -> None:
    made = guarded(resource=None)
    assert json.loads(made.metadata(asking(path=path, host=host)))["resource"] == resource


def test_the_metadata_is_below_the_paths_that_are_served() -> None:
    made = guarded()
    assert made.serves("/.well-known/oauth-protected-resource")
    assert made.serves("/.well-known/oauth-protected-resource/mcp")
    assert not made.serves("/.well-known/oauth-protected-resource/other")
    assert not made.serves("/mcp")


def test_a_verifier_that_knows_its_issuer_is_enough() -> None:
    bearer = make_bearer(JwtVerifier(ISSUER, "https://orders.example/mcp"), None, seconds=5, limit=5)
    assert bearer is not None
    assert bearer.resource is not None
    assert bearer.resource.issuers == (ISSUER,)


@pytest.mark.parametrize(
    "options",
    [
        {"issuers": None},
        {"resource": "orders"},
        {"resource": "http://orders.example/mcp"},
        {"resource": "https://orders.example/mcp#x"},
    ],
)
def test_options_that_cannot_work_are_refused(options: Any) -> None:
    with pytest.raises(DefinitionError):
        guarded(**options)
    with pytest.raises(DefinitionError):
        ResourceServer(lambda token: None, issuers=[ISSUER])  # type: ignore[arg-type]
