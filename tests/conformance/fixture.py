"""The service that the conformance suite asks for, as far as tools go; each scenario says what its tool has to do."""

from __future__ import annotations

import asyncio
import base64
from typing import Annotated, Any

from msgspec import Meta

from tailrace import Audio, Context, EmbeddedResource, Image, LimitError, ResourceContents, Service, ToolError

STEP = 0.05  # seconds between two notifications; the scenarios ask for it
PNG = base64.b64decode(  # one red pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
)
WAV = b"RIFF&\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0@\x1f\0\0@\x1f\0\0\1\0\x08\0data\2\0\0\0\x80\x80"  # two samples of silence

svc = Service("conformance", version="1.0.0")


@svc.tool
async def test_simple_text() -> str:
    """A text."""
    return "This is a simple text response for testing."


@svc.tool
async def test_image_content() -> Image:
    """A picture."""
    return Image(PNG, "image/png")


@svc.tool
async def test_audio_content() -> Audio:
    """Sound."""
    return Audio(WAV, "audio/wav")


@svc.tool
async def test_embedded_resource() -> EmbeddedResource:
    """A resource with what it contains."""
    text = "This is an embedded resource content."
    return EmbeddedResource(ResourceContents("test://embedded-resource", text, mime_type="text/plain"))


@svc.tool
async def test_multiple_content_types() -> list[str | Image | EmbeddedResource]:
    """A text, a picture and a resource."""
    data = '{"test":"data","value":123}'
    resource = ResourceContents("test://mixed-content-resource", data, mime_type="application/json")
    return ["Multiple content types test:", Image(PNG, "image/png"), EmbeddedResource(resource)]


@svc.tool
async def test_error_handling() -> str:
    """Always fails."""
    raise ToolError("This tool intentionally returns an error for testing")


@svc.tool
async def test_tool_with_logging(ctx: Context) -> str:
    """Three log records on its way."""
    for text in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await ctx.log("info", text)
        await asyncio.sleep(STEP)
    return "Tool with logging executed successfully"


@svc.tool
async def test_logging_tool(ctx: Context) -> str:
    """Two log records, which a modern client gets only if its request asks for them."""
    await ctx.log("info", "a record")
    await ctx.log("error", "another one")
    return "logged"


@svc.tool
async def test_tool_with_progress(ctx: Context) -> str:
    """Three reports of progress."""
    for done in (0, 50, 100):
        await ctx.progress(done, 100, f"Completed step {done} of 100")
        await asyncio.sleep(STEP)
    return "Tool with progress executed successfully"


@svc.tool
async def test_reconnection() -> str:
    """Takes long enough that its answer comes over a stream which can be resumed."""
    await asyncio.sleep(0.5)
    return "Reconnection test completed successfully"


@svc.tool
async def test_x_mcp_header(region: Annotated[str, Meta(extra_json_schema={"x-mcp-header": "Region"})]) -> str:
    """Its argument is repeated in the header Mcp-Param-Region."""
    return f"region {region}"


@svc.tool
async def test_trigger_tool_change() -> str:
    """Adds a tool, so that clients which listen are told."""

    async def added() -> str:
        return "added"

    name = f"added_{len(svc.tools)}"
    svc.tool(name=name, description="Came later.")(added)
    return name


@svc.tool
async def greet(name: str) -> str:
    """Never a task."""
    return f"Hello, {name}!"


@svc.tool(task=True)
async def slow_compute(seconds: float, label: str = "") -> str:
    """Takes its time, as a task for those who know them."""
    await asyncio.sleep(seconds)
    return f"{label} took {seconds:g} s"


@svc.tool(task="required")
async def failing_job() -> str:
    """A task that ends with an error of the tool's."""
    await asyncio.sleep(1.0)
    raise ToolError("This job intentionally fails")


@svc.tool(task=True)
async def protocol_error_job() -> str:
    """A task that ends with an error of the protocol's: a limit is reached."""
    await asyncio.sleep(STEP)
    raise LimitError("jobs", "This job intentionally finds no room")


@svc.tool(
    input_schema={
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {
            "address": {
                "$anchor": "addressDef",
                "type": "object",
                "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
            }
        },
        "properties": {
            "name": {"type": "string"},
            "address": {"$ref": "#/$defs/address"},
            "contactMethod": {"type": "string", "enum": ["phone", "email"]},
            "phone": {"type": "string"},
            "email": {"type": "string"},
        },
        "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
        "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
        "then": {"required": ["phone"]},
        "else": {"required": ["email"]},
        "additionalProperties": False,
    }
)
async def json_schema_2020_12_tool(
    name: str = "",
    address: dict[str, Any] | None = None,
    contactMethod: str = "",
    phone: str = "",
    email: str = "",
) -> str:
    """Tool with JSON Schema 2020-12 features."""
    return f"{name} {address} {contactMethod} {phone} {email}"
