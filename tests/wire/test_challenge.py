"""`WWW-Authenticate: Bearer`, read from whatever servers write, and written so that everybody reads it."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.wire.challenge import Challenge, read_challenge, write_challenge

PRM = "https://a.example/.well-known/oauth-protected-resource"


@pytest.mark.parametrize(
    ("values", "challenge"),
    [
        ([], None),
        (['Basic realm="x"'], None),
        (["Bearer"], Challenge()),
        (["bearer"], Challenge()),
        ([f'Bearer resource_metadata="{PRM}"'], Challenge(resource_metadata=PRM)),
        ([f"Bearer scope=one, resource_metadata={'x'}"], Challenge(scopes=("one",), resource_metadata="x")),
        (
            ['Bearer error="insufficient_scope", scope="a b  a", error_description="more, \\"please\\""'],
            Challenge("insufficient_scope", ("a", "b"), None, 'more, "please"'),
        ),
        (['Basic realm="Bearer", scope="no", Bearer scope="yes"'], Challenge(scopes=("yes",))),
        (['Bearer scope="yes", Basic scope="no"'], Challenge(scopes=("yes",))),
        (['Basic realm="x"', 'Bearer SCOPE = "yes"'], Challenge(scopes=("yes",))),
        (['Bearer scope="first", scope="second"'], Challenge(scopes=("first",))),
        (['Negotiate YWJj==, Bearer error="e"'], Challenge(error="e")),
        (['Bearer scope="never ends'], Challenge()),
    ],
)
def test_the_bearer_challenge_is_found(values: list[str], challenge: Challenge | None) -> None:
    assert read_challenge(values) == challenge


@given(st.text(string.printable + "é", max_size=60))
def test_any_header_is_read_without_complaint(value: str) -> None:
    read_challenge([value, "Bearer " + value])


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40))
def test_what_was_written_is_read_again(text: str) -> None:
    header = write_challenge({"error": "e", "scope": None, "error_description": text}).decode()
    assert read_challenge([header]) == Challenge("e", (), None, text)


def test_what_a_header_cannot_carry_is_replaced() -> None:
    assert write_challenge({"realm": "a\r\nb é"}) == b'Bearer realm="a??b ?"'
    assert write_challenge({}) == b"Bearer"
