"""The header fields of a request: any case, the first of several, never written; and what of them outlives the call."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tailrace.core.access import Access
from tailrace.core.context import Context
from tailrace.core.headers import NO_HEADERS, RequestHeaders, headers_of
from tests.core.support import Work, make_tasks, virtual
from tests.rigs.exchange import FakeExchange

GIVEN = [(b"x-tenant", "acme"), (b"x-tenant", "other"), (b"authorization", "Bearer s3cret"), (b"cookie", "a=b")]


def test_names_are_found_in_any_case_and_of_several_values_the_first() -> None:
    headers = RequestHeaders(GIVEN)
    assert headers["X-Tenant"] == headers["x-tenant"] == "acme"
    assert headers.get("X-TENANT") == "acme"
    assert "X-Tenant" in headers
    assert headers.all("X-Tenant") == ["acme", "other"]
    assert list(headers) == ["x-tenant", "authorization", "cookie"]
    assert len(headers) == 3


def test_what_is_not_there_is_missing() -> None:
    headers = RequestHeaders(GIVEN)
    assert (headers.get("x-other"), headers.all("x-other")) == (None, [])
    assert "x-other" not in headers
    assert 7 not in headers
    with pytest.raises(KeyError):
        headers["x-other"]


def test_who_looks_while_another_thread_does_finds_all() -> None:
    seen: list[str | None] = []

    class Fields(list[tuple[bytes, str]]):
        def __iter__(self) -> Iterator[tuple[bytes, str]]:
            first, *rest = super().__iter__()
            yield first
            if not seen:  # as another thread would, in the middle
                seen.append("")
                seen.append(headers.get("cookie"))
            yield from rest

    headers = RequestHeaders(Fields(GIVEN))
    assert headers["cookie"] == "a=b"
    assert seen == ["", "a=b"]


def test_they_cannot_be_changed_and_what_all_gives_is_the_callers_own() -> None:
    headers = RequestHeaders(GIVEN)
    with pytest.raises(TypeError):
        headers["x-tenant"] = "mine"  # type: ignore[index]
    headers.all("x-tenant").clear()
    assert headers.all("x-tenant") == ["acme", "other"]


def test_values_are_in_no_log() -> None:
    assert repr(RequestHeaders(GIVEN)) == "<RequestHeaders: x-tenant, authorization, cookie>"
    assert repr(NO_HEADERS) == "<RequestHeaders: none>"


def test_what_proves_who_somebody_is_can_be_left_out() -> None:
    headers = RequestHeaders([*GIVEN, (b"proxy-authorization", "Basic eA==")])
    assert dict(headers.without_credentials()) == {"x-tenant": "acme"}
    assert headers["authorization"] == "Bearer s3cret"


def test_those_of_one_head_are_made_once() -> None:
    exchange = FakeExchange("POST", "/mcp", headers=[("X-Tenant", "acme")])
    assert headers_of(exchange) is headers_of(exchange)
    assert dict(headers_of(exchange)) == {"x-tenant": "acme", "host": "localhost"}


def test_a_token_that_the_server_has_checked_is_not_among_them() -> None:
    exchange = FakeExchange("POST", "/mcp", headers=[("x-tenant", "acme"), ("authorization", "Bearer s3cret")])
    exchange.access = Access("me")
    assert dict(headers_of(exchange)) == {"x-tenant": "acme", "host": "localhost"}


class Asked(Work):
    """A call that came with headers."""

    HEADERS = RequestHeaders(GIVEN)

    @property
    def headers(self) -> RequestHeaders:
        return self.HEADERS


@virtual
async def test_a_context_has_its_calls_and_so_have_those_that_derive_from_it() -> None:
    call = Asked(make_tasks())
    assert call.context.headers is call.context.with_value("a", 1).headers is Asked.HEADERS


@virtual
async def test_what_is_detached_has_them_without_credentials() -> None:
    context = Asked(make_tasks()).context
    for detached in (context.detach(), context.with_value("a", 1).detach(), context.detach().detach()):
        assert dict(detached.headers) == {"x-tenant": "acme"}


@virtual
async def test_without_a_request_there_are_none() -> None:
    context = Work(make_tasks()).context
    assert context.headers is context.detach().headers is Context.background().headers is NO_HEADERS
