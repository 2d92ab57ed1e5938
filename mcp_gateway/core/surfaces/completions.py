"""Completions as OpenAI has them, of prompts that no template is put around: the few fields that the gateway reads."""

from collections.abc import Iterable
from typing import Any

from mcp_gateway.core.config import Task
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_bounds import LONG_BYTES
from mcp_gateway.core.json_fields import at_least, make_whole, optional, required
from mcp_gateway.core.record import SurfaceName
from mcp_gateway.core.surfaces.openai import (
    COMMENT,
    MOST_LOGPROBS,
    broken_off,
    bytes_per_token,
    stream_options_in,
    usage_wishes,
)
from mcp_gateway.core.surfaces.prompt_sizes import opening_of, read_prompts
from mcp_gateway.core.surfaces.splice import DONE
from mcp_gateway.core.surfaces.surface import AnswerSize, Ask
from mcp_gateway.core.token_ids import IdsField

MAX_PROMPTS = 128
DEFAULT_OUTPUT_TOKENS = 16
"""Of OpenAI and vLLM, where `max_tokens` is not given."""
IDS_IN = IdsField("prompt", MAX_PROMPTS)
_INTEGERS = frozenset({
    "best_of", "logprobs", "max_tokens", "min_tokens", "n", "seed", "top_k", "truncate_prompt_tokens",
})  # fmt: skip


class CompletionsSurface:
    """POST /v1/completions."""

    name: SurfaceName = "completions"
    tasks: tuple[Task, ...] = ("generate",)
    prompt_field = "prompt"
    needs_limit = False
    is_conversation = False
    done = DONE
    comment = COMMENT

    def read(self, body: dict[str, Any], size_bytes: int) -> Ask:
        """Read a parsed body of `size_bytes`. Raises GatewayError (400) with a message that says what to change."""
        make_whole(body, _INTEGERS)
        model = required(body, "model", str, "a model's id")
        prompt = read_prompts(body, "prompt", MAX_PROMPTS, size_bytes)
        is_stream = bool(optional(body, "stream", bool))
        options = stream_options_in(body, is_stream=is_stream)
        at_least(body, "min_tokens", 0)
        told, best_of = at_least(body, "n", 1) or 1, at_least(body, "best_of", 1) or 1
        limit = at_least(body, "max_tokens", 1)
        choices = max(told, best_of) * prompt.number
        rows = _rows(body)
        wishes = usage_wishes(body, options)
        return Ask(
            surface=self,
            body=body,
            model=model,
            prompt=prompt,
            is_stream=is_stream,
            usage_wishes=wishes,
            output_limit=limit or DEFAULT_OUTPUT_TOKENS,
            choices=choices,
            choices_field="best_of" if best_of > told else "n",
            answer_size=AnswerSize(
                bytes_per_token(rows, choices), _size_field(rows, prompt.number, told), told * prompt.number
            ),
            is_long=size_bytes > LONG_BYTES,
        )

    def opening(self, body: dict[str, Any]) -> Iterable[bytes]:
        """The beginning of the first prompt."""
        yield opening_of(body["prompt"])

    def last_frames(self, error: GatewayError, request_id: str, model: str) -> bytes:
        return broken_off(error, f"cmpl-{request_id}", "text_completion", model, {"text": ""})


COMPLETIONS = CompletionsSurface()


def _rows(body: dict[str, Any]) -> int:
    """The log probabilities that are told of each token: its own, and those of the likeliest."""
    asked = at_least(body, "logprobs", 0)
    if asked is None:
        return 0
    if asked > MOST_LOGPROBS:
        problem = f"`logprobs` must be at most {MOST_LOGPROBS}, not {asked}."
        raise GatewayError("invalid_value", problem, param="logprobs")
    return 1 + asked


def _size_field(rows: int, prompts: int, told: int) -> str:
    """The first of those that make an answer large."""
    if rows > 1:
        return "logprobs"
    if prompts > 1:
        return "prompt"
    return "n" if told > 1 else "max_tokens"
