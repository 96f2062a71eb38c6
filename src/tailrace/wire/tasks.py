"""The tasks extension of MCP 2026-07-28 (`io.modelcontextprotocol/tasks`, SEP-2663): names, shapes, errors.

A server may answer `tools/call` with a task, if the client said on that request that it knows them. Its state
is asked for by `tasks/get`, and pushed by `notifications/tasks`. What becomes a task is `protocols.mcp`'s.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from tailrace.errors import ProtocolError
from tailrace.wire.mcp import CAPABILITY_MISSING, Meta

__all__ = ["EXTENSION", "METHODS", "TERMINAL", "TaskState", "declares_tasks", "tasks_missing"]

EXTENSION = "io.modelcontextprotocol/tasks"
METHODS = frozenset({"tasks/get", "tasks/update", "tasks/cancel"})
TERMINAL = frozenset({"completed", "failed", "cancelled"})


class TaskState(Struct, frozen=True, omit_defaults=True, rename="camel"):
    """A task as it is told: the result that creates it, that of `tasks/get`, and parameters of its notification.

    `result` belongs to a completed one, `error` to a failed one, `input_requests` to one that waits for input; an
    absent `ttl_ms` would not be valid, so it is always written. In what is read, `status_message` and the rest may be
    absent.
    """

    task_id: str
    status: str
    created_at: str
    last_updated_at: str
    ttl_ms: int | None
    poll_interval_ms: int | UnsetType = UNSET
    status_message: str | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET
    input_requests: dict[str, Any] | UnsetType = UNSET
    result_type: str | UnsetType = UNSET
    meta: Any = msgspec.field(default=UNSET, name="_meta")


def declares_tasks(meta: Meta) -> bool:
    """Whether the client knows tasks, as it says on each request."""
    capabilities = meta.client_capabilities
    extensions = capabilities.get("extensions") if isinstance(capabilities, dict) else None
    return isinstance(extensions, dict) and EXTENSION in extensions


def tasks_missing() -> ProtocolError:
    """The refusal of what only a client that knows tasks can ask for."""
    return ProtocolError(
        CAPABILITY_MISSING,
        f"this needs a client that declares the extension {EXTENSION}",
        {"requiredCapabilities": {"extensions": {EXTENSION: {}}}},
    )
