"""How a client gets a token, and whom it does not trust on the way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tailrace.clients.mcp import Client, OAuth
from tailrace.clients.mcp.oauth import MemoryTokens
from tailrace.errors import AuthorizationError, DefinitionError, TransportError

from .world import REDIRECT, World, world


async def call(made: World, oauth: OAuth | None = None, **options: Any) -> Any:
    async with made.client(oauth, **options) as c:
        return (await c.call_tool("any")).data


async def test_the_whole_way_to_a_token() -> None:
    async with world() as made:
        assert await call(made) == 1
        (registered,), (asked,), (form,) = made.seen("register"), made.seen("authorize"), made.seen("token")
        assert registered["redirect_uris"] == [REDIRECT]
        assert (registered["application_type"], registered["token_endpoint_auth_method"]) == ("native", "none")
        assert set(registered["grant_types"]) == {"authorization_code", "refresh_token"}
        assert (asked["client_id"], asked["code_challenge_method"]) == ("dynamic-1", "S256")
        assert asked["resource"] == form["resource"] == made.base + "/mcp"
        assert "scope" not in asked
        assert (form["client_id"], form["redirect_uri"]) == ("dynamic-1", REDIRECT)
        assert [seen["token"] for seen in made.seen("mcp")] == ["", "token-1", "token-1"]
        assert made.seen("prm")[0]["path"] == "/.well-known/oauth-protected-resource/mcp"


async def test_requests_that_are_made_meanwhile_wait_for_the_one_authorization() -> None:
    async with world() as made:
        async with made.client() as c:
            made.accepts.clear()
            assert [r.data for r in await asyncio.gather(*(c.call_tool("any") for _ in range(8)))] == [1] * 8
        assert len(made.seen("authorize")) == 2


async def test_how_long_the_user_takes_is_no_part_of_a_time_limit() -> None:
    async with world() as made:

        async def slow(url: str) -> str:
            await asyncio.sleep(3.1)
            return await made.browse(url)

        oauth = OAuth(redirect=slow, redirect_uri=REDIRECT)
        assert await call(made, oauth, connect_timeout=3.0) == 1


async def test_a_user_who_never_comes_back_is_not_waited_for() -> None:
    async with world() as made:

        async def never(url: str) -> str:
            await asyncio.Event().wait()
            return ""

        oauth = OAuth(redirect=never, redirect_uri=REDIRECT, timeout=0.1)
        with pytest.raises(AuthorizationError, match="nobody authorized within"):
            await call(made, oauth)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"resource": {"resource": "https://evil.example/mcp"}}, "not trusted"),
        ({"resource": {"authorization_servers": []}}, "names no authorization server"),
        ({"resource": {"authorization_servers": ["http://evil.example"]}}, "https://"),
        ({"metadata": {"issuer": "https://evil.example"}}, "not trusted"),
        ({"metadata": {"code_challenge_methods_supported": None}}, "PKCE"),
        ({"metadata": {"code_challenge_methods_supported": ["plain"]}}, "PKCE"),
        ({"metadata": {"authorization_endpoint": "javascript:alert(1)"}}, "https://"),
        ({"metadata": {"authorization_endpoint": None}}, "no authorization endpoint"),
        ({"metadata": {"token_endpoint": "http://evil.example/token"}}, "https://"),
        ({"metadata": {"registration_endpoint": None}}, "client_id="),
        ({"metadata": {"authorization_response_iss_parameter_supported": True}, "answer": {"iss": None}}, "not from"),
        ({"answer": {"iss": "https://evil.example"}}, "not from"),
        ({"answer": {"state": "another"}}, "state"),
        ({"answer": {"error": "access_denied", "code": None}}, "access_denied"),
        ({"answer": {"code": None}}, "no code"),
        ({"refuse": "invalid_grant"}, "invalid_grant, as the test says"),
        ({"token": {"token_type": "DPoP"}}, "not a bearer token"),
        ({"token": {"access_token": "a b"}}, "not a bearer token"),
    ],
    ids=str,
)
async def test_what_cannot_be_trusted_ends_the_authorization(options: dict[str, Any], text: str) -> None:
    async with world(**options) as made:
        with pytest.raises(TransportError, match=text):
            await call(made)
        trusted = "refuse" in options or "token" in options
        assert trusted or made.seen("token") == []
        assert [seen["token"] for seen in made.seen("mcp")] == [""]


async def test_an_issuer_that_differs_by_a_slash_is_another() -> None:
    async with world() as made:
        made.answer = {"iss": made.base + made.issuer + "/"}
        with pytest.raises(AuthorizationError, match="not from"):
            await call(made)


# --- scopes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "oauth", "scope"),
    [
        ({"challenge": {"scope": "a b"}, "resource": {"scopes_supported": ["c"]}}, {}, "a b"),
        ({"resource": {"scopes_supported": ["c", "d"]}}, {}, "c d"),
        ({"resource": {"scopes_supported": ["c"]}}, {"scopes": "own c"}, "own c"),
        ({"challenge": {"scope": "a"}, "metadata": {"scopes_supported": ["offline_access"]}}, {}, "a offline_access"),
        ({"challenge": {"scope": "a"}, "metadata": {"scopes_supported": ["offline_access"]}}, {"offline": False}, "a"),
        ({"metadata": {"scopes_supported": ["offline_access"]}}, {}, None),
    ],
)
async def test_the_scopes_that_are_asked_for(options: Any, oauth: Any, scope: str | None) -> None:
    async with world(**options) as made:
        await call(made, made.oauth(**oauth))
        assert made.seen("authorize")[0].get("scope") == scope


async def test_a_call_that_needs_more_gets_the_union_once() -> None:
    async with world(challenge={"scope": "read"}, needs=("write",)) as made:
        assert await call(made) == 1
        assert [asked["scope"] for asked in made.seen("authorize")] == ["read", "read write"]


async def test_a_scope_that_was_asked_for_and_not_given_is_not_asked_for_again() -> None:
    async with world(challenge={"scope": "write"}, needs=("write",), token={"access_token": "fixed"}) as made:
        made.accepts["fixed"] = set()
        async with made.client() as c:
            made.accepts["fixed"] = set()
            with pytest.raises(TransportError, match="403"):
                await c.call_tool("any")
        assert len(made.seen("authorize")) == 1


async def test_a_server_that_refuses_every_token_is_not_asked_for_ever() -> None:
    async with world(token={"access_token": "refused"}) as made:
        original = made.serve

        async def forgetting(x: Any) -> None:
            made.accepts.clear()
            await original(x)

        assert made.server is not None
        made.server.script = forgetting
        with pytest.raises(TransportError, match="401"):
            await call(made)
        assert len(made.seen("authorize")) == 1


# --- who the client is --------------------------------------------------------------------------------


async def test_known_beforehand_goes_before_all_else() -> None:
    metadata = {"client_id_metadata_document_supported": True, "token_endpoint_auth_methods_supported": None}
    async with world(metadata=metadata) as made:
        await call(made, made.oauth(client_id="me:1", client_secret="a&b", client_metadata_url="https://a.example/c"))
        assert made.seen("register") == []
        assert made.seen("authorize")[0]["client_id"] == "me:1"
        (headers,) = (headers for what, _, headers in made.asked if what == "token")
        assert headers["authorization"] == "Basic bWUlM0ExOmElMjZi"  # me%3A1:a%26b


@pytest.mark.parametrize(("supported", "id"), [(True, "https://a.example/c"), (False, "dynamic-1")])
async def test_an_address_is_the_id_where_the_server_reads_it(supported: bool, id: str) -> None:
    async with world(metadata={"client_id_metadata_document_supported": supported}) as made:
        await call(made, made.oauth(client_metadata_url="https://a.example/c"))
        assert made.seen("authorize")[0]["client_id"] == id


async def test_a_secret_goes_into_the_form_where_the_server_wants_it_there() -> None:
    async with world(metadata={"token_endpoint_auth_methods_supported": ["client_secret_post"]}) as made:
        await call(made, made.oauth(client_id="me", client_secret="s"))
        (form,) = made.seen("token")
        assert (form["client_id"], form["client_secret"]) == ("me", "s")


async def test_credentials_are_shown_to_their_own_issuer_only() -> None:
    async with world() as made:
        oauth = made.oauth(client_id="me", client_secret="s", issuer="https://elsewhere.example")
        await call(made, oauth)
        assert made.seen("authorize")[0]["client_id"] == "dynamic-1"
        assert "s" not in made.seen("token")[0].values()


async def test_a_server_that_moves_to_another_issuer_is_registered_with_anew() -> None:
    async with world() as made:
        tokens = MemoryTokens()
        async with made.client(made.oauth(client_id="me", tokens=tokens)) as c:
            made.accepts.clear()
            made.issuer = "/as2"
            assert (await c.call_tool("any")).data == 1
        assert [asked["client_id"] for asked in made.seen("authorize")] == ["me", "dynamic-1"]


# --- over time ----------------------------------------------------------------------------------------


async def test_a_token_that_ends_is_refreshed_before_it_does() -> None:
    async with world(token={"refresh_token": "r1", "expires_in": 5}) as made:
        assert await call(made) == 1
        assert {form["grant_type"] for form in made.seen("token")[1:]} == {"refresh_token"}
        assert made.seen("token")[1]["refresh_token"] == "r1"
        assert made.seen("token")[1]["resource"] == made.base + "/mcp"
        assert len(made.seen("authorize")) == 1


async def test_a_refused_token_is_refreshed_and_the_user_is_asked_only_if_that_fails() -> None:
    async with world(token={"refresh_token": "r1"}) as made, made.client() as c:
        made.accepts.clear()
        assert (await c.call_tool("any")).data == 1
        assert [form["grant_type"] for form in made.seen("token")] == ["authorization_code", "refresh_token"]
        made.accepts.clear()
        made.refuse = "invalid_grant"
        with pytest.raises(AuthorizationError, match="invalid_grant"):
            await c.call_tool("any")
        made.refuse = None
        assert (await c.call_tool("any")).data == 1
        assert made.seen("token")[-1]["grant_type"] == "authorization_code"  # what has ended is not shown again


async def test_the_next_run_has_the_token_and_the_registration_of_the_last() -> None:
    async with world() as made:
        tokens = MemoryTokens()
        await call(made, made.oauth(tokens=tokens))
        await call(made, made.oauth(tokens=tokens))
        assert len(made.seen("authorize")) == 1
        made.accepts.clear()
        await call(made, made.oauth(tokens=tokens))
        assert (len(made.seen("authorize")), len(made.seen("register"))) == (2, 1)


async def test_a_registration_that_the_server_forgot_is_made_anew_the_next_time() -> None:
    async with world(refuse="invalid_client") as made:
        tokens = MemoryTokens()
        with pytest.raises(AuthorizationError, match="invalid_client"):
            await call(made, made.oauth(tokens=tokens))
        made.refuse = None
        await call(made, made.oauth(tokens=tokens))
        assert len(made.seen("register")) == 2


# --- without a user, and without OAuth ----------------------------------------------------------------


async def test_a_program_is_known_by_its_own_secret() -> None:
    async with world(challenge={"scope": "a"}) as made:
        oauth = OAuth(grant="client_credentials", client_id="me", client_secret="s")
        assert await call(made, oauth) == 1
        (form,) = made.seen("token")
        assert (form["grant_type"], form["scope"], form["resource"]) == ("client_credentials", "a", made.base + "/mcp")
        assert made.seen("authorize") == []


async def test_a_given_token_is_shown_and_nobody_is_asked() -> None:
    async with world(accepts={"mine": set()}) as made:
        async with Client(made.base + "/mcp", auth="mine", era="modern") as c:
            assert (await c.call_tool("any")).data == 1

        async def give() -> str:
            return "mine"

        async with Client(made.base + "/mcp", auth=give, era="modern") as c:
            assert (await c.call_tool("any")).data == 1
        with pytest.raises(TransportError, match="401"):
            async with Client(made.base + "/mcp", auth="other", era="modern"):
                pass
        assert [what for what, _, _ in made.asked if what != "mcp"] == []


@pytest.mark.parametrize(
    "make",
    [
        lambda: OAuth(client_secret="s"),
        lambda: OAuth(issuer="https://a.example"),
        lambda: OAuth(grant="client_credentials"),
        lambda: OAuth(client_metadata_url="http://a.example"),
        lambda: OAuth(timeout=0),
        lambda: Client(["cat"], auth="token"),
        lambda: Client("http://localhost/mcp", auth="token", headers={"Authorization": "Bearer other"}),
    ],
)
def test_options_that_do_not_fit_together_are_refused(make: Any) -> None:
    with pytest.raises(DefinitionError):
        make()


async def test_a_function_needs_the_address_that_its_users_return_to() -> None:
    async with world() as made:
        with pytest.raises(DefinitionError, match="redirect_uri"):
            OAuth(redirect=made.browse)
