"""The servers of a service, as far as it knows them: what it tells them, and what they say in numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from tailrace.core.session import Session

__all__ = ["RunningServer", "statistics_of"]


class RunningServer(Protocol):
    """What a `Service` asks of a server that serves it."""

    async def broadcast(self, method: str, params: Any) -> None:
        """Send a notification to every session, and to the streams that asked for its kind."""
        ...

    def updated(self, uri: str) -> None:
        """What stands at `uri` has changed; called in any thread."""
        ...

    def changed(self, kind: str, session: Session | None = None) -> None:
        """A list (``tools``, ``resources``, ``prompts``) of what the service offers has changed, for everybody or for
        one session; called in any thread."""
        ...

    def statistics(self) -> Mapping[str, Mapping[str, Any]]:
        """Numbers for people, under the keys of `Service.statistics`."""
        ...


def statistics_of(servers: Iterable[RunningServer]) -> dict[str, dict[str, Any]]:
    """The numbers of all of them, added up; zero without any."""
    total: dict[str, dict[str, Any]] = {
        "sessions": {"open": 0},
        "calls": {"running": 0},
        "streams": {"open": 0},
        "detached": {"running": 0},
        "log_bytes": {"held": 0},
        "store": {"name": "none"},
        "outbox": {"waiting": 0},
    }
    for running in servers:
        for section, numbers in running.statistics().items():
            _add_up(total.setdefault(section, {}), numbers)
    return total


def _add_up(total: dict[str, Any], numbers: Mapping[str, Any]) -> None:
    for name, value in numbers.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        total[name] = total.get(name, 0) + value if is_number else value
