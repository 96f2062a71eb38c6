"""The functions that a service calls as the lives of its sessions go on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

__all__ = ["Hooks"]


@dataclasses.dataclass(frozen=True, slots=True)
class Hooks:
    """The functions to call with a `Session` as its life goes on, each list in order of definition."""

    register: list[Callable[[Any], Any]] = dataclasses.field(default_factory=list[Callable[[Any], Any]])
    unregister: list[Callable[[Any], Any]] = dataclasses.field(default_factory=list[Callable[[Any], Any]])
    restore: list[Callable[[Any], Any]] = dataclasses.field(default_factory=list[Callable[[Any], Any]])
    notified: dict[str, Callable[..., Any]] = dataclasses.field(default_factory=dict[str, Callable[..., Any]])

    def extend(self, other: Hooks) -> None:
        """Call those of another service as well, behind these."""
        self.register.extend(other.register)
        self.unregister.extend(other.unregister)
        self.restore.extend(other.restore)
        self.notified.update(other.notified)
