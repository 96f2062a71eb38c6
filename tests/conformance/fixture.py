"""The service that the conformance suite asks for; each scenario says what its tool, resource or prompt has to do."""

from __future__ import annotations

import asyncio
import base64
from typing import Annotated, Any

from msgspec import Meta

from tailrace import (
    Audio,
    CapabilityError,
    Context,
    EmbeddedResource,
    Image,
    LimitError,
    ResourceContents,
    Service,
    ToolError,
)

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


# --- asking the client: the same handlers in a legacy session and, leg by leg, in 2026-07-28 ------


@svc.tool
async def test_elicitation(ctx: Context, message: str) -> str:
    """Asks the user."""
    schema = {
        "type": "object",
        "properties": {
            "username": {"type": "string", "description": "User's response"},
            "email": {"type": "string", "description": "User's email address"},
        },
        "required": ["username", "email"],
    }
    said = await ctx.elicit(message, schema)
    return f"User response: action={said.action}, content={said.data}"


@svc.tool
async def test_streaming_elicitation(ctx: Context) -> str:
    """Asks the user, after a report."""
    await ctx.progress(0, 1, "about to ask")
    return (await ctx.elicit("Shall it go on?")).action


@svc.tool
async def test_sampling(ctx: Context, prompt: str) -> str:
    """Asks the model."""
    return f"LLM response: {(await ctx.sample(prompt, max_tokens=100)).text}"


@svc.tool
async def test_missing_capability(ctx: Context) -> str:
    """Asks the model, whether the client has one or not."""
    return (await ctx.sample("Is anybody there?")).text


@svc.tool
async def test_elicitation_sep1034_defaults(ctx: Context) -> str:
    """A form with a default for each kind of field."""
    properties = {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": True},
    }
    said = await ctx.elicit("Test client default value handling", {"properties": properties})
    return f"Elicitation completed: action={said.action}, content={said.data}"


