"""Host and Origin, once each: a page in somebody's browser must not reach a server that listens on loopback.

DNS rebinding makes a browser send another site's name to 127.0.0.1, so on loopback only loopback
names are served, and others that were allowed by name. Elsewhere the Host is checked against the
allowed names if there are any. A browser's Origin must be the Host's own, or an allowed one.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from tailrace.core.exchange import Exchange

__all__ = ["Guard", "is_loopback"]

_CACHE = 1024  # verdicts
_CACHED = 512  # characters of what one is about: longer ones are nobody's habit

# What has one value (RFC 9110, 5.3), and says who asks, where from, for what, or how the body is to be read.
_ONCE = frozenset(
    {
        b"authorization",
        b"content-type",
        b"host",
        b"idempotency-key",
        b"last-event-id",
        b"mcp-session-id",
        b"origin",
    }
)

Verdict = tuple[int, str] | None


class Guard:
    """Checks every request's Host and Origin (MCP, transports: security warning).

    Args:
        hosts: Names or addresses served beside loopback ones, without a port; ``*`` for any.
        origins: Origins served beside the Host's own, e.g. ``https://app.example.com``; ``*`` for any.
    """

    def __init__(self, hosts: Iterable[str] = (), origins: Iterable[str] = ()) -> None:
        self._hosts = frozenset(host.lower().strip("[]") for host in hosts)
        self._origins = frozenset(origin.lower().rstrip("/") for origin in origins)
        self._verdicts: dict[tuple[str | None, str | None, bool], Verdict] = {}

    def check(self, exchange: Exchange) -> Verdict:
        """None if the request may pass, else the status (400, 421, 403) and the reason."""
        place = "passed on loopback" if exchange.loopback else "passed"
        if exchange.verdicts.get(place) is self:
            return None
        verdict = self._look_up(exchange)
        if verdict is None:
            exchange.verdicts[place] = self
        return verdict

    def _look_up(self, exchange: Exchange) -> Verdict:
        doubled = exchange.doubled(_ONCE)
        if doubled is not None:  # another reader of this request may see the other one
            return 400, f"the header {doubled.decode('ascii')} is given more than once"
        key = (exchange.header(b"host"), exchange.header(b"origin"), exchange.loopback)
        if key in self._verdicts:
            return self._verdicts[key]
        verdict = self._judge(*key)
        if len(key[0] or "") + len(key[1] or "") > _CACHED:
            return verdict
        if len(self._verdicts) >= _CACHE:  # values come from clients: bounded
            self._verdicts.clear()
        self._verdicts[key] = verdict
        return verdict

    def _judge(self, host: str | None, origin: str | None, loopback: bool) -> Verdict:
        name = _name(host or "")
        if "*" not in self._hosts and name not in self._hosts:
            if loopback and not is_loopback(name):
                return 421, f"host {name[:128]!r} is not served here; allow it with --allow-host"
            if not loopback and self._hosts:
                return 421, f"host {name[:128]!r} is not served here; allow it with --allow-host"
        if origin is None or "*" in self._origins or origin.lower() in self._origins:
            return None
        page = _page_host(origin)
        if page and (page == name or (loopback and is_loopback(page))):
            return None
        return 403, f"origin {origin[:128]!r} may not call this server; allow it with --allow-origin"


def is_loopback(host: str) -> bool:
    """``localhost``, or an address that only this machine reaches; a name that begins like one is somebody else's."""
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost"
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _page_host(origin: str) -> str:
    """The host of an Origin; empty for ``null`` and for what is none: an origin names no user (RFC 6454, 7.1)."""
    try:
        netloc = urlsplit(origin).netloc
    except ValueError:
        return ""
    return "" if "@" in netloc else _name(netloc)


def _name(netloc: str) -> str:
    """The host of ``host:port``, ``[v6]:port`` or ``host``, in lower case; empty for a bracket that never closes."""
    if netloc.startswith("["):
        host, closed, _ = netloc[1:].partition("]")
        return host.lower() if closed else ""
    return netloc.partition(":")[0].lower()
