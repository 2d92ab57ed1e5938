"""Completions as OpenAI has them, of prompts that no template is put around: the few fields that the gateway reads."""

from collections.abc import Iterable
from typing import Any

import orjson

from mcp_gateway.core.config import Task
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_bounds import LONG_BYTES
from mcp_gateway.core.json_fields import at_least, make_whole, optional, required
from mcp_gateway.core.surfaces.prompts import opening_of, read_prompts
from mcp_gateway.core.surfaces.splice import DONE
from mcp_gateway.core.surfaces.surface import Ask, SurfaceName

MAX_PROMPTS = 128
DEFAULT_OUTPUT_TOKENS = 16
"""Of OpenAI and vLLM, where `max_tokens` is not given."""
_INTEGERS = frozenset({
    "best_of", "logprobs", "max_tokens", "min_tokens", "n", "seed", "top_k", "truncate_prompt_tokens",
})  # fmt: skip
_TOKEN_BYTES, _ROW_BYTES = 16, 128
"""What a token of an answer takes, and one of its log probabilities: more than on the average."""
_MOST_LOGPROBS = 20
"""Of vLLM, unless it was started otherwise."""


class CompletionsSurface:
    """POST /v1/completions."""

    name: SurfaceName = "completions"
    tasks: tuple[Task, ...] = ("generate",)
    prompt_field = "prompt"
    done = DONE
    comment = b": waiting for the model\n\n"

    def read(self, body: dict[str, Any], size_bytes: int) -> Ask:
        """Read a parsed body of `size_bytes`. Raises GatewayError (400) with a message that says what to change."""
        make_whole(body, _INTEGERS)
        model = required(body, "model", str, "a model's id")
        prompts = read_prompts(body.get("prompt"), "prompt", MAX_PROMPTS)
        is_stream = bool(optional(body, "stream", bool))
        options = optional(body, "stream_options", dict)
        if options is not None and not is_stream:
            raise GatewayError("invalid_value", "stream_options needs stream: true.", param="stream_options")
        at_least(body, "min_tokens", 0)
        told, best_of = at_least(body, "n", 1) or 1, at_least(body, "best_of", 1) or 1
        limit = at_least(body, "max_tokens", 1)
        choices = max(told, best_of) * prompts.number
        rows = _rows(body)
        return Ask(
            surface=self,
            body=body,
            text_bytes=size_bytes,
            model=model,
            parts=prompts.number,
            is_stream=is_stream,
            wants_usage=bool(options and optional(options, "include_usage", bool, "stream_options.")),
            wants_continuous_usage=bool(
                options and optional(options, "continuous_usage_stats", bool, "stream_options.")
            ),
            output_limit=limit or DEFAULT_OUTPUT_TOKENS,
            choices=choices,
            choices_field="best_of" if best_of > told else "n",
            prompts=prompts.number,
            told_choices=told * prompts.number,
            token_ids=prompts.token_ids if body.get("truncate_prompt_tokens") is None else None,
            bytes_per_token=choices * (_TOKEN_BYTES + rows * _ROW_BYTES),
            size_field="logprobs"
            if rows > 1
            else "prompt"
            if prompts.number > 1
            else "n"
            if told > 1
            else "max_tokens",
            is_long=size_bytes > LONG_BYTES,
        )

    def opening(self, body: dict[str, Any]) -> Iterable[bytes]:
        """The beginning of the first prompt."""
        yield opening_of(body["prompt"])

    def last_frames(self, error: GatewayError, request_id: str, model: str) -> bytes:
        """OpenAI's SDK raises for `error`, a loop reader sees a finish reason."""
        chunk: dict[str, Any] = {
            "id": f"cmpl-{request_id}",
            "object": "text_completion",
            "created": 0,
            "model": model,
            "choices": [{"index": 0, "text": "", "logprobs": None, "finish_reason": "error"}],
            "error": error.as_object(),
        }
        return b"data: %b\n\n%b" % (orjson.dumps(chunk), DONE)


COMPLETIONS = CompletionsSurface()


def _rows(body: dict[str, Any]) -> int:
    """The log probabilities that are told of each token: its own, and those of the likeliest."""
    asked = at_least(body, "logprobs", 0)
    if asked is None:
        return 0
    if asked > _MOST_LOGPROBS:
        problem = f"`logprobs` must be at most {_MOST_LOGPROBS}, not {asked}."
        raise GatewayError("invalid_value", problem, param="logprobs")
    return 1 + asked
