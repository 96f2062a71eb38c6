"""What a server offers beside its tools: resources, templates of them, prompts, completions; as plain as can be."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
from msgspec import Struct

__all__ = [
    "Completion",
    "PromptArgument",
    "PromptInfo",
    "PromptMessage",
    "PromptResult",
    "ReadResult",
    "ResourceContent",
    "ResourceInfo",
    "ResourceTemplateInfo",
]


class ResourceInfo(Struct, frozen=True, rename="camel"):
    """One resource of the server.

    Attributes:
        uri: What `Client.read_resource` takes.
        size: Bytes, before any encoding; None: not said.
        annotations: For whom it is, and how important.
    """

    uri: str
    name: str = ""
    title: str | None = None
    description: str | None = None
    mime_type: str | None = None
    size: int | None = None
    annotations: dict[str, Any] | None = None
    icons: list[dict[str, Any]] | None = None
    meta: dict[str, Any] | None = msgspec.field(default=None, name="_meta")


class ResourceTemplateInfo(Struct, frozen=True, rename="camel"):
    """A family of resources.

    Attributes:
        uri_template: RFC 6570, e.g. ``orders://{id}``.
    """

    uri_template: str
    name: str = ""
    title: str | None = None
    description: str | None = None
    mime_type: str | None = None
    annotations: dict[str, Any] | None = None
    icons: list[dict[str, Any]] | None = None
    meta: dict[str, Any] | None = msgspec.field(default=None, name="_meta")


class ResourceContent(Struct, frozen=True, rename="camel"):
    """One part of what a resource holds: text, or bytes.

    Attributes:
        text: None where it is bytes.
        blob: The bytes as base64; None where it is text.
    """

    uri: str
    mime_type: str | None = None
    text: str | None = None
    blob: str | None = None
    meta: dict[str, Any] | None = msgspec.field(default=None, name="_meta")

    @property
    def data(self) -> bytes:
        """The bytes, of either kind; text as UTF-8.

        Raises:
            ValueError: The server's base64 is none.
        """
        return base64.b64decode(self.blob, validate=True) if self.blob is not None else (self.text or "").encode()


class ReadResult(Struct, frozen=True, rename="camel"):
    """What a resource holds.

    Attributes:
        contents: Mostly one; a resource may stand for several.
        ttl_ms: For how long it may be kept (2026-07-28), or None.
    """

    contents: list[ResourceContent]
    ttl_ms: int | None = None
    meta: dict[str, Any] | None = msgspec.field(default=None, name="_meta")

    @property
    def text(self) -> str:
        """The text of all parts, one after the other, on lines of their own."""
        return "\n".join(part.text for part in self.contents if part.text is not None)


class PromptArgument(Struct, frozen=True, rename="camel"):
    """One argument of a prompt; its value is a string."""

    name: str
    title: str | None = None
    description: str | None = None
    required: bool = False


class PromptInfo(Struct, frozen=True, rename="camel"):
    """One prompt of the server."""

    name: str
    title: str | None = None
    description: str | None = None
    arguments: list[PromptArgument] = []
    icons: list[dict[str, Any]] | None = None
    meta: dict[str, Any] | None = msgspec.field(default=None, name="_meta")


class PromptMessage(Struct, frozen=True):
    """One message of a prompt.

    Attributes:
        role: ``user`` or ``assistant``.
        content: A block, e.g. ``{"type": "text", "text": "…"}``.
    """

    role: str
    content: Any

    @property
    def text(self) -> str:
        """Its text; empty where it is of another kind."""
        blocks: list[Any] = self.content if isinstance(self.content, list) else [self.content]  # pyright: ignore
        return "\n".join(block.get("text", "") for block in blocks if block.get("type") == "text")


class PromptResult(Struct, frozen=True):
    """A prompt with its arguments filled in."""

    messages: list[PromptMessage]
    description: str | None = None
    meta: dict[str, Any] | None = msgspec.field(default=None, name="_meta")


class Completion(Struct, frozen=True, rename="camel"):
    """What an argument may be completed to.

    Attributes:
        values: 100 at most.
        total: How many there are; None: not said.
        has_more: There are more than these.
    """

    values: list[str]
    total: int | None = None
    has_more: bool = False


# --- the answers they come in ---------------------------------------------------------------------


class ResourcePage(Struct, frozen=True, rename="camel"):
    """One page of `resources/list`."""

    resources: list[ResourceInfo]
    next_cursor: str | None = None


class TemplatePage(Struct, frozen=True, rename="camel"):
    """One page of `resources/templates/list`."""

    resource_templates: list[ResourceTemplateInfo]
    next_cursor: str | None = None


class PromptPage(Struct, frozen=True, rename="camel"):
    """One page of `prompts/list`."""

    prompts: list[PromptInfo]
    next_cursor: str | None = None


class CompleteResult(Struct, frozen=True):
    """The result of `completion/complete`."""

    completion: Completion
