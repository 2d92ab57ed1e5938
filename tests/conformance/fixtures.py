"""The tools, resources and prompts that the conformance suite's scenarios ask for, on the SDK's own server.

Only what is under them is ours: the door, which `build` returns the server for.
"""

import base64
import json
from collections.abc import Callable
from typing import Annotated, Any

from mcp import MCPError
from mcp.server import MCPServer, Server
from mcp.server.mcpserver import Context, RequestStateSecurity
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.shared.subscriptions import ServerEvent
from mcp.types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    AudioContent,
    ClientCapabilities,
    Completion,
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    EmbeddedResource,
    ImageContent,
    InputRequest,
    InputRequiredResult,
    ListRootsRequest,
    ListRootsResult,
    LoggingMessageNotification,
    LoggingMessageNotificationParams,
    SamplingMessage,
    TextContent,
    TextResourceContents,
)
from pydantic import BaseModel, Field

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
SILENCE = base64.b64encode(
    b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00"
    b"\x40\x1f\x00\x00\x80\x3e\x00\x00\x02\x00\x10\x00data\x00\x00\x00\x00"
).decode()
STATE_KEY = b"a key of at least 32 bytes for these tests alone"
SCHEMA_2020_12: dict[str, Any] = {
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


class DoorBus:
    """Sends what a fixture publishes to the door's subscribers; the server's own listen streams are never used."""

    def __init__(self) -> None:
        self.publish_at_door: Callable[[ServerEvent], None] = lambda _: None

    async def publish(self, event: ServerEvent) -> None:
        self.publish_at_door(event)

    def subscribe(self, listener: Callable[[ServerEvent], None]) -> Callable[[], None]:
        return lambda: None


def build(bus: DoorBus) -> Server:
    """The server for a door."""
    server = MCPServer(
        "conformance-fixtures",
        version="1",
        log_level="CRITICAL",
        request_state_security=RequestStateSecurity(keys=[STATE_KEY]),
        subscriptions=bus,
    )
    _add_content(server)
    _add_talkative(server)
    _add_elicitations(server)
    _add_inputs(server)
    _add_rest(server)
    _add_resources(server)
    _add_prompts(server)
    return server._lowlevel_server


def _text(text: str) -> TextContent:
    return TextContent(text=text)


def _resource(uri: str, text: str, mime_type: str = "text/plain") -> EmbeddedResource:
    return EmbeddedResource(resource=TextResourceContents(uri=uri, mime_type=mime_type, text=text))


def _image() -> ImageContent:
    return ImageContent(data=PIXEL, mime_type="image/png")


def _add_content(server: MCPServer) -> None:
    @server.tool()
    def test_simple_text() -> str:
        """Answers in text."""
        return "This is a simple text response for testing."

    @server.tool()
    def test_image_content() -> list[ImageContent]:
        """Answers with an image."""
        return [_image()]

    @server.tool()
    def test_audio_content() -> list[AudioContent]:
        """Answers with a sound."""
        return [AudioContent(data=SILENCE, mime_type="audio/wav")]

    @server.tool()
    def test_embedded_resource() -> list[EmbeddedResource]:
        """Answers with a resource."""
        return [_resource("test://embedded-resource", "This is an embedded resource content.")]

    @server.tool()
    def test_multiple_content_types() -> list[TextContent | ImageContent | EmbeddedResource]:
        """Answers with a text, an image and a resource."""
        json_resource = _resource("test://mixed-content-resource", '{"test": "data", "value": 123}', "application/json")
        return [_text("Multiple content types test:"), _image(), json_resource]

    @server.tool()
    def test_error_handling() -> str:
        """Fails."""
        raise ToolError("on purpose")


def _add_talkative(server: MCPServer) -> None:
    @server.tool()
    async def test_tool_with_logging(ctx: Context) -> str:
        """Logs thrice."""
        for line in ("Tool execution started", "Tool processing data", "Tool execution completed"):
            params = LoggingMessageNotificationParams(level="info", data=line)
            await ctx.session.send_notification(
                LoggingMessageNotification(params=params), related_request_id=ctx.request_id
            )
        return "logged"

    @server.tool()
    async def test_tool_with_progress(ctx: Context) -> str:
        """Reports how far it is."""
        for progress in (0, 50, 100):
            await ctx.report_progress(progress, 100, f"step {progress} of 100")
        return "done"

    @server.tool()
    async def test_sampling(prompt: str, ctx: Context) -> str:
        """Has the client's model answer."""
        params = CreateMessageRequestParams(
            messages=[SamplingMessage(role="user", content=_text(prompt))], max_tokens=100
        )
        answer = await ctx.session._request_outbound.send_raw_request(
            "sampling/createMessage", params.model_dump(by_alias=True, mode="json", exclude_none=True)
        )
        return f"LLM response: {answer['content']['text']}"


class Response(BaseModel):
    username: str = Field(description="What the person is called")
    email: str = Field(description="Where the person is written to")


class WithDefaults(BaseModel):
    name: str = "John Doe"
    age: int = 30
    score: float = 95.5
    status: str = Field(default="active", json_schema_extra={"enum": ["active", "inactive", "pending"]})
    verified: bool = True


def _titled(*options: tuple[str, str]) -> list[Any]:
    return [{"const": const, "title": title} for const, title in options]


class Enums(BaseModel):
    untitledSingle: str = Field(json_schema_extra={"enum": ["option1", "option2", "option3"]})
    titledSingle: str = Field(
        json_schema_extra={"oneOf": _titled(("value1", "First"), ("value2", "Second"), ("value3", "Third"))}
    )
    legacyEnum: str = Field(json_schema_extra={"enum": ["opt1", "opt2", "opt3"], "enumNames": ["One", "Two", "Three"]})
    untitledMulti: list[str] = Field(
        json_schema_extra={"items": {"type": "string", "enum": ["option1", "option2", "option3"]}}
    )
    titledMulti: list[str] = Field(
        json_schema_extra={"items": {"anyOf": _titled(("value1", "First"), ("value2", "Second"), ("value3", "Third"))}}
    )


def _add_elicitations(server: MCPServer) -> None:
    async def ask(ctx: Context, message: str, schema: type[BaseModel]) -> str:
        result = await ctx.elicit(message=message, schema=schema)
        content = result.data.model_dump_json() if result.action == "accept" else "{}"
        return f"action={result.action}, content={content}"

    @server.tool()
    async def test_elicitation(message: str, ctx: Context) -> str:
        """Asks the person."""
        return "User response: " + await ask(ctx, message, Response)

    @server.tool()
    async def test_elicitation_sep1034_defaults(ctx: Context) -> str:
        """Asks the person, with a default of every kind."""
        return "Elicitation completed: " + await ask(ctx, "Please review", WithDefaults)

    @server.tool()
    async def test_elicitation_sep1330_enums(ctx: Context) -> str:
        """Asks the person to choose, in every way there is."""
        return "Elicitation completed: " + await ask(ctx, "Please choose", Enums)


def _form(message: str, **properties: str) -> ElicitRequest:
    schema = {
        "type": "object",
        "properties": {name: {"type": kind} for name, kind in properties.items()},
        "required": list(properties),
    }
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def _sample(text: str) -> CreateMessageRequest:
    messages = [SamplingMessage(role="user", content=_text(text))]
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=messages, max_tokens=100))


