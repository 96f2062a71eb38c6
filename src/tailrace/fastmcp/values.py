"""What functions written for FastMCP return, and what it is here."""

from __future__ import annotations

import dataclasses
import mimetypes
import os
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec

from tailrace.wire import content

__all__ = ["AssistantMessage", "Audio", "Image", "Message", "ToolResult", "UserMessage", "to_ours"]

_BLOCKS = content.Text | content.Image | content.Audio | content.EmbeddedResource | content.ResourceLink
_TYPES = {"jpg": "jpeg", "svg": "svg+xml", "tif": "tiff"}


class _File:
    """A file that is returned: by its path, or its bytes."""

    __tailrace_content__: ClassVar[bool] = True
    _block: ClassVar[Any]
    _family: ClassVar[str]
    _default: ClassVar[str]

    def __init__(
        self, path: str | os.PathLike[str] | None = None, data: bytes | None = None, format: str | None = None
    ) -> None:
        if (path is None) == (data is None):
            raise ValueError(f"{type(self).__name__} takes either path= or data=")
        self.path = None if path is None else Path(os.path.expandvars(path)).expanduser()
        self.data = data
        self.format = format

    def to_ours(self) -> Any:
        """The block of `tailrace`; reads the file."""
        data = self.data if self.path is None else self.path.read_bytes()
        return self._block(data, self._mime_type())

    def _mime_type(self) -> str:
        if self.format is not None:
            return f"{self._family}/{_TYPES.get(self.format.lower(), self.format.lower())}"
        if self.path is None:
            return self._default
        return mimetypes.guess_type(self.path.name)[0] or "application/octet-stream"


class Image(_File):
    """A picture, as FastMCP has it.

    Args:
        path: Of its file, read when the tool returns. Either this or `data`.
        data: Its bytes.
        format: E.g. ``png``. Default: by the path's ending; PNG for bytes.

    Raises:
        ValueError: Neither `path` nor `data` is given, or both are.
    """

    _block = content.Image
    _family = "image"
    _default = "image/png"


class Audio(_File):
    """Sound, as FastMCP has it; the arguments are those of `Image`, and bytes are WAV by default."""

    _block = content.Audio
    _family = "audio"
    _default = "audio/wav"


@dataclasses.dataclass
class ToolResult:
    """All that a tool answers, as FastMCP has it.

    Args:
        content: A string, a block, or a list of these; None: nothing.
        structured_content: For programs, JSON-able.
        meta: The result's `_meta`.
        is_error: It is the tool's failure that is told.
    """

    __tailrace_content__: ClassVar[bool] = True

    content: Any = None
    structured_content: Any = None
    meta: dict[str, Any] | None = None
    is_error: bool = False

    def to_ours(self) -> content.ToolResponse:
        """The answer of `tailrace`; without content, the structured part is told as text, as everywhere."""
        told = self.structured_content if self.content is None else self.content
        if not isinstance(told, (str, list, _BLOCKS, _File)) and told is not None:
            told = msgspec.json.encode(told).decode()
        return content.ToolResponse(to_ours(told), self.structured_content, self.is_error, self.meta)


@dataclasses.dataclass
class Message:
    """One message of a prompt, as FastMCP has it.

    Args:
        content: A string, a block, or anything that is told as JSON.
        role: Who says it.
    """

    __tailrace_content__: ClassVar[bool] = True

    content: Any
    role: Literal["user", "assistant"] = "user"

    def to_ours(self) -> content.PromptMessage:
        """The message of `tailrace`."""
        told = to_ours(self.content)
        if not isinstance(told, (str, _BLOCKS)):
            told = msgspec.json.encode(told).decode()
        return content.PromptMessage(told, self.role)


class UserMessage(Message):
    """A message of the user's, as the official SDK has it."""


class AssistantMessage(Message):
    """A message of the model's, as the official SDK has it."""

    def __init__(self, content: Any) -> None:
        super().__init__(content, "assistant")


def to_ours(value: Any) -> Any:
    """What a function written for FastMCP returned, as `tailrace` has it; also inside of lists."""
    if isinstance(value, (_File, ToolResult, Message)):
        return value.to_ours()
    if type(value) in (list, tuple):
        return [to_ours(one) for one in value]
    return value
