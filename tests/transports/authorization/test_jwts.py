"""Tokens that are JWTs: who signed them, for whom, and until when; and what happens as keys change."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import Any

import jwt
import pytest

from tailrace.core.access import Access, InvalidToken
from tailrace.errors import DefinitionError, TransportError
from tailrace.transports.authorization import JwtVerifier
from tailrace.transports.authorization.remembered import Remembered

from .issuing import AUDIENCE, Issuer, Key, issuer


def verifier(made: Issuer, **options: Any) -> JwtVerifier:
    return JwtVerifier(made.url, AUDIENCE, **options)


async def test_a_valid_token_says_whose_it_is_and_for_what() -> None:
    async with issuer() as made:
        judge = verifier(made)
        access = await judge(made.token(scope="read write", client_id="app", extra=1))
        assert isinstance(access, Access)
        assert (access.principal, access.scopes, access.client_id) == ("ann", {"read", "write"}, "app")
        assert access.claims["extra"] == 1
        assert access.expires_at is not None
        assert access.expires_at > time.time()
        assert access.covers(["read"])
        assert not access.covers(["read", "other"])
        await judge.aclose()
        await judge.aclose()


@pytest.mark.parametrize(
    ("claims", "head", "text"),
    [
        ({"aud": "https://other.example"}, None, "another server"),
        ({"aud": None}, None, "for whom"),
        ({"iss": "https://evil.example"}, None, "another issuer"),
        ({"iss": None}, None, "who gave it"),
        ({"exp": -100}, None, "expired"),
        ({"exp": None}, None, "until when"),
        ({"nbf": 100}, None, "not valid yet"),
        ({"iat": 100}, None, "not valid yet|future"),
        ({"sub": None}, None, "whose"),
        ({"sub": 5}, None, "."),
        ({"sub": "\ud800"}, None, "whose"),
        ({}, {"typ": "id+jwt"}, "no access token"),
        ({}, {"kid": "unknown"}, "key that is not"),
        ({}, {"typ": "secevent+jwt"}, "no access token"),
        ({}, {"typ": ["at+jwt"]}, "no access token"),
        ({}, {"typ": {"at+jwt": 1}}, "no access token"),
    ],
    ids=ascii,
)
async def test_a_token_that_is_not_valid_is_refused_with_the_reason(claims: Any, head: Any, text: str) -> None:
    times = {name: int(time.time()) + claims[name] for name in ("exp", "nbf", "iat") if claims.get(name)}
    claims = {**claims, **times}  # given as seconds from now
    async with issuer() as made:
        with pytest.raises(InvalidToken, match=text):
            await verifier(made)(made.token(head=head, **claims))


async def test_a_token_for_another_server_is_none_here() -> None:
    async with issuer() as made:
        with pytest.raises(InvalidToken, match="another server"):
            await verifier(made)(made.token(aud="https://other.example/mcp"))


async def test_clocks_may_differ_a_little() -> None:
    async with issuer() as made:
        now = int(time.time())
        assert await verifier(made)(made.token(exp=now - 5, nbf=now + 5, iat=now + 5)) is not None
        with pytest.raises(InvalidToken, match="expired"):
            await verifier(made, leeway=0)(made.token(exp=now - 5))


async def test_a_token_may_say_that_it_ends_later_than_any_clock_shows() -> None:
    async with issuer() as made:
        access = await verifier(made)(made.token(exp=10**400))
        assert access is not None
        assert access.expires_at is None


async def test_several_audiences_are_enough_in_one() -> None:
    async with issuer() as made:
        judge = JwtVerifier(made.url, ["a", "b"])
        assert await judge(made.token(aud=["x", "b"])) is not None


async def test_a_signature_by_another_key_is_none() -> None:
    async with issuer() as made:
        with pytest.raises(InvalidToken, match="signature"):
            await verifier(made)(made.token(key=Key("k1")))


async def test_no_token_is_believed_without_a_signature_or_by_a_public_key_as_secret() -> None:
    async with issuer() as made:
        good = made.token()
        head, body, _ = good.split(".")

        def part(value: Any) -> str:
            return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

        claims = {"iss": made.url, "aud": AUDIENCE, "sub": "ann", "exp": int(time.time()) + 300}
        by_secret = jwt.encode(claims, "x" * 64, algorithm="HS256", headers={"kid": "k1"})
        for bad in (
            f"{part({'alg': 'none', 'kid': 'k1'})}.{body}.",
            by_secret,
            f"{head}.{body}.",
            "a.b.c",
            "opaque",
            "",
        ):
            with pytest.raises(InvalidToken):
                await verifier(made)(bad)


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({"scope": None}, set()),
        ({"scope": None, "scp": ["a", "b"]}, {"a", "b"}),
        ({"scope": None, "scp": "a b"}, {"a", "b"}),
        ({"scope": 5}, set()),
    ],
)
async def test_scopes_are_read_as_servers_write_them(claims: Any, scopes: set[str]) -> None:
    async with issuer() as made:
        access = await verifier(made)(made.token(**claims))
        assert access is not None
        assert access.scopes == scopes


async def test_a_principal_is_the_subject_or_the_program_and_never_too_long() -> None:
    async with issuer() as made:
        program = await verifier(made)(made.token(sub=None, client_id="app"))
        long = await verifier(made)(made.token(sub="x" * 300))
        assert program is not None
        assert long is not None
        assert program.principal == "app"
        assert len(long.principal) <= 255


# --- keys -------------------------------------------------------------------------------------------


async def test_keys_are_fetched_once_for_all_who_come() -> None:
    async with issuer() as made:
        judge = verifier(made, remember=0)
        await asyncio.gather(*(judge(made.token()) for _ in range(5)))
        assert made.asked.count("/jwks") == 1


async def test_a_new_key_is_found_and_invented_ones_are_not_looked_for_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr("tailrace.transports.authorization.keys.time.monotonic", lambda: now)
    async with issuer() as made:
        judge = verifier(made)
        judge._opened()._clock = lambda: now  # pyright: ignore[reportPrivateUsage]
        await judge(made.token())
        made.keys.append(Key("k2"))
        now += 31
        assert await judge(made.token(key=made.keys[1])) is not None
        assert made.asked.count("/jwks") == 2
        for number in range(5):
            with pytest.raises(InvalidToken):
                await judge(made.token(head={"kid": f"invented-{number}"}))
        assert made.asked.count("/jwks") == 2
        made.status = 500
        now += 3601
        assert await judge(made.token()) is not None, "the keys that are known stay"
        assert made.asked.count("/jwks") == 3


async def test_without_keys_nothing_is_known_of_a_token() -> None:
    async with issuer() as made:
        made.status = 500
        judge = verifier(made)
        results = await asyncio.gather(*(judge(made.token()) for _ in range(3)), return_exceptions=True)
        assert all(isinstance(one, TransportError) for one in results), results
        assert made.asked.count("/jwks") == 1
        with pytest.raises(TransportError):
            await judge(made.token())
        assert made.asked.count("/jwks") == 1


@pytest.mark.parametrize(
    ("metadata", "text"), [({"issuer": "https://evil.example"}, "is about"), ({"jwks_uri": 5}, "valid")]
)
async def test_metadata_of_another_issuer_gives_no_keys(metadata: Any, text: str) -> None:
    async with issuer() as made:
        made.metadata = metadata
        with pytest.raises(TransportError, match=text):
            await verifier(made)(made.token())
        given = verifier(made, jwks_uri=made.url + "/jwks")
        assert await given(made.token()) is not None


async def test_a_token_without_a_key_id_is_for_the_only_key() -> None:
    async with issuer() as made:
        assert await verifier(made)(made.token(head={"kid": None})) is not None
        made.keys.append(Key("k2"))
        with pytest.raises(InvalidToken, match="key that is not"):
            await verifier(made)(made.token(head={"kid": None}))


# --- what is remembered -------------------------------------------------------------------------------


async def test_a_verdict_is_kept_for_a_while_and_never_beyond_the_tokens_end() -> None:
    clock = [100.0]
    known = Remembered(60, limit=2, clock=lambda: clock[0])
    known.keep("short", Access("a", expires_at=110))
    known.keep("long", Access("b"))
    assert known.find("short") is not None
    clock[0] = 110
    assert known.find("short") is None
    assert known.find("long") is not None
    clock[0] = 160
    assert known.find("long") is None
    known.keep("over", Access("c", expires_at=160))
    assert known.find("over") is None
    for name in "123":
        known.keep(name, Access(name))
    assert [known.find(name) is not None for name in "123"] == [False, True, True]


@pytest.mark.parametrize(
    "make",
    [
        lambda: JwtVerifier("", "a"),
        lambda: JwtVerifier("a.example", "a"),  # whose keys could not be found
        lambda: JwtVerifier("https://a.example", ""),
        lambda: JwtVerifier("https://a.example", []),
        lambda: JwtVerifier("https://a.example", "a", algorithms=["HS256"]),
        lambda: JwtVerifier("https://a.example", "a", algorithms=["none"]),
    ],
)
def test_what_would_let_anybody_in_is_refused(make: Any) -> None:
    with pytest.raises(DefinitionError):
        make()