def _answered(ctx: Context, name: str, kind: type) -> Any:
    answer = (ctx.input_responses or {}).get(name)
    return answer if isinstance(answer, kind) else None


def _field(ctx: Context, name: str, field: str) -> Any:
    answer: ElicitResult | None = _answered(ctx, name, ElicitResult)
    return (answer.content or {}).get(field) if answer else None


def _add_inputs(server: MCPServer) -> None:  # noqa: C901 - a tool each, and no branch of its own
    @server.tool()
    async def test_input_required_result_elicitation(ctx: Context) -> str | InputRequiredResult:
        """Needs a name."""
        if name := _field(ctx, "user_name", "name"):
            return f"Hello, {name}!"
        return InputRequiredResult(input_requests={"user_name": _form("What is your name?", name="string")})

    @server.tool()
    async def test_input_required_result_sampling(ctx: Context) -> str | InputRequiredResult:
        """Needs the client's model."""
        if answer := _answered(ctx, "capital_question", CreateMessageResult):
            return f"The model says: {answer.content.text}"
        return InputRequiredResult(input_requests={"capital_question": _sample("What is the capital of France?")})

    @server.tool()
    async def test_input_required_result_list_roots(ctx: Context) -> str | InputRequiredResult:
        """Needs the client's roots."""
        if answer := _answered(ctx, "client_roots", ListRootsResult):
            return f"Roots: {[str(root.uri) for root in answer.roots]}"
        return InputRequiredResult(input_requests={"client_roots": ListRootsRequest()})

    @server.tool()
    async def test_input_required_result_request_state(ctx: Context) -> str | InputRequiredResult:
        """Needs its own state back."""
        if _answered(ctx, "confirm", ElicitResult) and ctx.request_state == "a state":
            return "state-ok"
        return InputRequiredResult(input_requests={"confirm": _form("Go on?", ok="boolean")}, request_state="a state")

    @server.tool()
    async def test_input_required_result_multiple_inputs(ctx: Context) -> str | InputRequiredResult:
        """Needs three things at once."""
        wanted: dict[str, InputRequest] = {
            "user_name": _form("What is your name?", name="string"),
            "greeting": _sample("Say hello"),
            "client_roots": ListRootsRequest(),
        }
        if wanted.keys() <= (ctx.input_responses or {}).keys():
            return "All three are here."
        return InputRequiredResult(input_requests=wanted, request_state="three things")

    @server.tool()
    async def test_input_required_result_multi_round(ctx: Context) -> str | InputRequiredResult:
        """Needs a name, and then a colour."""
        state = json.loads(ctx.request_state or "{}")
        if "name" in state and (color := _field(ctx, "step2", "color")):
            return f"{state['name']} likes {color}."
        if name := _field(ctx, "step1", "name"):
            request = _form("What is your favorite color?", color="string")
            return InputRequiredResult(input_requests={"step2": request}, request_state=json.dumps({"name": name}))
        request = _form("What is your name?", name="string")
        return InputRequiredResult(input_requests={"step1": request}, request_state="{}")

    @server.tool()
    async def test_input_required_result_tampered_state(ctx: Context) -> str | InputRequiredResult:
        """Needs its state back unchanged, which the SDK sees to."""
        if ctx.request_state is not None:
            return "state-ok"
        return InputRequiredResult(input_requests={"confirm": _form("Go on?", ok="boolean")}, request_state="round 1")

    @server.tool()
    async def test_input_required_result_capabilities(ctx: Context) -> InputRequiredResult:
        """Needs what the client can give."""
        can = ctx.client_capabilities or ClientCapabilities()
        requests: dict[str, InputRequest] = {}
        if can.sampling is not None:
            requests["sample"] = _sample("Say hello")
        if can.elicitation is not None:
            requests["ask"] = _form("What is your name?", name="string")
        return InputRequiredResult(input_requests=requests, request_state="asked")


