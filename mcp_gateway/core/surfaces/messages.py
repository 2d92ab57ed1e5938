"""Messages as Anthropic has them: the few fields that the gateway reads, strictly typed; the rest stays."""

from collections.abc import Iterable, Iterator
from typing import Any

from mcp_gateway.core.config import Task
from mcp_gateway.core.data_uri import canonical_image
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_bounds import LONG_BYTES
from mcp_gateway.core.json_fields import at_least, at_most, kind_of, make_whole, optional, required
from mcp_gateway.core.record import SurfaceName
from mcp_gateway.core.sent_images import SentImage, is_address, taken_out
from mcp_gateway.core.surfaces.anthropic import error_body, event_of
from mcp_gateway.core.surfaces.chat import MAX_MESSAGES, MAX_PARTS, MAX_TOOLS
from mcp_gateway.core.surfaces.openai import bytes_per_token
from mcp_gateway.core.surfaces.openings import opening_of_content
from mcp_gateway.core.surfaces.surface import AnswerSize, Ask, PromptSize

BLOCKS_OF_BLOCKS = ("tool_result", "mid_conv_system")
"""Types whose `content` may be blocks again."""
_INTEGERS = frozenset({"max_tokens", "top_k"})


class MessagesSurface:
    """POST /v1/messages; also POST /v1/messages/count_tokens, whose answer has no length (`is_counted`)."""

    name: SurfaceName = "messages"
    tasks: tuple[Task, ...] = ("generate",)
    prompt_field = "messages"
    needs_limit = True
    is_conversation = True
    done = event_of({"type": "message_stop"})
    comment = event_of({"type": "ping"})

    def __init__(self, *, is_counted: bool = False) -> None:
        self._is_counted = is_counted

    def read(self, body: dict[str, Any], size_bytes: int) -> Ask:
        """Read a parsed body of `size_bytes`. Raises GatewayError (400) with a message that says what to change."""
        make_whole(body, _INTEGERS)
        model = required(body, "model", str, "a model's id")
        messages = required(body, "messages", list, "a list of messages")
        at_most(messages, MAX_MESSAGES, "messages")
        at_most(optional(body, "tools", list) or (), MAX_TOOLS, "tools")
        output_limit = at_least(body, "max_tokens", 1)
        if output_limit is None and not self._is_counted:
            message = "`max_tokens` is missing: give the most tokens that the answer may have."
            raise GatewayError("missing_parameter", message, param="max_tokens")
        prompt = PromptSize.beside(_images(body), size_bytes, len(messages) + ("system" in body))
        return Ask(
            surface=self,
            body=body,
            model=model,
            prompt=prompt,
            is_stream=bool(optional(body, "stream", bool)),
            output_limit=output_limit,
            answer_size=AnswerSize(bytes_per_token(), "max_tokens"),
            is_long=size_bytes > LONG_BYTES,
        )

    def opening(self, body: dict[str, Any]) -> Iterable[bytes]:
        """The system prompt and the first message."""
        yield opening_of_content(body.get("system"))
        yield opening_of_content(body["messages"][0]["content"])

    def last_frames(self, error: GatewayError, request_id: str, _model: str) -> bytes:
        """Its SDKs raise for an event `error`."""
        body = error_body(error, request_id)
        return event_of(body | {"error": body["error"] | error.wait_told})


MESSAGES = MessagesSurface()
COUNTED_MESSAGES = MessagesSurface(is_counted=True)


def _images(body: dict[str, Any]) -> Iterator[SentImage]:
    """Each image block's, wherever a block may stand.

    Refuses messages of an unknown shape, and too many blocks.
    """
    blocks_left = MAX_PARTS
    for content, where in _contents(body):
        for place, block in _all_blocks(content, where):
            blocks_left -= 1
            if not blocks_left:
                raise GatewayError("invalid_value", f"All `content` may have at most {MAX_PARTS} blocks.", param=place)
            if block["type"] == "image":
                yield _read_image(block, place)


def _contents(body: dict[str, Any]) -> Iterator[tuple[Any, str]]:
    """What is no plain text of the system prompt and the messages, each with its place."""
    system = body.get("system")
    if system is not None and not isinstance(system, str):
        yield system, "system"
    for number, message in enumerate(body["messages"]):
        where = f"messages[{number}]"
        if not isinstance(message, dict):
            raise GatewayError("invalid_type", f"`{where}` must be an object, not {kind_of(message)}.", param=where)
        if not isinstance(message.get("role"), str):
            raise GatewayError("missing_parameter", f"`{where}.role` is missing: give a string.", param=f"{where}.role")
        if not isinstance(message.get("content"), str):
            yield message.get("content"), f"{where}.content"


def _all_blocks(content: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The blocks of a content, and those within them, each with its place."""
    for index, block in enumerate(_checked_blocks(content, where)):
        place = f"{where}[{index}]"
        yield place, block
        inner = block.get("content") if block["type"] in BLOCKS_OF_BLOCKS else None
        if inner is not None and not isinstance(inner, str):
            yield from _all_blocks(inner, f"{place}.content")


def _checked_blocks(content: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(content, list):
        problem = f"`{where}` must be a string or a list of blocks, not {kind_of(content)}."
        raise GatewayError("invalid_type", problem, param=where)
    for index, block in enumerate(content):
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            place = f"{where}[{index}]"
            raise GatewayError("invalid_type", f"`{place}` must be a block: an object with a `type`.", param=place)
    return content


def _read_image(block: dict[str, Any], where: str) -> SentImage:
    """An image's data: URI, which from now on has one form, or its address, which is taken out."""
    source = block.get("source")
    if not isinstance(source, dict):
        raise GatewayError("missing_parameter", f"`{where}.source` is missing: give an object.", param=where)
    media_type, data = source.get("media_type"), source.get("data")
    if source.get("type") == "base64" and isinstance(media_type, str) and isinstance(data, str):
        canonical = canonical_image(f"data:{media_type};base64,{data}")
        _put_image(block, canonical)
        return SentImage(canonical, len(data))
    if source.get("type") == "url" and isinstance(source.get("url"), str):
        url: str = source["url"]
        if is_address(url):
            return taken_out(url, where, block, _put_image)
        block["source"] = {"type": "url", "url": canonical_image(url)}
        return SentImage(block["source"]["url"], len(url))
    problem = f"`{where}.source` must be of type base64, with `media_type` and `data`, or of type url."
    raise GatewayError("unsupported_parameter", problem, param=f"{where}.source")


def _put_image(block: dict[str, Any], uri: str) -> None:
    head, _, digits = uri.partition(",")
    kind = head.removeprefix("data:").removesuffix(";base64")
    block["source"] = {"type": "base64", "media_type": kind, "data": digits}
