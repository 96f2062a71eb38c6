"""Who sees what: filters hide what a viewer may not have, a session may have things of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    from tailrace.core.session import Session
    from tailrace.service.definitions import Definition, Tool
    from tailrace.service.prompts import Prompt
    from tailrace.service.resources import Resource

__all__ = ["Filter", "Offered", "View", "Viewer"]

logger = logging.getLogger("tailrace.service")

T = TypeVar("T", bound="Definition")


class Viewer(NamedTuple):
    """Who asks.

    Attributes:
        principal: Whom the bearer token belongs to; empty where nobody has to show one.
        session: The session, or None (2026-07-28 has none).
    """

    principal: str
    session: Session | None


Filter: TypeAlias = "Callable[[Definition, Viewer], bool]"


class Offered(Protocol):
    """What somebody can ask for; a `Catalog` as a whole, or a `View`."""

    @property
    def tools(self) -> Mapping[str, Tool]: ...
    @property
    def resources(self) -> Mapping[str, Resource]: ...
    @property
    def prompts(self) -> Mapping[str, Prompt]: ...


class View:
    """What one viewer can ask for.

    Args:
        common: What the service offers.
        own: What the session has beside, and instead where the name is the same; None: nothing.
        filters: All of them have to agree.
        viewer: Who asks.
    """

    def __init__(self, common: Offered, own: Offered | None, filters: Sequence[Filter], viewer: Viewer) -> None:
        self._common = common
        self._own = own
        self._filters = filters
        self._viewer = viewer

    @property
    def tools(self) -> Mapping[str, Tool]:
        """By name."""
        return self._seen(self._common.tools, self._own.tools if self._own is not None else {})

    @property
    def resources(self) -> Mapping[str, Resource]:
        """By URI or template."""
        return self._seen(self._common.resources, self._own.resources if self._own is not None else {})

    @property
    def prompts(self) -> Mapping[str, Prompt]:
        """By name."""
        return self._seen(self._common.prompts, self._own.prompts if self._own is not None else {})

    def _seen(self, common: Mapping[str, T], own: Mapping[str, T]) -> Mapping[str, T]:
        return {key: one for key, one in {**common, **own}.items() if self._shows(one)}

    def _shows(self, one: Any) -> bool:
        """A filter that fails hides: nobody sees more for a fault of it."""
        try:
            return all(shows(one, self._viewer) for shows in self._filters)
        except Exception:
            logger.exception("a filter failed, so what it was asked for is hidden name=%s", one.name)
            return False
