"""Which addresses a client can ask at all, for all clients alike; what each wants beside that is its own to say."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

__all__ = ["read_address"]


def read_address(url: str) -> SplitResult | None:
    """The parts of an ``http://`` or ``https://`` URL with a host, and with a port that can be, if there is one; None
    for anything else."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # brackets that are no IPv6 address, a port that is no number or too large
        return None
    return parts if parts.scheme in ("http", "https") and parts.hostname and port != 0 else None
