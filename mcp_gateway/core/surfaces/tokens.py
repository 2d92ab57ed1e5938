"""What is asked about a model's tokens, in vLLM's forms: those of a prompt or a conversation, and the text of some.

Such a question is free of charge and has no answer of the model's; it is no surface, as nothing is generated or billed.
"""

from dataclasses import dataclass
from typing import Any, Literal

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_fields import at_most, checked, optional, required
from mcp_gateway.core.optimization import AUTO
from mcp_gateway.core.sent_images import RemoteImage
from mcp_gateway.core.surfaces.chat import MAX_MESSAGES, MAX_TOOLS, images_in
from mcp_gateway.core.surfaces.prompt_sizes import check_ids
from mcp_gateway.core.surfaces.routed import not_chosen
from mcp_gateway.core.surfaces.surface import PromptSize
from mcp_gateway.core.token_ids import IdsField, TokenIds, not_whole

IDS_IN = IdsField("tokens", 1)
QuestionName = Literal["tokenize", "detokenize"]
MAX_TEXT_BYTES = 2 * 1024 * 1024
"""Of one question, its images apart: a backend tokenizes one text after the other, and nobody pays for it."""


@dataclass(slots=True)
class TokenQuestion:
    """One as its caller sent it; `body` is what of it may be forwarded.

    Of its images, those that are named by an address are counted by the pixel that stands for each.
    """

    name: QuestionName
    body: dict[str, Any]
    model: str
    prompt_field: str
    images: tuple[str, ...] = ()
    remote_images: tuple[RemoteImage, ...] = ()


def read_tokenize(body: dict[str, Any], size_bytes: int) -> TokenQuestion:
    """Read a parsed body of `size_bytes`. Raises GatewayError (400) with a message that says what to change."""
    model = _model_in(body)
    if body.get("messages") is None:
        if body.get("prompt") is None:
            raise GatewayError("missing_parameter", "Give `prompt`, a string, or `messages`.", param="prompt")
        checked(body["prompt"], str, "prompt")
        _check_size(size_bytes, "prompt")
        return TokenQuestion("tokenize", body, model, "prompt")
    if body.get("prompt") is not None:
        raise GatewayError("invalid_value", "Give `prompt` or `messages`, not both.", param="messages")
    messages = required(body, "messages", list, "a list of messages")
    at_most(messages, MAX_MESSAGES, "messages")
    at_most(optional(body, "tools", list) or (), MAX_TOOLS, "tools")
    prompt = PromptSize.beside(images_in(messages), size_bytes, len(messages))
    _check_size(prompt.text_bytes, "messages")
    return TokenQuestion("tokenize", body, model, "messages", prompt.images, prompt.remote_images)


def read_detokenize(body: dict[str, Any], _size_bytes: int) -> TokenQuestion:
    """The same of a list of token ids, which may be empty."""
    model = _model_in(body)
    if body.get("tokens") is None:
        raise GatewayError("missing_parameter", "`tokens` is missing: give a list of token ids.", param="tokens")
    if not isinstance(body["tokens"], TokenIds):
        if ids := checked(body["tokens"], list, "tokens"):
            check_ids(ids, "tokens")
    elif body["tokens"].is_nested:
        raise GatewayError("invalid_type", not_whole("tokens"), param="tokens")
    return TokenQuestion("detokenize", body, model, "tokens")


def _model_in(body: dict[str, Any]) -> str:
    """Whose tokens are meant: those of `auto` are nobody's, since each model of a pool has its own."""
    model: str = required(body, "model", str, "a model's id")
    if model == AUTO:
        raise not_chosen("model")
    return model


def _check_size(text_bytes: int, name: str) -> None:
    if text_bytes > MAX_TEXT_BYTES:
        problem = f"`{name}`: at most {MAX_TEXT_BYTES} bytes are tokenized at a time."
        raise GatewayError("invalid_value", problem, param=name)
