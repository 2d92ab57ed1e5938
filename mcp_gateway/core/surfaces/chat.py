"""Chat completions as OpenAI has them: the few fields that the gateway reads, strictly typed; the rest stays."""

from collections.abc import Iterable, Iterator
from typing import Any

from mcp_gateway.core.config import Task
from mcp_gateway.core.data_uri import canonical_image
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_bounds import LONG_BYTES
from mcp_gateway.core.json_fields import (
    at_least,
    at_most,
    kind_of,
    make_whole,
    optional,
    parse_json_object,
    required,
)
from mcp_gateway.core.record import SurfaceName
from mcp_gateway.core.sent_images import SentImage, is_address, taken_out
from mcp_gateway.core.surfaces.openai import (
    COMMENT,
    broken_off,
    bytes_per_token,
    stream_options_in,
    top_logprobs_in,
    usage_wishes,
)
from mcp_gateway.core.surfaces.openings import READ_TEXTS, opening_of_content
from mcp_gateway.core.surfaces.splice import DONE
from mcp_gateway.core.surfaces.surface import AnswerSize, Ask, PromptSize
from mcp_gateway.core.surfaces.wanted_tools import taken_out as wanted_tools_in

MAX_MESSAGES = 10_000
MAX_PARTS = 10_000
"""Of all messages together."""
MAX_TOOLS = 1024
OUTPUT_CAPS = ("max_completion_tokens", "max_tokens")
"""In the order in which vLLM prefers them."""
_PREFERRED_CAP, _OTHER_CAP = OUTPUT_CAPS
_INTEGERS = frozenset({
    *OUTPUT_CAPS, "min_tokens", "n", "seed", "thinking_token_budget", "top_k", "top_logprobs",
    "truncate_prompt_tokens",
})  # fmt: skip


class ChatSurface:
    """POST /v1/chat/completions."""

    name: SurfaceName = "chat"
    tasks: tuple[Task, ...] = ("generate",)
    prompt_field = "messages"
    needs_limit = False
    is_conversation = True
    done = DONE
    comment = COMMENT

    def read(self, body: dict[str, Any], size_bytes: int) -> Ask:
        """Read a parsed body of `size_bytes`. Raises GatewayError (400) with a message that says what to change."""
        make_whole(body, _INTEGERS)
        model = required(body, "model", str, "a model's id")
        messages = required(body, "messages", list, "a list of messages")
        at_most(messages, MAX_MESSAGES, "messages")
        tools = optional(body, "tools", list) or ()
        at_most(tools, MAX_TOOLS, "tools")
        prompt = PromptSize.beside(images_in(messages), size_bytes, len(messages))
        is_stream = bool(optional(body, "stream", bool))
        options = stream_options_in(body, is_stream=is_stream)
        at_least(body, "min_tokens", 0)
        preferred, other = at_least(body, _PREFERRED_CAP, 1), at_least(body, _OTHER_CAP, 1)
        choices = at_least(body, "n", 1) or 1
        top_logprobs = top_logprobs_in(body)
        rows = 1 + top_logprobs if body.get("logprobs") else 0
        return Ask(
            surface=self,
            body=body,
            model=model,
            prompt=prompt,
            is_stream=is_stream,
            usage_wishes=usage_wishes(body, options),
            output_limit=other if preferred is None else preferred,
            choices=choices,
            answer_size=AnswerSize(
                bytes_per_token(rows, choices), "top_logprobs" if top_logprobs else "n" if choices > 1 else "max_tokens"
            ),
            is_long=size_bytes > LONG_BYTES,
            wanted_tools=wanted_tools_in(body, tools) if tools else None,
        )

    def opening(self, body: dict[str, Any]) -> Iterable[bytes]:
        """The system prompt and the first message."""
        for message in body["messages"][:READ_TEXTS]:
            yield message["role"].encode("utf-8", "replace") + b"\0" + opening_of_content(message.get("content"))
            if message["role"] not in ("system", "developer"):
                break

    def last_frames(self, error: GatewayError, request_id: str, model: str) -> bytes:
        return broken_off(error, f"chatcmpl-{request_id}", "chat.completion.chunk", model, {"delta": {}})


CHAT = ChatSurface()


def parse_chat(raw: bytes) -> Ask:
    """Read a chat's body as it came. Raises GatewayError (400) with a message that says what to change."""
    return CHAT.read(parse_json_object(raw), len(raw))


def images_in(messages: list[Any]) -> Iterator[SentImage]:
    """Each image part's.

    Refuses messages of an unknown shape, and too many parts.
    """
    parts = 0
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not isinstance(message, dict):
            raise GatewayError("invalid_type", f"`{where}` must be an object, not {kind_of(message)}.", param=where)
        if not isinstance(message.get("role"), str):
            raise GatewayError("missing_parameter", f"`{where}.role` is missing: give a string.", param=f"{where}.role")
        content = message.get("content")
        if isinstance(content, list):
            parts += len(content)
            if parts > MAX_PARTS:
                raise GatewayError("invalid_value", f"All `content` may have at most {MAX_PARTS} parts.", param=where)
            for index, part in enumerate(content):
                if isinstance(part, dict) and part.get("type") == "image_url":
                    yield _read_image(part, f"{where}.content[{index}]")
        elif content is not None and not isinstance(content, str):
            problem = f"`{where}.content` must be a string or a list of parts, not {kind_of(content)}."
            raise GatewayError("invalid_type", problem, param=f"{where}.content")


def _read_image(part: dict[str, Any], where: str) -> SentImage:
    """An image part's data: URI, which from now on has one form, or its address, which is taken out."""
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else image
    if not isinstance(url, str):
        raise GatewayError("missing_parameter", f"`{where}.image_url.url` is missing: give a data: URI.", param=where)
    if is_address(url):
        return taken_out(url, where, part, _put_image)
    canonical = canonical_image(url)
    if canonical is not url:
        _put_image(part, canonical)
    return SentImage(canonical, len(url))


def _put_image(part: dict[str, Any], uri: str) -> None:
    image = part["image_url"]
    part["image_url"] = {**image, "url": uri} if isinstance(image, dict) else uri
