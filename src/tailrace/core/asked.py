"""What a handler gets when it asks the client of its call: plain values, whatever the wire said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["ClientInfo", "ElicitResult", "Root", "SampleResult"]


@dataclass(frozen=True, slots=True)
class ClientInfo:
    """What the client of a call says of itself. Nobody has checked it.

    Attributes:
        name: Of the program; empty if it does not say.
        version: Of the program; empty if it does not say.
        protocol: The version of MCP that the call is made in.
        capabilities: What it can be asked, as MCP has it (``elicitation``, ``sampling``, ``roots``, …).
    """

    name: str
    version: str
    protocol: str
    capabilities: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ElicitResult:
    """What the user said to `Context.elicit` (MCP, elicitation).

    Attributes:
        action: ``accept``, ``decline`` or ``cancel``.
        data: What was filled in, in the form that was asked for; None unless accepted.
    """

    action: str
    data: Any = None

    @property
    def accepted(self) -> bool:
        """The user filled the form in."""
        return self.action == "accept"


@dataclass(frozen=True, slots=True)
class SampleResult:
    """What the client's model answered to `Context.sample` (MCP, sampling).

    Attributes:
        role: ``assistant``, as a rule.
        content: The content block (or a list of them), as JSON: ``{"type": "text", "text": …}``.
        model: Which model it was.
        stop_reason: Why it ended, or None.
    """

    role: str
    content: Any
    model: str
    stop_reason: str | None = None

    @property
    def text(self) -> str:
        """The text of it."""
        blocks: list[Any] = self.content if isinstance(self.content, list) else [self.content]  # pyright: ignore
        return "".join(block.get("text", "") for block in blocks)


@dataclass(frozen=True, slots=True)
class Root:
    """A place that the client lets the server work in (MCP, roots).

    Attributes:
        uri: ``file://…``
        name: For people, or None.
    """

    uri: str
    name: str | None = None
