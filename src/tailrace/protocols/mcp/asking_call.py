"""A call whose handler may ask its client, and may run again for that: by a request where there is a session, by ending
with its questions in the modern era. What it did before the question is kept as steps.

What the questions look like is `asking`'s, what a leg knows of those before it `legs`'s.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from msgspec import UNSET, Raw, UnsetType

from tailrace.core.asked import ClientInfo
from tailrace.core.call import Call
from tailrace.errors import CapabilityError, ClientGone, DeadlineExceeded
from tailrace.protocols.mcp.failures import PeerCancelled
from tailrace.protocols.mcp.legs import InputRequired, leg_of
from tailrace.protocols.mcp.records import decode_state

if TYPE_CHECKING:
    from tailrace.core.asked import ElicitResult, Root, SampleResult
    from tailrace.protocols.mcp.asking import Asking
    from tailrace.protocols.mcp.dialect import Dialect
    from tailrace.protocols.mcp.legs import Leg, Question
    from tailrace.wire import mcp

__all__ = ["AskingCall", "Target"]

_FOR_GOOD = (ClientGone, DeadlineExceeded, PeerCancelled)  # what cancels a call that was never asked for again


class Target(Protocol):
    """What is called, as far as any call has to know it; `service.Definition` fulfils it."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def journal(self) -> bool:
        """Its calls survive a crash."""
        ...


class AskingCall(Call):
    """A call that knows its client.

    Attributes:
        METHOD: The method that asks for it.
        LEGS: Its handler may ask its client in the modern era.
        target: What is called.
        arguments: Still raw; what tells it, beside the target's name, from other calls of the same method.
        meta: The request's `_meta`.
        dialect: How its result is written.
        asking: How its handler asks its client.
        leg: What it knows of the legs before it, once that matters (modern).
    """

    __slots__ = ("arguments", "asking", "dialect", "leg", "meta", "target")

    METHOD: ClassVar[str] = ""
    LEGS: ClassVar[bool] = True

    target: Any
    arguments: Raw | UnsetType
    meta: mcp.Meta
    dialect: Dialect
    asking: Asking
    leg: Leg | None

    @property
    def paused(self) -> bool:
        """It has ended with a question to its client."""
        return isinstance(self.cancelled_by, InputRequired)

    @property
    def reruns(self) -> bool:
        """It may run again after a crash; what only reads may."""
        return True

    # --- what is asked ---

    @property
    def client(self) -> ClientInfo | None:
        """From its request's `_meta` (modern), or from what its session began with."""
        if self.dialect.modern:
            meta = self.meta
            info: Mapping[str, Any] = {} if meta.client_info is UNSET else meta.client_info
            protocol = "" if meta.protocol_version is UNSET else meta.protocol_version
        elif self.session is None:
            return None
        else:
            info, protocol = self.session.record.client, self.session.record.version
        name, version = str(info.get("name", ""))[:1000], str(info.get("version", ""))[:1000]
        return ClientInfo(name, version, protocol, dict(self.client_capabilities))

    @property
    def client_capabilities(self) -> Mapping[str, Any]:
        """What the client of the call can be asked."""
        if self.dialect.modern:
            declared = self.meta.client_capabilities
            return {} if declared is UNSET else declared
        if self.session is None:
            raise CapabilityError("this call has no session whose client could be asked")
        return decode_state(self.session.record.capabilities)

    @property
    def asks_modern(self) -> bool:
        """Its client is asked by ending the call, and not by a request."""
        return self.dialect.modern

    async def settled(self) -> None:
        """Return once it is known how its client is asked."""

    async def ask(self, question: Question, timeout: float | None) -> Any:
        """Put a question to the client: by a request where there is a session, else by ending this leg of the call."""
        if self.dialect.modern:
            return await self.legged().ask(self, question)
        return await self.asking.ask(self, question, timeout)

    def legged(self) -> Leg:
        """The leg that it is, of a modern call."""
        if self.leg is None:
            self.leg = leg_of(self)
        return self.leg

    @property
    def can_pause(self) -> bool:
        """Its request waits for an answer that may be a question."""
        return True

    def expire(self, error: Exception) -> None:
        """Its time is over. A handler that does not let go is not waited for."""
        self.pause(error, self.asking.endpoint.settings.grace)

    def pause(self, error: Exception, grace: float) -> None:
        """End it, or this leg of it, with `error`, within `grace` seconds also where its handler does not let go."""
        self.cancel(error)
        if self.cancelled_by is error and not self.over:
            asyncio.get_running_loop().call_later(grace, self.abandon, error, context=contextvars.Context())

    async def elicit(self, message: str, schema: Any, timeout: float | None, key: str | None) -> ElicitResult:
        """As `Asking` has it."""
        return await self.asking.elicit(self, message, schema, timeout, key)

    async def elicit_url(self, message: str, url: str, timeout: float | None, key: str | None) -> ElicitResult:
        """As `Asking` has it."""
        return await self.asking.elicit_url(self, message, url, timeout, key)

    async def sample(self, params: Mapping[str, Any], timeout: float | None, key: str | None) -> SampleResult:
        """As `Asking` has it."""
        return await self.asking.sample(self, params, timeout, key)

    async def list_roots(self, timeout: float | None, key: str | None) -> list[Root]:
        """As `Asking` has it."""
        return await self.asking.list_roots(self, timeout, key)

    @property
    def identity(self) -> str | None:
        """Names the call over all runs of its handler, where there may be another; None where this is the only one."""
        if self.dialect.modern:
            return f"call {self.legged().identity}"
        if self.session is not None and self.reruns and self.session.log.journal is not None:
            return f"session {self.session.id} {self.number}"
        return None

    async def step(self, name: str, fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Run a part of the handler once over all its runs."""
        identity = self.identity
        if identity is None:
            return await super().step(name, fn, args)
        self.take_step(name)
        return await self.asking.steps.run(self.context, identity, name, fn, args)

    def _answer(self, payload: bytes | None) -> None:
        super()._answer(payload)
        if self.steps is not None:  # behind the answer, so that no crash lies between the two
            self.forget_steps()

    def forget_steps(self) -> None:
        """It has ended; if its client cannot come back for more of it, its steps are of no use."""
        identity = self.identity
        over = self.cancelled_by is None or isinstance(self.cancelled_by, _FOR_GOOD)
        if self.steps and identity is not None and over and (self.leg is None or self.leg.first):
            self.asking.steps.forget(identity, self.steps)
