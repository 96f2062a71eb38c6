"""Where the metadata of a resource and of an issuer stands."""

from __future__ import annotations

import pytest

from tailrace.wire.wellknown import issuer_addresses, origin_of, resource_address, resource_addresses

A = "https://a.example"


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://A.example:443/mcp/?x=1#f", A),
        ("http://[::1]:8000/mcp", "http://[::1]:8000"),
        ("http://a.example:80", "http://a.example"),
        ("http://a.example:443", "http://a.example:443"),
    ],
)
def test_the_same_origin_reads_the_same(url: str, origin: str) -> None:
    assert origin_of(url) == origin


def test_a_port_that_is_none_is_no_address() -> None:
    with pytest.raises(ValueError, match=r"[Pp]ort"):
        origin_of("https://a.example:port/mcp")


def test_a_resources_metadata_is_below_its_path_or_at_the_root() -> None:
    assert resource_address(f"{A}/mcp/") == f"{A}/.well-known/oauth-protected-resource/mcp"
    assert resource_addresses(f"{A}/mcp") == [
        f"{A}/.well-known/oauth-protected-resource/mcp",
        f"{A}/.well-known/oauth-protected-resource",
    ]
    assert resource_addresses(A) == [f"{A}/.well-known/oauth-protected-resource"]


@pytest.mark.parametrize(
    ("issuer", "places"),
    [
        (A, [f"{A}/.well-known/oauth-authorization-server", f"{A}/.well-known/openid-configuration"]),
        (
            f"{A}/tenant/",
            [
                f"{A}/.well-known/oauth-authorization-server/tenant",
                f"{A}/.well-known/openid-configuration/tenant",
                f"{A}/tenant/.well-known/openid-configuration",
            ],
        ),
    ],
)
def test_an_issuers_metadata_is_looked_for_in_this_order(issuer: str, places: list[str]) -> None:
    assert issuer_addresses(issuer) == places
