"""All methods that a server answers: the service's own, and those that every gRPC server has.

A look-up for a path that belongs to no service here costs a set's look, and loads nothing: an MCP-only server
that is asked for any path stays without protobuf.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tailrace.protocols.connect.health import HEALTH_SERVICE, Health
from tailrace.protocols.connect.reflection import REFLECTION_SERVICES, Index, reflection_methods
from tailrace.schema.descriptors import with_dependencies

if TYPE_CHECKING:
    from tailrace.service.methods import Method, Methods

__all__ = ["ServedMethods"]

_OWN = frozenset({HEALTH_SERVICE, *REFLECTION_SERVICES})


class ServedMethods:
    """Methods by path, the server's own among them.

    Args:
        methods: The service's, a live view; they come first.
        serving: Whether the server serves (for health).

    Attributes:
        health: To be told of changes.
    """

    def __init__(self, methods: Methods, serving: Callable[[], bool]) -> None:
        self._methods = methods
        self.health = Health(serving, lambda: self.services)
        self._system: dict[str, Method] | None = None
        self._index: tuple[object, Index] | None = None

    @property
    def services(self) -> frozenset[str]:
        """Full names of all services; what they have is not looked into."""
        return self._methods.services | _OWN

    def get(self, path: str) -> Method | None:
        """The method at a path (without the slash in front), or None."""
        method = self._methods.get(path)
        if method is None and path.rpartition("/")[0] in _OWN:
            return self._systems().get(path)
        return method

    def __contains__(self, path: str) -> bool:
        return self.get(path) is not None

    def _systems(self) -> dict[str, Method]:
        if self._system is None:
            methods = [*self.health.methods(), *reflection_methods(self.index)]
            self._system = {method.path: method for method in methods}
        return self._system

    def index(self) -> Index:
        """What reflection tells, as it is now."""
        built = self._methods.built
        if self._index is None or self._index[0] is not built:
            own = {
                method.input.descriptor.file.name: method.input.descriptor.file for method in self._systems().values()
            }
            files = built.files + [file for name, file in own.items() if name not in {one.name for one in built.files}]
            self._index = (built, Index.of(with_dependencies(files)))
        return self._index[1]
