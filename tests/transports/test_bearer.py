"""Who asks: tokens that were given, and a function that judges them."""

from __future__ import annotations

import asyncio
import hmac
import logging
from typing import Any

import pytest

from tailrace.core.exchange import Exchange
from tailrace.errors import DefinitionError
from tailrace.transports.bearer import Bearer, Refusal, Tokens, make_bearer
from tests.core.support import virtual
from tests.rigs.exchange import FakeExchange

TOKEN = "tr_0123456789abcdef"


def asking(*authorization: str) -> FakeExchange:
    return FakeExchange("POST", "/mcp", None, [("authorization", value) for value in authorization])


def bearer(auth: Any = None, tokens: Any = None, **limits: Any) -> Bearer:
    made = make_bearer(auth, tokens, **({"seconds": 5.0, "limit": 2} | limits))
    assert made is not None
    return made


async def verdict(judge: Bearer, exchange: Exchange) -> Refusal | None:
    found = judge.check(exchange)
    return found if found is None or isinstance(found, tuple) else await found


# --- tokens that were given -----------------------------------------------------------------------


def test_a_token_that_was_given_names_its_principal() -> None:
    exchange = asking(f"Bearer {TOKEN}")
    assert bearer(tokens=[TOKEN, "another"]).check(exchange) is None
    assert exchange.principal.startswith("token-")
    assert TOKEN not in exchange.principal


def test_the_principal_of_a_token_is_the_same_in_every_process_and_another_for_every_token() -> None:
    tokens = [Tokens([TOKEN]), Tokens(["first", TOKEN, "last"])]
    assert len({one.principal(TOKEN) for one in tokens}) == 1
    assert len({tokens[1].principal(name) for name in ("first", TOKEN, "last")}) == 3
    assert tokens[0].principal(TOKEN) == "token-d3d9c431b3fba7e9", "stored ids depend on it: it never changes"


def test_every_token_is_compared_in_constant_time_also_behind_the_one_that_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[tuple[bytes, bytes]] = []
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or compare(a, b))
    assert Tokens(["one", "two", "three"]).principal("one") is not None
    assert len(compared) == 3
    assert {len(side) for pair in compared for side in pair} == {32}, "digests: a length tells nothing"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_is_read_in_any_case(scheme: str) -> None:
    assert bearer(tokens=TOKEN).check(asking(f"{scheme} {TOKEN}")) is None


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ((), b"Bearer"),
        (("Basic dXNlcjpwYXNz",), b"Bearer"),
        ((TOKEN,), b"Bearer"),
        (("Bearer",), b'Bearer error="invalid_token"'),
        (("Bearer ",), b'Bearer error="invalid_token"'),
        (("Bearer wrong",), b'Bearer error="invalid_token"'),
        ((f"Bearer {TOKEN}x",), b'Bearer error="invalid_token"'),
        ((f"Bearer {TOKEN[:-1]}",), b'Bearer error="invalid_token"'),
        ((f"Bearer {TOKEN}é",), b'Bearer error="invalid_token"'),
        (("Bearer " + "x" * 20_000,), b'Bearer error="invalid_token"'),
        ((f"Bearer {TOKEN}", f"Bearer {TOKEN}"), b'Bearer error="invalid_token"'),
    ],
)
def test_whoever_shows_none_or_another_is_refused_and_told_how_to_ask(values: tuple[str, ...], error: bytes) -> None:
    exchange = asking(*values)
    judge = bearer(tokens=TOKEN)
    refusal = judge.check(exchange)
    assert isinstance(refusal, Refusal)
    assert refusal[0] == 401
    assert list(judge.challenge(exchange, refusal)) == [(b"www-authenticate", error)]
    assert exchange.principal == ""


@pytest.mark.parametrize("token", ["", "two words", "schlüssel", "line\nfeed"])
def test_a_token_that_no_header_can_carry_is_refused_at_once(token: str) -> None:
    with pytest.raises(DefinitionError, match="visible ASCII"):
        make_bearer(None, ["good", token], seconds=1.0, limit=1)


