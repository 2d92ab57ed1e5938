"""Embeddings as OpenAI has them, and vLLM's of a conversation: the few fields that the gateway reads."""

from collections.abc import Iterable
from typing import Any

from mcp_gateway.core.config import Task
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_bounds import LONG_BYTES
from mcp_gateway.core.json_fields import at_least, at_most, kind_of, make_whole, optional, required
from mcp_gateway.core.record import SurfaceName
from mcp_gateway.core.surfaces.prompt_sizes import opening_of, read_prompts
from mcp_gateway.core.surfaces.surface import AnswerSize, Ask, PromptSize
from mcp_gateway.core.token_ids import IdsField

MAX_INPUTS = 2048
MAX_MESSAGES = 10_000
_FORMATS = ("float", "base64")
IDS_IN = IdsField("input", MAX_INPUTS)
_INTEGERS = frozenset({"dimensions", "truncate_prompt_tokens"})


class EmbeddingsSurface:
    """POST /v1/embeddings."""

    name: SurfaceName = "embeddings"
    tasks: tuple[Task, ...] = ("embed",)
    prompt_field = "input"
    needs_limit = False
    is_conversation = False
    done = b""
    comment = b""

    def read(self, body: dict[str, Any], size_bytes: int) -> Ask:
        """Read a parsed body of `size_bytes`. Raises GatewayError (400) with a message that says what to change."""
        make_whole(body, _INTEGERS)
        model = required(body, "model", str, "a model's id")
        encoding = optional(body, "encoding_format", str)
        if encoding is not None and encoding not in _FORMATS:
            problem = "`encoding_format` must be float or base64."
            raise GatewayError("invalid_value", problem, param="encoding_format")
        at_least(body, "dimensions", 1)
        if body.get("messages") is not None:
            _check_messages(body)
            prompt = PromptSize(size_bytes, 1)
        else:
            prompt = read_prompts(body, "input", MAX_INPUTS, size_bytes)
        return Ask(
            surface=self,
            body=body,
            model=model,
            prompt=prompt,
            choices=0,
            answer_size=AnswerSize(1, "input"),
            is_long=size_bytes > LONG_BYTES,
        )

    def opening(self, body: dict[str, Any]) -> Iterable[bytes]:
        """The beginning of the first input; of a conversation nothing, as it is not gone on with."""
        return [opening_of(body["input"])] if body.get("input") else []

    def last_frames(self, error: GatewayError, request_id: str, model: str) -> bytes:
        raise NotImplementedError  # no answer is a stream


EMBEDDINGS = EmbeddingsSurface()


def _check_messages(body: dict[str, Any]) -> None:
    """Messages of text alone; an address in one could make a backend fetch it."""
    if body.get("input") is not None:
        raise GatewayError("invalid_value", "Give `input` or `messages`, not both.", param="messages")
    messages = required(body, "messages", list, "a list of messages")
    at_most(messages, MAX_MESSAGES, "messages")
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not isinstance(message, dict):
            raise GatewayError("invalid_type", f"`{where}` must be an object, not {kind_of(message)}.", param=where)
        if not isinstance(message.get("role"), str):
            raise GatewayError("missing_parameter", f"`{where}.role` is missing: give a string.", param=f"{where}.role")
        if not isinstance(message.get("content"), str):
            problem = f"`{where}.content` must be a string, not {kind_of(message.get('content'))}."
            raise GatewayError("invalid_type", problem, param=f"{where}.content")
