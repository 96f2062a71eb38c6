"""What a handler asks the client of its call: elicitation, sampling, roots.

How a question gets there, and what counts as an answer, is the protocol's; what the answers look like is `asked`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tailrace.core.asked import ElicitResult, Root, SampleResult
    from tailrace.core.call import Call

__all__ = ["Questions"]


class Questions:
    """The questions that a `Context` puts.

    Attributes:
        call: Whose client is asked.
    """

    __slots__ = ()

    call: Call | None

    async def elicit(
        self, message: str, schema: Any = None, *, timeout: float | None = None, key: str | None = None
    ) -> ElicitResult:
        """Ask the user of the call's client (MCP, elicitation; from 2025-06-18 on).

        From 2026-07-28 on the handler ends here if the client has not answered yet, and runs again from its beginning
        when it has: effects belong behind the last question, or into `step`.

        Args:
            message: What the user reads.
            schema: What to fill in: a dataclass, a struct or a pydantic model with simple fields, a simple type, or a
                flat JSON Schema; None for a mere yes or no.
            timeout: Seconds; by default `Settings.ask_time` (300). Where the handler runs again, nobody waits, and it
                has no meaning.
            key: Names the question in what a client of 2026-07-28 is sent; by default made of what is asked.

        Raises:
            CapabilityError: The client did not declare that it can, or the call has no client that could be asked.
            RequestRefused: It answered with an error, or with what does not fit.
            LimitError: Too many requests to this client wait already; the call has asked too often.
            TimeoutError: It did not answer in time; it is told that nobody waits any more.
            RuntimeError: Outside of a served call.
        """
        return await self._asker("elicit").elicit(message, schema, timeout, key)

    async def elicit_url(
        self, message: str, url: str, *, timeout: float | None = None, key: str | None = None
    ) -> ElicitResult:
        """Ask the user to do something on a page, e.g. to sign in, which no form may ask for (MCP, elicitation by URL;
        from 2025-11-25 on). Accepted means that the user went there, not that it is done. Raises as `elicit` does.

        Args:
            message: What the user reads, and decides by.
            url: The page.
            timeout, key: As for `elicit`.
        """
        return await self._asker("elicit_url").elicit_url(message, url, timeout, key)

    async def sample(
        self,
        messages: Any,
        *,
        max_tokens: int = 1024,
        system_prompt: str | None = None,
        temperature: float | None = None,
        stop_sequences: Sequence[str] | None = None,
        model_preferences: Mapping[str, Any] | None = None,
        include_context: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        key: str | None = None,
    ) -> SampleResult:
        """Ask the model of the call's client (MCP, sampling). Raises as `elicit` does.

        Args:
            messages: A string or a content block (the user's), a message as JSON, or a list of these.
            max_tokens: The most that it may answer.
            system_prompt: What the client may put before it.
            temperature: As models have it.
            stop_sequences: What ends the answer.
            model_preferences: `hints`, `costPriority`, `speedPriority`, `intelligencePriority`.
            include_context: ``none``, ``thisServer`` or ``allServers``.
            tools: Tools that the model may want called, as `tools/list` has them; of a client that declares
                ``sampling.tools`` only. What it wants is in the result's `content`.
            tool_choice: ``{"mode": "auto" | "required" | "none"}``.
            timeout, key: As for `elicit`.
        """
        params = {
            "messages": messages,
            "maxTokens": max_tokens,
            "systemPrompt": system_prompt,
            "temperature": temperature,
            "stopSequences": stop_sequences,
            "modelPreferences": model_preferences,
            "includeContext": include_context,
            "tools": tools,
            "toolChoice": tool_choice,
        }
        return await self._asker("sample").sample(params, timeout, key)

    async def list_roots(self, *, timeout: float | None = None, key: str | None = None) -> list[Root]:
        """Ask where the call's client lets the server work (MCP, roots). Raises as `elicit` does.

        Args:
            timeout, key: As for `elicit`.
        """
        return await self._asker("list_roots").list_roots(timeout, key)

    def _asker(self, name: str) -> Call:
        if self.call is None:
            raise RuntimeError(f"{name}() needs a running call: only that has a client to ask, and steps")
        return self.call
