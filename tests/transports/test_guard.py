"""Host and Origin: what a browser that was lured here may not do, and what everybody else may."""

from __future__ import annotations

import pytest

from tailrace.transports.guard import Guard
from tests.rigs.exchange import FakeExchange


def verdict(
    host: str | None,
    origin: str | None = None,
    *,
    loopback: bool = True,
    hosts: tuple[str, ...] = (),
    origins: tuple[str, ...] = (),
) -> int | None:
    """The status of the refusal, None where there is none."""
    headers = [("host", host or "")] + ([("origin", origin)] if origin is not None else [])
    found = Guard(hosts, origins).check(FakeExchange("POST", "/mcp", None, headers, loopback=loopback))
    return None if found is None else found[0]


def test_what_passed_on_loopback_has_not_passed_elsewhere_nor_another_guard() -> None:
    """A transport that knows a head again gives the same verdicts with it, whichever socket it came from."""
    known: dict[str, object] = {}

    def passes(guard: Guard, *, loopback: bool) -> bool:
        exchange = FakeExchange("POST", "/mcp", None, [("host", "localhost")], loopback=loopback)
        exchange.verdicts = known
        return guard.check(exchange) is None

    picky, strict = Guard(["example.com"]), Guard(["example.com"], ["https://example.com"])
    for _ in range(2):
        assert passes(picky, loopback=True)
        assert not passes(picky, loopback=False)
    assert not passes(strict, loopback=False)
    assert known == {"passed on loopback": picky}


# --- Host -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8000",
        "LocalHost:8000",
        "127.0.0.1",
        "127.0.0.1:8000",
        "127.1.2.3",
        "[::1]",
        "[::1]:8000",
        "[0:0:0:0:0:0:0:1]:80",
        "[::ffff:127.0.0.1]:80",
    ],
)
def test_loopback_names_are_served_on_loopback(host: str) -> None:
    assert verdict(host) is None


@pytest.mark.parametrize(
    "host",
    [
        None,
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "127.evil.example",
        "127.0.0.1.evil.example",
        "127.0.0.1evil",
        "[::2]",
        "[fe80::1]:80",
        "[::1",
        "10.0.0.1",
        "*",
    ],
)
def test_other_names_are_misdirected_on_loopback(host: str | None) -> None:
    """DNS rebinding: a foreign name that was made to point to 127.0.0.1."""
    assert verdict(host) == 421
    assert verdict(host, f"http://{host}") == 421


@pytest.mark.parametrize("host", ["mcp.example", "mcp.example:8000", "MCP.Example"])
def test_a_name_that_was_allowed_is_served_on_loopback(host: str) -> None:
    assert verdict(host, hosts=("mcp.Example",)) is None
    assert verdict("evil.example", hosts=("mcp.example",)) == 421
    assert verdict("localhost", hosts=("mcp.example",)) is None, "loopback names stay"


def test_a_star_allows_any_host() -> None:
    assert verdict("evil.example", hosts=("*",)) is None
    assert verdict("evil.example", hosts=("*",), loopback=False) is None


def test_an_ipv6_address_may_be_allowed_with_and_without_brackets() -> None:
    for allowed in ("fd00::1", "[fd00::1]"):
        assert verdict("[fd00::1]:8000", hosts=(allowed,), loopback=False) is None
        assert verdict("[fd00::2]:8000", hosts=(allowed,), loopback=False) == 421


def test_elsewhere_any_host_is_served_unless_some_are_named() -> None:
    assert verdict("mcp.example", loopback=False) is None
    assert verdict("mcp.example", loopback=False, hosts=("mcp.example",)) is None
    assert verdict("evil.example", loopback=False, hosts=("mcp.example",)) == 421
    assert verdict("localhost", loopback=False, hosts=("mcp.example",)) == 421


# --- Origin ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "origin",
    ["http://localhost:8000", "http://127.0.0.1:3000", "http://[::1]:5173", "HTTP://LOCALHOST", "https://localhost"],
)
def test_pages_of_this_machine_may_call(origin: str) -> None:
    assert verdict("localhost:8000", origin) is None


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "https://localhost.evil.example",
        "http://127.evil.example",
        "null",
        "",
        "file://",
        "localhost",
        "http://[",
        "http://[::1",
        "http://localhost@evil.example",
        "http://localhost:1@evil.example",
        "http://evil.example\\@localhost",
        "chrome-extension://abcdef",
    ],
)
def test_other_pages_may_not(origin: str) -> None:
    assert verdict("localhost:8000", origin) == 403


def test_elsewhere_the_origin_must_be_the_hosts_own_or_allowed() -> None:
    assert verdict("mcp.example", "https://mcp.example", loopback=False) is None
    assert verdict("mcp.example:8443", "https://MCP.example:8443", loopback=False) is None
    assert verdict("mcp.example", "https://evil.example", loopback=False) == 403
    assert verdict("mcp.example", "http://localhost", loopback=False) == 403
    assert verdict("", "null", loopback=False) == 403


def test_origins_that_were_allowed() -> None:
    allowed = ("https://App.example/", "http://other.example:3000")
    for origin in ("https://app.example", "HTTPS://app.example", "http://other.example:3000"):
        assert verdict("localhost", origin, origins=allowed) is None
        assert verdict("mcp.example", origin, origins=allowed, loopback=False) is None
    for origin in ("http://app.example", "http://other.example", "https://app.example.evil.example"):
        assert verdict("localhost", origin, origins=allowed) == 403


def test_a_star_allows_any_origin_and_no_other_host() -> None:
    assert verdict("localhost", "https://evil.example", origins=("*",)) is None
    assert verdict("evil.example", "https://evil.example", origins=("*",)) == 421


# --- its memory -----------------------------------------------------------------------------------


def test_verdicts_are_remembered_within_bounds_and_told_apart() -> None:
    guard = Guard()
    for number in range(5_000):
        exchange = FakeExchange("GET", "/mcp", None, [("host", f"evil{number}.example")])
        found = guard.check(exchange)
        assert found is not None
        assert found[0] == 421
        assert guard.check(exchange) is found
    assert len(guard._verdicts) <= 1024
    before = dict(guard._verdicts)
    guard.check(FakeExchange("GET", "/mcp", None, [("host", "localhost"), ("origin", "x" * 60_000)]))
    assert guard._verdicts == before, "long ones are not kept"
    local = FakeExchange("GET", "/mcp", None, [("host", "mcp.example")], loopback=True)
    remote = FakeExchange("GET", "/mcp", None, [("host", "mcp.example")], loopback=False)
    assert guard.check(local) is not None
    assert guard.check(remote) is None


def test_a_reason_quotes_no_more_than_a_line_of_the_clients_text() -> None:
    guard = Guard()
    for headers in ([("host", "x" * 100_000)], [("host", "localhost"), ("origin", "y" * 100_000)]):
        found = guard.check(FakeExchange("GET", "/mcp", None, headers))
        assert found is not None
        assert len(found[1]) < 300
