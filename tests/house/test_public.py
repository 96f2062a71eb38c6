"""What users may rely on is what `__all__` lists; the lists change on purpose only."""

from __future__ import annotations

import importlib
import tomllib
from pathlib import Path

import pytest

import tailrace

ROOT = Path(__file__).parents[2]
PUBLIC = {
    "tailrace.asgi": {"Background"},
    "tailrace.auth": {
        "Access",
        "FileTokens",
        "Introspection",
        "InvalidToken",
        "JwtVerifier",
        "Loopback",
        "MemoryTokens",
        "OAuth",
        "Redirect",
        "ResourceServer",
        "TokenStore",
    },
    "tailrace.fastmcp": {
        "AcceptedElicitation",
        "AssistantMessage",
        "Audio",
        "CancelledElicitation",
        "Context",
        "DeclinedElicitation",
        "FastMCP",
        "Image",
        "MCPServer",
        "Message",
        "ProtocolError",
        "ResourceNotFound",
        "ToolError",
        "ToolResult",
        "UserMessage",
    },
    "tailrace.publish": {"Message", "Outbox", "Publisher", "Rejected"},
    "tailrace.connect": {
        "BidiMethod",
        "BidiStream",
        "Call",
        "CallOptions",
        "Client",
        "ClientStream",
        "ClientStreamMethod",
        "Code",
        "Interceptor",
        "Messages",
        "Metadata",
        "Retries",
        "RpcDeadlineExceeded",
        "RpcError",
        "ServerStream",
        "ServerStreamMethod",
        "StreamEnded",
        "UnaryMethod",
    },
    "tailrace.testing": {
        "FaultyStore",
        "MemoryClient",
        "MemoryStore",
        "Recorder",
        "RecordingPublisher",
        "RunningService",
        "VirtualTimeLoop",
        "client_of",
        "connected",
        "running",
        "server_of",
        "virtual_time",
    },
    "tailrace": {
        "Annotations",
        "Audio",
        "AnswerWritten",
        "CallCancelled",
        "CapabilityError",
        "RequestRefused",
        "ClientGone",
        "Code",
        "RpcError",
        "StreamReset",
        "Context",
        "DeadlineExceeded",
        "DefinitionError",
        "ElicitResult",
        "EmbeddedResource",
        "FieldNumber",
        "ClientInfo",
        "Icon",
        "PromptMessage",
        "PromptResponse",
        "ToolResponse",
        "ResourceNotFound",
        "Root",
        "SampleResult",
        "Image",
        "LimitError",
        "ProtocolError",
        "ResourceContents",
        "ResourceLink",
        "Service",
        "Session",
        "StepError",
        "StoreError",
        "TailraceError",
        "Text",
        "ToolError",
        "TransportError",
        "__version__",
        "current",
    },
    "tailrace.errors": {
        "AnswerWritten",
        "AuthorizationError",
        "CallCancelled",
        "CapabilityError",
        "RequestRefused",
        "ResourceNotFound",
        "ClientGone",
        "Code",
        "RpcDeadlineExceeded",
        "RpcError",
        "StreamEnded",
        "StreamReset",
        "DeadlineExceeded",
        "DefinitionError",
        "EntryTaken",
        "LimitError",
        "ProtocolError",
        "StepError",
        "StoreBusy",
        "StoreError",
        "StoreLost",
        "StoreTooNew",
        "TailraceError",
        "ToolError",
        "TransportError",
    },
}


@pytest.mark.parametrize("module", PUBLIC)
def test_the_public_names_are_as_listed(module: str) -> None:
    assert set(importlib.import_module(module).__all__) == PUBLIC[module]


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in PUBLIC.items() for name in sorted(names) if name[0] != "_"]
)
def test_a_public_name_is_documented(module: str, name: str) -> None:
    assert (getattr(importlib.import_module(module), name).__doc__ or "").strip()


def test_the_version_is_that_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert tailrace.__version__ == project["version"]


def test_the_changelog_knows_the_version() -> None:
    assert f"## {tailrace.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_type_checkers_see_the_types() -> None:
    assert (ROOT / "src/tailrace/py.typed").is_file()