def test_no_list_of_tokens_is_taken_for_no_authentication() -> None:
    assert make_bearer(None, (), seconds=1.0, limit=1) is None, "the flag was not given"
    assert make_bearer(None, None, seconds=1.0, limit=1) is None
    for nothing in ([], ""):
        with pytest.raises(DefinitionError):
            make_bearer(None, nothing, seconds=1.0, limit=1)


# --- a function that judges -----------------------------------------------------------------------


async def users(token: str) -> str | None:
    return {"ann's": "ann", "bob's": "bob"}.get(token)


@virtual
async def test_the_function_names_the_principal() -> None:
    exchange = asking("Bearer ann's")
    assert await verdict(bearer(users), exchange) is None
    assert exchange.principal == "ann"


@virtual
async def test_what_the_function_does_not_know_is_refused() -> None:
    refusal = await verdict(bearer(users), asking("Bearer eve's"))
    assert refusal is not None
    assert refusal[0] == 401


def test_the_function_is_not_asked_without_a_token() -> None:
    async def asked(token: str) -> str:
        raise AssertionError(token)

    assert isinstance(bearer(asked).check(asking()), tuple)


@virtual
async def test_an_object_with_an_async_call_will_do() -> None:
    class Users:
        async def __call__(self, token: str) -> str:
            return "ann"

    assert await verdict(bearer(Users()), asking("Bearer x")) is None


@virtual
async def test_a_function_that_does_not_end_refuses_for_the_moment(caplog: pytest.LogCaptureFixture) -> None:
    async def never(token: str) -> str:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    refusal = await verdict(bearer(never), asking(f"Bearer {TOKEN}"))
    assert refusal is not None
    assert refusal[0] == 503
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


@virtual
async def test_a_function_that_fails_refuses_and_no_token_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fails(token: str) -> str:
        raise TimeoutError(f"cannot look up {token}")

    exchange = asking(f"Bearer {TOKEN}")
    refusal = await verdict(bearer(fails), exchange)
    assert refusal is not None
    assert refusal[0] == 503
    assert exchange.principal == ""
    assert "cannot look up [token]" in caplog.text
    assert TOKEN not in caplog.text


@pytest.mark.parametrize("given", ["", 7, "x" * 256, True, "\ud800"], ids=ascii)
@virtual
async def test_what_is_no_principal_lets_nobody_in(given: Any) -> None:
    async def odd(token: str) -> Any:
        return given

    exchange = asking("Bearer x")
    refusal = await verdict(bearer(odd), exchange)
    assert refusal is not None
    assert refusal[0] == 503
    assert exchange.principal == ""


@virtual
async def test_only_so_many_tokens_are_judged_at_once() -> None:
    gate = asyncio.Event()

    async def slow(token: str) -> str:
        await gate.wait()
        return "ann"

    judge = bearer(slow, limit=2)
    waiting = [asyncio.ensure_future(verdict(judge, asking("Bearer x"))) for _ in range(3)]
    await asyncio.sleep(1)
    assert [one.done() for one in waiting] == [False, False, True]
    refusal = waiting[2].result()
    assert refusal is not None
    assert refusal[0] == 503
    gate.set()
    await asyncio.gather(*waiting)
    assert await verdict(judge, asking("Bearer x")) is None


@pytest.mark.parametrize("auth", [lambda token: "ann", "token", 7])
def test_what_is_no_async_function_is_refused_at_once(auth: Any) -> None:
    with pytest.raises(DefinitionError, match="async function"):
        make_bearer(auth, None, seconds=1.0, limit=1)


def test_one_of_both_decides() -> None:
    with pytest.raises(DefinitionError, match="not both"):
        make_bearer(users, ["token"], seconds=1.0, limit=1)
