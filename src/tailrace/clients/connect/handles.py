"""Methods with their types: what a generated stub is made of, and what a program may write by hand.

place = UnaryMethod("orders.v1.Orders/Place", Place, Order)
order = await place(client, Place(item="tea"))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from typing import Unpack

    from tailrace.clients.connect.client import Client
    from tailrace.clients.connect.options import CallOptions
    from tailrace.clients.connect.streams import BidiStream, ClientStream, ServerStream

__all__ = ["BidiMethod", "ClientStreamMethod", "ServerStreamMethod", "UnaryMethod"]

Request = TypeVar("Request")
Response = TypeVar("Response")


@dataclass(frozen=True, slots=True)
class _Method(Generic[Request, Response]):
    """What all methods have.

    Args:
        path: ``package.Service/Method``.
        request: The type of its requests.
        response: The type of its answers.
    """

    path: str
    request: type[Request]
    response: type[Response]


@dataclass(frozen=True, slots=True)
class UnaryMethod(_Method[Request, Response]):
    """One message out, one in.

    Args:
        path, request, response: As all methods have them.
        idempotent: It may run twice: it is retried.
        get: It has no side effects: it is called by GET where that is possible.
    """

    idempotent: bool = False
    get: bool = False

    async def __call__(
        self,
        client: Client,
        message: Request,
        *,
        idempotency_key: str | None = None,
        **options: Unpack[CallOptions],
    ) -> Response:
        """Call it; see `Client.unary`."""
        return await client.unary(
            self.path,
            message,
            response=self.response,
            request=self.request,
            idempotency_key=idempotency_key,
            idempotent=self.idempotent,
            get=self.get,
            **options,
        )


@dataclass(frozen=True, slots=True)
class ServerStreamMethod(_Method[Request, Response]):
    """One message out, many in."""

    def __call__(
        self, client: Client, message: Request, **options: Unpack[CallOptions]
    ) -> ServerStream[Request, Response]:
        """Call it; see `Client.server_stream`."""
        return client.server_stream(self.path, message, response=self.response, request=self.request, **options)


@dataclass(frozen=True, slots=True)
class ClientStreamMethod(_Method[Request, Response]):
    """Many messages out, one in."""

    def __call__(self, client: Client, **options: Unpack[CallOptions]) -> ClientStream[Request, Response]:
        """Call it; see `Client.client_stream`."""
        return client.client_stream(self.path, request=self.request, response=self.response, **options)


@dataclass(frozen=True, slots=True)
class BidiMethod(_Method[Request, Response]):
    """Many messages out and in."""

    def __call__(self, client: Client, **options: Unpack[CallOptions]) -> BidiStream[Request, Response]:
        """Call it; see `Client.bidi`."""
        return client.bidi(self.path, request=self.request, response=self.response, **options)
