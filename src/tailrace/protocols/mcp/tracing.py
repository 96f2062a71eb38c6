"""Spans of MCP calls, by the semantic conventions for MCP (OpenTelemetry, semantic-conventions-genai)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tailrace.core.trace import Tracer
    from tailrace.protocols.mcp.call import McpCall

__all__ = ["begin_span"]

_TOOL = "tools/call"
_READ = "resources/read"
_PROMPT = "prompts/get"


def begin_span(tracer: Tracer, call: McpCall) -> None:
    """Begin the call's span; what happens in the call belongs to it.

    Its name ends with the tool's or the prompt's; a URI, of which there are too many, is an attribute only.
    """
    context, method = call.context, call.METHOD
    name = f"{method} {call.target.name}" if method in (_TOOL, _PROMPT) else method
    call.span = tracer.begin(
        "server",
        name,
        context.own_values,
        {"mcp.method.name": method, **_target(call), "jsonrpc.request.id": str(call.request_id)[:128]},
    )
    context.set_values({**context.own_values, **call.span.values})


def _target(call: McpCall) -> dict[str, str]:
    if call.METHOD == _TOOL:
        return {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": call.target.name}
    if call.METHOD == _READ:
        return {"mcp.resource.uri": call.target.name}
    return {"gen_ai.prompt.name": call.target.name} if call.METHOD == _PROMPT else {}
