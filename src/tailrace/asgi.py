"""Work after the answer in any ASGI application: ``from tailrace.asgi import Background``."""

from __future__ import annotations

from tailrace.server.background import Background

__all__ = ["Background"]
