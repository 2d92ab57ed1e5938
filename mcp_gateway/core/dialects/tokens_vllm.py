"""Questions about tokens to vLLM, which has them as they are asked here: the tables of what passes, and the answers."""

import re
from collections.abc import Iterable
from typing import Any

import orjson

from mcp_gateway.core.dialects.flat_fields import FlatFields
from mcp_gateway.core.dialects.sifting import FieldUse
from mcp_gateway.core.dialects.vllm_bodies import TOKENIZE_PATH
from mcp_gateway.core.dialects.vllm_fields import ChatFields
from mcp_gateway.core.surfaces.credible import not_understood
from mcp_gateway.core.surfaces.surface import Body
from mcp_gateway.core.surfaces.whole_answer import PARSED_BYTES, first_match

DETOKENIZE_PATH = "/detokenize"
_PASSED, _PRICED, _BOUNDED, _STRIPPED, _ = FieldUse
PROMPT_FIELDS: dict[str, FieldUse] = {
    "add_special_tokens": _PASSED,
    "model": _PRICED,
    "prompt": _PRICED,
    "return_token_strs": _PASSED,
}
CONVERSATION_FIELDS: dict[str, FieldUse] = {
    "add_generation_prompt": _PASSED,
    "add_special_tokens": _PASSED,
    "chat_template": _STRIPPED,
    "chat_template_kwargs": _BOUNDED,
    "continue_final_message": _PASSED,
    "media_io_kwargs": _STRIPPED,
    "messages": _PRICED,
    "mm_processor_kwargs": _STRIPPED,
    "model": _PRICED,
    "return_token_strs": _PASSED,
    "tools": _BOUNDED,
}
TOKEN_FIELDS: dict[str, FieldUse] = {"model": _PRICED, "tokens": _PRICED}
"""Read from vLLM 0.32 (`TokenizeCompletionRequest`, `TokenizeChatRequest`, `DetokenizeRequest`)."""
_COUNT = re.compile(rb'"(?:count|input_tokens)":\s?(\d{1,15})[,}\s]')
_TOKENS = re.compile(rb'"tokens":\s?\[')
_TEXT = re.compile(rb'^\{\s?"prompt":\s?"')
_HEAD_BYTES = 4096


class TokenizeToVllm:
    """What a question for the tokens of a prompt, or of a conversation, becomes for vLLM."""

    path = TOKENIZE_PATH

    def __init__(self, pass_template_kwargs: Iterable[str] = ()) -> None:
        self._of_prompts = FlatFields(PROMPT_FIELDS)
        self._of_conversations = ChatFields((), pass_template_kwargs, CONVERSATION_FIELDS)

    def sift(self, body: dict[str, Any]) -> tuple[str, ...]:
        fields = self._of_prompts if body.get("messages") is None else self._of_conversations
        return fields.sift(body)

    async def check(self, answer: Body) -> None:
        if len(answer) <= PARSED_BYTES:
            is_answer = _are_counted(_parsed(answer))
        else:
            is_answer = read_count(answer[:_HEAD_BYTES]) is not None and await first_match(_TOKENS, answer) is not None
        if not is_answer:
            raise not_understood()


class DetokenizeToVllm:
    """What a question for the text of some tokens becomes for vLLM."""

    path = DETOKENIZE_PATH

    def __init__(self) -> None:
        self.sift = FlatFields(TOKEN_FIELDS).sift

    async def check(self, answer: Body) -> None:
        if len(answer) <= PARSED_BYTES:
            is_answer = isinstance(_parsed(answer).get("prompt"), str)
        else:
            is_answer = _TEXT.match(answer) is not None
        if not is_answer:
            raise not_understood()


def read_count(body: Body) -> int | None:
    """The tokens that were counted, which /tokenize tells before it lists them; None where none were told."""
    found = _COUNT.search(body)
    return int(found[1]) if found is not None else None


def _are_counted(told: dict[str, Any]) -> bool:
    """Whether it lists ids, as many as it says."""
    count, tokens = told.get("count"), told.get("tokens")
    return type(count) is int and isinstance(tokens, list) and count == len(tokens) and set(map(type, tokens)) <= {int}


def _parsed(answer: Body) -> dict[str, Any]:
    """Empty for what is no object."""
    try:
        told = orjson.loads(answer)
    except orjson.JSONDecodeError:
        return {}
    return told if isinstance(told, dict) else {}
