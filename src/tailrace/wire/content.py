"""The blocks that a tool's answer is made of: text, pictures, sound, resources; as MCP writes them.

A tool returns one, or a list that may mix them with plain strings. They are made for people and
models to read, so a tool that declares to return them has no `outputSchema`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec
from msgspec import Struct

__all__ = [
    "BLOCKS",
    "Annotations",
    "Audio",
    "EmbeddedResource",
    "Icon",
    "Image",
    "PromptMessage",
    "PromptResponse",
    "ResourceContents",
    "ResourceLink",
    "Text",
    "ToolResponse",
]


class Annotations(Struct, frozen=True, omit_defaults=True, rename="camel", kw_only=True):
    """What a client may know of a block (MCP, resources: annotations).

    Args:
        audience: Whom it is for; None: whoever.
        priority: From 0, entirely optional, to 1, effectively required; None: not said.
        last_modified: ISO 8601, e.g. ``2026-01-12T15:00:58Z``; since 2025-06-18.
    """

    audience: list[Literal["user", "assistant"]] | None = None
    priority: float | None = None
    last_modified: str | None = None

    def __post_init__(self) -> None:
        if self.priority is not None and not 0 <= self.priority <= 1:
            raise ValueError(f"priority is from 0 to 1, got {self.priority!r}")


class Text(Struct, frozen=True, tag="text", tag_field="type", omit_defaults=True, gc=False):
    """Text, as a plain string would give it, but with room for annotations.

    Args:
        text: What it says.
        annotations: For whom it is, and how important; None: not said.
        meta: The block's `_meta`, JSON-able; None: none.
    """

    __tailrace_content__: ClassVar[bool] = True

    text: str
    annotations: Annotations | None = None
    meta: dict[str, Any] | None = msgspec.field(default=None, name="_meta")


class _Bytes(Struct, frozen=True, rename="camel", omit_defaults=True):
    __tailrace_content__: ClassVar[bool] = True

    data: bytes
    mime_type: str
    annotations: Annotations | None = None
    meta: dict[str, Any] | None = msgspec.field(default=None, name="_meta")

    def __post_init__(self) -> None:
        _check_bytes("data", self.data)


class Image(_Bytes, frozen=True, tag="image", tag_field="type"):
    """A picture.

    Args:
        data: The file's bytes as they are; they go out as base64.
        mime_type: E.g. ``image/png``.
        annotations: For whom it is, and how important; None: not said.
        meta: The block's `_meta`, JSON-able; None: none.

    Raises:
        TypeError: `data` is no bytes.
    """


class Audio(_Bytes, frozen=True, tag="audio", tag_field="type"):
    """Sound (since 2025-03-26); the arguments are those of `Image`, with a type such as ``audio/wav``."""


class ResourceContents(Struct, frozen=True, rename="camel", omit_defaults=True):
    """What stands at a URI: `text`, or bytes as `blob`.

    Args:
        uri: Where it stands.
        text: What it says, or None.
        blob: Its bytes as they are, or None; they go out as base64.
        mime_type: E.g. ``text/plain``; None: not known.
        meta: Its `_meta`, JSON-able; None: none.

    Raises:
        TypeError: Neither `text` nor `blob` is given, or both are, or `blob` is no bytes.
    """

    uri: str
    text: str | None = None
    blob: bytes | None = None
    mime_type: str | None = None
    meta: dict[str, Any] | None = msgspec.field(default=None, name="_meta")

    def __post_init__(self) -> None:
        if (self.text is None) == (self.blob is None):
            raise TypeError("a resource has either text or blob")
        if self.blob is not None:
            _check_bytes("blob", self.blob)


class EmbeddedResource(Struct, frozen=True, tag="resource", tag_field="type", omit_defaults=True):
    """A resource with what it contains.

    Args:
        resource: The contents.
        annotations: For whom it is, and how important; None: not said.
        meta: The block's `_meta`, JSON-able; None: none.
    """

    __tailrace_content__: ClassVar[bool] = True

    resource: ResourceContents
    annotations: Annotations | None = None
    meta: dict[str, Any] | None = msgspec.field(default=None, name="_meta")


class ResourceLink(Struct, frozen=True, tag="resource_link", tag_field="type", rename="camel", omit_defaults=True):
    """A resource that the client may read for itself (since 2025-06-18).

    Args:
        uri: Where it stands.
        name: For programs.
        title: For people; None: the name.
        description: What it is, for a model; None: not said.
        mime_type: E.g. ``text/plain``; None: not known.
        size: In bytes; None: not known.
        annotations: For whom it is, and how important; None: not said.
        meta: The block's `_meta`, JSON-able; None: none.
    """

    __tailrace_content__: ClassVar[bool] = True

    uri: str
    name: str
    title: str | None = None
    description: str | None = None
    mime_type: str | None = None
    size: int | None = None
    annotations: Annotations | None = None
    meta: dict[str, Any] | None = msgspec.field(default=None, name="_meta")


class PromptMessage(Struct, frozen=True):
    """One message of a prompt.

    Args:
        content: A string, or a block.
        role: Who says it: ``user`` (default) or ``assistant``.
    """

    __tailrace_content__: ClassVar[bool] = True

    content: Text | Image | Audio | EmbeddedResource | ResourceLink | str
    role: Literal["user", "assistant"] = "user"


class PromptResponse(Struct, frozen=True):
    """All that a prompt can answer, where its messages alone do not say enough.

    Args:
        messages: A string, a block, a `PromptMessage`, or a list of these.
        description: Of what was written; None: the prompt's own.
        meta: The result's `_meta`, JSON-able; None: none.
    """

    messages: Any
    description: str | None = None
    meta: dict[str, Any] | None = None


class ToolResponse(Struct, frozen=True):
    """All that a tool can answer, where a plain value does not say enough.

    Args:
        content: A string, a block, or a list of these; None: nothing.
        structured: For programs, JSON-able; what is no object goes out as ``{"result": …}``. None: nothing.
        is_error: It is the tool's failure that is told.
        meta: The result's `_meta`, JSON-able; None: none.
    """

    __tailrace_content__: ClassVar[bool] = True

    content: Any = None
    structured: Any = None
    is_error: bool = False
    meta: dict[str, Any] | None = None


class Icon(Struct, frozen=True, rename="camel", omit_defaults=True):
    """A picture that stands for a tool, a resource, a prompt or a service (since 2025-11-25).

    Args:
        src: Where it is: an ``https:`` or ``data:`` URI.
        mime_type: E.g. ``image/png``; None: as `src` says.
        sizes: E.g. ``["48x48"]`` or ``["any"]``; None: any.
        theme: The background it is made for; None: any.
    """

    src: str
    mime_type: str | None = None
    sizes: list[str] | None = None
    theme: Literal["light", "dark"] | None = None


BLOCKS = (Text, Image, Audio, EmbeddedResource, ResourceLink)


def _check_bytes(name: str, given: Any) -> None:
    if not isinstance(given, (bytes, bytearray, memoryview)):
        raise TypeError(f"{name} is the bytes themselves (base64 is made of them), got {type(given).__name__}")
