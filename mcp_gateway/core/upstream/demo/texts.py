"""vLLM's completions as bytes, whole and as events, key by key in its order (vLLM 0.32)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, zip_longest
from typing import Any

import orjson

from mcp_gateway.core.upstream.demo.body import CompletionBody
from mcp_gateway.core.upstream.demo.reply import Step
from mcp_gateway.core.upstream.demo.wire import DONE, FINGERPRINT, likeliest


@dataclass(frozen=True, slots=True)
class TextHead:
    """What every part of one answer repeats, and what decides its shape."""

    id: str
    created_at_s: int
    model: str
    prompt_tokens: Sequence[int]
    """Of each prompt."""
    body: CompletionBody

    def opening(self) -> dict[str, Any]:
        """The keys that open an object."""
        return {"id": self.id, "object": "text_completion", "created": self.created_at_s, "model": self.model}

    def usage_of(self, choice: int, completion_tokens: int) -> dict[str, Any]:
        """What one choice has used, which vLLM counts with its own prompt."""
        return usage(self.prompt_tokens[choice // self.body.choices], completion_tokens)

    def total(self, completion_tokens: int) -> dict[str, Any]:
        return usage(sum(self.prompt_tokens), completion_tokens)


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    """Token counts in vLLM's order."""
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "total_tokens": total, "completion_tokens": completion_tokens}


def completion(head: TextHead, steps: Sequence[Sequence[Step]]) -> bytes:
    """A whole answer: the choices, each with all its steps."""
    spent = sum(choice[-1].completion_tokens for choice in steps)
    return orjson.dumps(
        {
            **head.opening(),
            "choices": [_choice(head.body, index, taken) for index, taken in enumerate(steps)],
            "service_tier": None,
            "system_fingerprint": FINGERPRINT,
            "usage": {**head.total(spent), "prompt_tokens_details": None, "completion_tokens_details": None},
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "metrics": None,
        }
    )


def events(head: TextHead, choices: Sequence[Iterator[Step]]) -> Iterator[tuple[int, bytes]]:
    """A streamed answer: each event with the number of tokens that a choice has by then."""
    spent = [0] * len(choices)
    lengths = [0] * len(choices)
    unfinished = len(choices)
    for round_ in zip_longest(*choices):
        for index, step in enumerate(round_):
            if step is None:
                continue
            spent[index] = step.completion_tokens
            unfinished -= step.finish_reason is not None
            told = head.usage_of(index, step.completion_tokens) if head.body.wants_continuous_usage else None
            is_last = not unfinished and not head.body.wants_usage
            part = _part(head.body, index, step, lengths[index])
            lengths[index] += len(_text_of(step))
            yield max(spent), _event(head, [part], told, is_last=is_last)
    if head.body.wants_usage:
        yield max(spent), _event(head, [], head.total(sum(spent)), is_last=True)
    yield max(spent), DONE


def _event(head: TextHead, choices: list[Any], told: dict[str, Any] | None, *, is_last: bool) -> bytes:
    chunk = {**head.opening(), "choices": choices}
    if told is not None:
        chunk["usage"] = told
    if is_last:
        chunk["system_fingerprint"] = FINGERPRINT
    return b"data: %b\n\n" % orjson.dumps(chunk)


def _choice(body: CompletionBody, index: int, steps: Sequence[Step]) -> dict[str, Any]:
    return {
        "index": index,
        "text": "".join(map(_text_of, steps)),
        "logprobs": _logprobs(body, [token for step in steps for token in step.tokens], 0),
        "finish_reason": steps[-1].finish_reason,
        "stop_reason": steps[-1].stop_reason,
        "token_ids": None,
        "prompt_logprobs": None,
        "prompt_token_ids": None,
        "routed_experts": None,
    }


def _part(body: CompletionBody, index: int, step: Step, offset: int) -> dict[str, Any]:
    return {
        "index": index,
        "text": _text_of(step),
        "logprobs": _logprobs(body, step.tokens, offset),
        "finish_reason": step.finish_reason,
        "stop_reason": step.stop_reason,
        "prompt_token_ids": None,
        "token_ids": None,
    }


def _text_of(step: Step) -> str:
    return str(step.delta.get("content", ""))


def _logprobs(body: CompletionBody, tokens: list[str], offset: int) -> dict[str, Any] | None:
    """Made up, always the same for a token, which is the likeliest one."""
    if body.logprobs is None:
        return None
    offsets = list(accumulate(map(len, tokens), initial=offset))[:-1]
    scores = list(map(likeliest, tokens))
    top = [{token: score} if body.logprobs else {} for token, score in zip(tokens, scores, strict=True)]
    return {"text_offset": offsets, "token_logprobs": scores, "tokens": tokens, "top_logprobs": top}
