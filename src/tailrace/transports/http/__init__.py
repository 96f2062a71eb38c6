"""Our own HTTP listener: HTTP/1.1 on asyncio, parsed by httptools, for the same `Exchange` that ASGI carries.

`listener` accepts, counts and times connections; `h1` speaks on one; `head` and `body` are pure: bytes in,
a request's head or body out. It exists because no server tells a streaming application of its end, sees
every disconnect, and bounds what it writes; and because it costs half of what they cost.
"""

from __future__ import annotations

from tailrace.transports.http.listener import Listener

__all__ = ["Listener"]
