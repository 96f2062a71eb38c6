"""Tokens that only their issuer can read."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tailrace.core.access import InvalidToken
from tailrace.errors import DefinitionError, TransportError
from tailrace.transports.authorization import Introspection

from .issuing import AUDIENCE, Issuer, issuer


def asking(made: Issuer, **options: Any) -> Introspection:
    return Introspection(made.url + "/introspect", "rs", "s&cret", issuer=made.url, audience=AUDIENCE, **options)


async def test_the_issuer_says_what_a_token_is_and_is_asked_once_for_a_while() -> None:
    async with issuer() as made:
        made.active["t"] = {"active": True, "sub": "ann", "scope": "read", "aud": AUDIENCE, "exp": time.time() + 60}
        judge = asking(made)
        for _ in range(3):
            access = await judge("t")
            assert access is not None
            assert (access.principal, access.scopes) == ("ann", {"read"})
        assert made.asked.count("/introspect") == 1
        assert made.headers[0]["authorization"] == "Basic cnM6cyUyNmNyZXQ="  # rs:s%26cret
        assert await judge("other") is None
        await judge.aclose()
        await judge.aclose()


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({"aud": "https://other.example"}, "another server"),
        ({"aud": None}, "another server"),
        ({"aud": [{"x": AUDIENCE}, [AUDIENCE]]}, "another server"),
        ({"iss": "https://evil.example"}, "another issuer"),
        ({"exp": 5}, "expired"),
        ({"sub": None}, "whose"),
    ],
)
async def test_a_token_for_somebody_else_is_refused(said: Any, text: str) -> None:
    async with issuer() as made:
        made.active["t"] = {"active": True, "sub": "ann", "aud": [AUDIENCE], **said}
        with pytest.raises(InvalidToken, match=text):
            await asking(made)("t")


async def test_a_user_may_be_named_in_another_way_and_the_audience_left_to_the_issuer() -> None:
    async with issuer() as made:
        made.active["t"] = {"active": True, "username": "bob"}
        judge = Introspection(made.url + "/introspect", "rs", "s", issuer=made.url)
        access = await judge("t")
        assert access is not None
        assert access.principal == "bob"


async def test_an_issuer_that_does_not_say_is_no_verdict() -> None:
    async with issuer() as made:
        made.status = 500
        with pytest.raises(TransportError, match="500"):
            await asking(made)("t")


def test_the_options_are_needed() -> None:
    with pytest.raises(DefinitionError):
        Introspection("", "rs", "s", issuer="https://a.example")