def _add_rest(server: MCPServer) -> None:
    @server.tool()
    async def test_missing_capability(ctx: Context) -> str:
        """Works only with clients that can sample."""
        if ctx.client_capabilities is None or ctx.client_capabilities.sampling is None:
            needed: dict[str, Any] = {"requiredCapabilities": {"sampling": {}}}
            raise MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, "The client has to declare sampling.", needed)
        return "The client can sample."

    @server.tool()
    def test_x_mcp_header(
        region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})] = "none",
    ) -> str:
        """Has an argument that a header repeats."""
        return region

    @server.tool()
    def json_schema_2020_12_tool() -> str:
        """Has a schema with all that JSON Schema 2020-12 knows."""
        return "fine"

    tool = server._tool_manager.get_tool("json_schema_2020_12_tool")
    assert tool is not None
    tool.parameters = SCHEMA_2020_12

    @server.tool()
    async def test_trigger_tool_change(ctx: Context) -> str:
        """Says that the tools have changed."""
        await ctx.notify_tools_changed()
        return "told"

    @server.tool()
    async def test_trigger_prompt_change(ctx: Context) -> str:
        """Says that the prompts have changed."""
        await ctx.notify_prompts_changed()
        return "told"


def _add_resources(server: MCPServer) -> None:
    @server.resource("test://static-text", mime_type="text/plain")
    def static_text() -> str:
        """A text."""
        return "This is the content of the static text resource."

    @server.resource("test://static-binary", mime_type="image/png")
    def static_binary() -> bytes:
        """An image."""
        return base64.b64decode(PIXEL)

    @server.resource("test://template/{id}/data", mime_type="application/json")
    def template(id: str) -> str:
        """A resource of a template."""
        return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})

    @server.resource("test://watched-resource", mime_type="text/plain")
    def watched() -> str:
        """A resource to subscribe to."""
        return "Watched resource content"

    @server.completion()  # type: ignore[no-untyped-call, untyped-decorator]  # the SDK gives it no types
    async def complete(ref: Any, argument: Any, context: Any) -> Completion:
        return Completion(values=[], total=0, has_more=False)


def _add_prompts(server: MCPServer) -> None:
    @server.prompt()
    def test_simple_prompt() -> list[UserMessage]:
        """Has no arguments."""
        return [UserMessage(_text("This is a simple prompt for testing."))]

    @server.prompt()
    def test_prompt_with_arguments(arg1: str, arg2: str) -> list[UserMessage]:
        """Has two arguments."""
        return [UserMessage(_text(f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"))]

    @server.prompt()
    def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:
        """Holds a resource."""
        resource = _resource(resourceUri, "Embedded resource content for testing.")
        return [UserMessage(resource), UserMessage(_text("Read it."))]

    @server.prompt()
    def test_prompt_with_image() -> list[UserMessage]:
        """Holds an image."""
        return [UserMessage(_image()), UserMessage(_text("Look at it."))]

    @server.prompt()
    async def test_input_required_result_prompt(ctx: Context) -> list[UserMessage] | InputRequiredResult:
        """Needs a context."""
        if context := _field(ctx, "user_context", "context"):
            return [UserMessage(_text(f"Use this context: {context}"))]
        return InputRequiredResult(input_requests={"user_context": _form("Which context?", context="string")})
