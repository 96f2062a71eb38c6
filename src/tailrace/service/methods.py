"""What a service offers over RPC: one frozen `Method` for each function, whichever way it was defined.

A function becomes a method by ``@svc.rpc``, by ``@svc.tool`` (unless ``rpc=False``), or as the
implementation of a service that a ``.proto`` file defines (``svc.implement``). How a method is run, and how
its messages travel, is left to the protocol.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

from tailrace.errors import DefinitionError
from tailrace.service.naming import pascal_case

if TYPE_CHECKING:
    from tailrace.schema.messages import MessageType
    from tailrace.service.building import Built
    from tailrace.service.definitions import Tool
    from tailrace.service.exporting import Lock
    from tailrace.service.signatures import Definition

__all__ = ["Kind", "Method", "Methods", "RpcOptions"]

logger = logging.getLogger("tailrace.service")

Kind: TypeAlias = Literal["unary", "client_stream", "server_stream", "bidi"]


class RpcOptions(TypedDict, total=False):
    """What ``@svc.rpc(...)`` takes; all of it is optional.

    Keys:
        name: The method's name. Default: the function's, in the style of protobuf (``place_order``: ``PlaceOrder``).
        once: True: a retry with the same ``Idempotency-Key`` runs once. A string: the field that holds the key.
        read_only: It changes nothing: a Connect client may GET it.
        timeout: Seconds a call may take, above 0. Default: None, no limit but the caller's.
    """

    name: str | None
    once: bool | str
    read_only: bool | None
    timeout: float | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One function that programs call over RPC.

    Attributes:
        path: ``package.Service/Method``, without the slash in front.
        service: Full name of its service, e.g. ``orders.v1.Orders``.
        name: Of the method alone.
        kind: Who streams: nobody, the client, the server, or both.
        input: Type of the request messages.
        output: Type of the response messages.
        bind: A request message's value to keyword arguments; not for streams of requests.
        fn: The function as it was written.
        place: Its name, file and line, for messages.
        context_param: The parameter that takes the `Context`, or None.
        stream_param: The parameter that takes the iterator of requests, or None where the client does not stream.
        is_async: It is a coroutine function. A plain one is run in a thread.
        is_generator: It is an asynchronous generator: its items are the responses.
        timeout: Seconds, or None.
        once: As in `RpcOptions`.
        read_only: As in `RpcOptions`.
        tool: The tool that it is as well, or None.
    """

    path: str
    service: str
    name: str
    kind: Kind
    input: MessageType
    output: MessageType
    bind: Callable[[Any], dict[str, Any]]
    fn: Callable[..., Any]
    place: str
    context_param: str | None
    stream_param: str | None
    is_async: bool
    is_generator: bool
    timeout: float | None = None
    once: bool | str = False
    read_only: bool | None = None
    tool: Tool | None = None


class Methods(Mapping[str, Method]):
    """All methods of a service by path: a live view, put together when it is first looked into.

    Only then is protobuf loaded. A tool whose types have no protobuf form is no method; that is logged once.

    Args:
        service: The service's name, of which its RPC name is made.
        package: Its protobuf package, or None.
        tools: Its tools, as they are at any time.
        lock: The file that keeps the numbers of its fields, or None: they are numbered in order of declaration.

    Attributes:
        full_name: Of the RPC service in which ``@svc.rpc`` and ``@svc.tool`` put their methods.
        services: Full names of all services that have methods, or would have; nothing is put together for it.
    """

    def __init__(self, service: str, package: str | None, tools: Mapping[str, Tool], lock: Lock | None = None) -> None:
        self.package = package
        self.lock = lock
        self.full_name = ".".join(filter(None, (package, pascal_case(service))))
        self.services = frozenset({self.full_name})
        self.tools = tools
        self.definitions: dict[str, Definition] = {}
        self.implemented: dict[str, Method] = {}
        self.files: dict[str, Any] = {}  # FileDescriptor objects of the services that are implemented
        self._table: dict[str, Method] | None = None
        self._built: Built | None = None
        self._told: set[str] = set()

    # --- looking ---

    def __getitem__(self, path: str) -> Method:
        return (self._build() if self._table is None else self._table)[path]

    def get(self, path: str, default: Any = None) -> Any:  # a look-up for each request: not by way of an exception
        if self._table is None and path.rpartition("/")[0] not in self.services:
            return default
        return (self._build() if self._table is None else self._table).get(path, default)

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str) and self.get(path) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._build() if self._table is None else self._table)

    def __len__(self) -> int:
        return len(self._build() if self._table is None else self._table)

    def prepare(self) -> None:
        """Put it together now, if RPC was asked for: what cannot work is told when a server starts, not later."""
        if self.definitions or self.implemented or self.lock is not None:
            self._build()

    @property
    def built(self) -> Built:
        """The methods' messages and descriptors, and which tools are no methods."""
        self._build()
        assert self._built is not None
        return self._built

    # --- adding ---

    def define(self, definition: Definition) -> None:
        """Add a function of ``@svc.rpc``.

        Raises:
            DefinitionError: There is a method at its path.
        """
        path = f"{self.full_name}/{definition.name}"
        self._check_free(path, definition.place)
        self.definitions[path] = definition
        self.changed()

    def implement(self, methods: list[Method], file: Any) -> None:
        """Add the methods of a service that a ``.proto`` file defines.

        Raises:
            DefinitionError: There is a method at the path of one of them.
        """
        for method in methods:
            self._check_free(method.path, method.place)
        self.implemented.update((method.path, method) for method in methods)
        self.services |= {method.service for method in methods}
        self.files[file.name] = file
        self.changed()

    def changed(self) -> None:
        """What is offered changed: it is put together anew when it is next looked into."""
        self._table = None

    def _check_free(self, path: str, place: str) -> None:
        known = self.definitions.get(path) or self.implemented.get(path)
        if known is not None:
            raise DefinitionError(f"method {path!r} is defined twice: {known.place} and {place}")

    def _build(self) -> dict[str, Method]:
        if self._table is not None:
            return self._table
        from tailrace.service.building import build

        self._built = built = build(self)
        for place, reason in built.left_out:
            if place not in self._told:
                self._told.add(place)
                logger.info("a tool is no RPC method: %s", reason)
        self._table = {**{method.path: method for method in built.methods}, **self.implemented}
        return self._table
