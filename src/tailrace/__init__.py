"""Calls that outlive their connections: a framework for MCP servers and clients.

A name is loaded when it is first used, so that ``import tailrace`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tailrace.core.asked import ClientInfo, ElicitResult, Root, SampleResult
    from tailrace.core.context import Context, current
    from tailrace.core.session import Session
    from tailrace.errors import (
        AnswerWritten,
        CallCancelled,
        CapabilityError,
        ClientGone,
        Code,
        DeadlineExceeded,
        DefinitionError,
        LimitError,
        ProtocolError,
        RequestRefused,
        ResourceNotFound,
        RpcError,
        StepError,
        StoreError,
        StreamReset,
        TailraceError,
        ToolError,
        TransportError,
    )
    from tailrace.schema.shapes import FieldNumber
    from tailrace.service import Service
    from tailrace.wire.content import (
        Annotations,
        Audio,
        EmbeddedResource,
        Icon,
        Image,
        PromptMessage,
        PromptResponse,
        ResourceContents,
        ResourceLink,
        Text,
        ToolResponse,
    )

__all__ = [
    "Annotations",
    "AnswerWritten",
    "Audio",
    "CallCancelled",
    "CapabilityError",
    "ClientGone",
    "ClientInfo",
    "Code",
    "Context",
    "DeadlineExceeded",
    "DefinitionError",
    "ElicitResult",
    "EmbeddedResource",
    "FieldNumber",
    "Icon",
    "Image",
    "LimitError",
    "PromptMessage",
    "PromptResponse",
    "ProtocolError",
    "RequestRefused",
    "ResourceContents",
    "ResourceLink",
    "ResourceNotFound",
    "Root",
    "RpcError",
    "SampleResult",
    "Service",
    "Session",
    "StepError",
    "StoreError",
    "StreamReset",
    "TailraceError",
    "Text",
    "ToolError",
    "ToolResponse",
    "TransportError",
    "__version__",
    "current",
]

__version__ = "0.1.0"

_CONTENT = (
    *("Annotations", "Audio", "EmbeddedResource", "Icon", "Image"),
    *("PromptMessage", "PromptResponse", "ResourceContents", "ResourceLink", "Text", "ToolResponse"),
)
_HOMES = {
    "Context": "core.context",
    "FieldNumber": "schema.shapes",
    "Service": "service",
    "Session": "core.session",
    "current": "core.context",
    **dict.fromkeys(_CONTENT, "wire.content"),
    **dict.fromkeys(("ClientInfo", "ElicitResult", "Root", "SampleResult"), "core.asked"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'tailrace' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"tailrace.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value  # the next use finds it at once
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