@svc.tool
async def test_elicitation_sep1330_enums(ctx: Context) -> str:
    """A form with a choice of each kind."""
    values = ["option1", "option2", "option3"]
    titled = [{"const": f"value{number}", "title": f"{name} Option"} for number, name in enumerate(_ORDINALS, 1)]
    properties = {
        "untitledSingle": {"type": "string", "enum": values},
        "titledSingle": {"type": "string", "oneOf": titled},
        "legacyEnum": {
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": values}},
        "titledMulti": {
            "type": "array",
            "items": {
                "anyOf": [{"const": f"value{n}", "title": f"{name} Choice"} for n, name in enumerate(_ORDINALS, 1)]
            },
        },
    }
    said = await ctx.elicit("Test enum schema improvements", {"properties": properties})
    return f"Elicitation completed: action={said.action}, content={said.data}"


_ORDINALS = ("First", "Second", "Third")


def _form(field: str, kind: str = "string") -> dict[str, Any]:
    return {"type": "object", "properties": {field: {"type": kind}}, "required": [field]}


async def _name(ctx: Context, key: str = "user_name", message: str = "What is your name?") -> str:
    return (await ctx.elicit(message, _form("name"), key=key)).data["name"]


@svc.tool
async def test_input_required_result_elicitation(ctx: Context) -> str:
    """Asks for a name."""
    return f"Hello, {await _name(ctx)}!"


@svc.tool
async def test_input_required_result_sampling(ctx: Context) -> str:
    """Asks the model for a capital."""
    return (await ctx.sample("What is the capital of France?", max_tokens=100, key="capital_question")).text


@svc.tool
async def test_input_required_result_list_roots(ctx: Context) -> list[str]:
    """Asks for the roots."""
    return [root.uri for root in await ctx.list_roots(key="client_roots")]


@svc.tool
async def test_input_required_result_request_state(ctx: Context) -> str:
    """What a client brings back was made by this server, or the call is refused."""
    said = await ctx.elicit("Please confirm", _form("ok", "boolean"), key="confirm")
    return f"state-ok {said.data}"


@svc.tool
async def test_input_required_result_tampered_state(ctx: Context) -> str:
    """The same."""
    return f"{(await ctx.elicit('Please confirm', _form('ok', 'boolean'), key='confirm')).data}"


@svc.tool
async def test_input_required_result_multiple_inputs(ctx: Context) -> str:
    """Asks three things at once."""
    name, greeting, roots = await asyncio.gather(
        _name(ctx),
        ctx.sample("Generate a greeting", max_tokens=50, key="greeting"),
        ctx.list_roots(key="client_roots"),
    )
    return f"{greeting.text} {name}, at {[root.uri for root in roots]}"


@svc.tool
async def test_input_required_result_multi_round(ctx: Context) -> str:
    """Asks one thing after the other."""
    name = await _name(ctx, "step1", "Step 1: What is your name?")
    said = await ctx.elicit("Step 2: What is your favorite color?", _form("color"), key="step2")
    return f"{name} likes {said.data['color']}"


@svc.tool
async def test_input_required_result_capabilities(ctx: Context) -> str:
    """Asks the user or, where that cannot be, the model."""
    try:
        return await _name(ctx)
    except CapabilityError:
        return (await ctx.sample("What is your name?", key="model_name")).text


@svc.tool(task="auto")
async def test_tool_with_task(ctx: Context) -> str:
    """Asks for a name first, and then takes its time."""
    name = await _name(ctx)
    await asyncio.sleep(1.0)
    return f"Hello, {name}!"


@svc.tool(task=True)
async def confirm_delete(ctx: Context, filename: str) -> str:
    """A task that asks."""
    said = await ctx.elicit(f"Delete {filename}?", _form("confirm", "boolean"))
    return f"{filename}: {said.data}"


@svc.tool(task=True)
async def multi_input(ctx: Context) -> str:
    """A task that asks two things at once."""
    one, two = await asyncio.gather(
        ctx.elicit("What is your name?", _form("name")), ctx.elicit("Are you sure?", _form("confirm", "boolean"))
    )
    return f"{one.data} {two.data}"


# --- tasks ----------------------------------------------------------------------------------------


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


# --- resources ----------------------------------------------------------------------------------


@svc.resource("test://static-text", mime_type="text/plain")
async def static_text() -> str:
    """A text."""
    return "This is the content of the static text resource."


@svc.resource("test://static-binary", mime_type="image/png")
async def static_binary() -> bytes:
    """A picture."""
    return PNG


@svc.resource("test://watched-resource", mime_type="text/plain")
async def watched_resource() -> str:
    """What clients subscribe to."""
    return "Watched resource content."


@svc.resource("test://template/{id}/data", mime_type="application/json")
async def template_data(id: str) -> dict[str, Any]:
    """One of many."""
    return {"id": id, "templateTest": True, "data": f"Data for ID: {id}"}


# --- prompts ------------------------------------------------------------------------------------


@svc.prompt
async def test_simple_prompt() -> str:
    """Without arguments."""
    return "This is a simple prompt for testing."


@svc.prompt(complete={"arg1": ["paris", "park", "party"]})
async def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
    """With arguments.

    Args:
        arg1: First test argument.
        arg2: Second test argument.
    """
    return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"


@svc.prompt
async def test_prompt_with_embedded_resource(resourceUri: str) -> list[Any]:
    """With a resource.

    Args:
        resourceUri: URI of the resource to embed.
    """
    text = "Embedded resource content for testing."
    resource = ResourceContents(resourceUri, text, mime_type="text/plain")
    return [EmbeddedResource(resource), "Please process the embedded resource above."]


@svc.prompt
async def test_prompt_with_image() -> list[Any]:
    """With a picture."""
    return [Image(PNG, "image/png"), "Please analyze the image above."]


@svc.prompt
async def test_input_required_result_prompt(ctx: Context) -> str:
    """Asks before it writes."""
    said = await ctx.elicit("What context should the prompt use?", _form("context"), key="user_context")
    return f"Use this context: {said.data['context']}"


@svc.tool
async def test_trigger_prompt_change() -> str:
    """Adds a prompt, so that clients which listen are told."""

    async def added() -> str:
        return "added"

    name = f"added_{len(svc.prompts)}"
    svc.prompt(name=name, description="Came later.")(added)
    return name
