"""vLLM's answers as bytes: chat completions whole and as events, key by key in its order (vLLM 0.32)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, zip_longest
from typing import Any

import orjson

from mcp_gateway.core.upstream.demo.body import ChatBody
from mcp_gateway.core.upstream.demo.reply import DemoReply, Step
from mcp_gateway.core.upstream.demo.tokens import id_of

DONE = b"data: [DONE]\n\n"
FINGERPRINT = "demo-0"

_OTHER_TOKENS = tuple(f" {letter}" for letter in "abcdefghijklmnopqrstuvwxyz")
_STEPS = 64


@dataclass(frozen=True, slots=True)
class Head:
    """What every part of one answer repeats, and what decides its shape."""

    id: str
    created_at_s: int
    model: str
    prompt_tokens: int
    body: ChatBody

    def usage(self, completion_tokens: int) -> dict[str, Any]:
        """Token counts in vLLM's order."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + completion_tokens,
            "completion_tokens": completion_tokens,
        }

    def opening(self, kind: str) -> dict[str, Any]:
        """The keys that open an object of this kind."""
        return {"id": self.id, "object": kind, "created": self.created_at_s, "model": self.model}


def completion(head: Head, replies: Sequence[DemoReply], steps: Sequence[Sequence[Step]]) -> bytes:
    """A whole answer: the choices, each with all its steps."""
    spent = sum(choice[-1].completion_tokens for choice in steps)
    return orjson.dumps(
        {
            **head.opening("chat.completion"),
            "choices": [
                _choice(head.body, index, reply, taken)
                for index, (reply, taken) in enumerate(zip(replies, steps, strict=True))
            ],
            "service_tier": None,
            "system_fingerprint": FINGERPRINT,
            "usage": {**head.usage(spent), "prompt_tokens_details": None, "completion_tokens_details": None},
            "prompt_logprobs": None,
            "prompt_token_ids": None,
            "prompt_text": None,
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "metrics": None,
        }
    )


def _choice(body: ChatBody, index: int, reply: DemoReply, steps: Sequence[Step]) -> dict[str, Any]:
    tokens = [token for step in steps for token in step.tokens]
    return {
        "index": index,
        "message": message_of(reply, steps, tokens),
        "logprobs": _logprobs(body, tokens),
        "finish_reason": steps[-1].finish_reason,
        "stop_reason": steps[-1].stop_reason,
        "token_ids": None,
        "routed_experts": None,
    }


def message_of(reply: DemoReply, steps: Sequence[Step], tokens: list[str]) -> dict[str, Any]:
    """The message; calls that were cut are shown as the text that they would have been read from, as vLLM does."""
    is_whole_call = reply.tool_calls and steps[-1].finish_reason != "length"
    if is_whole_call:
        content = reply.content
    elif reply.tool_calls:
        content = "".join(tokens)
    else:
        content = "".join(step.delta.get("content", "") for step in steps)
    return {
        "role": "assistant",
        "content": content,
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
        **({"tool_calls": reply.tool_calls} if is_whole_call else {}),
        "reasoning": None,
    }


def events(head: Head, choices: Sequence[Iterator[Step]]) -> Iterator[tuple[int, bytes]]:
    """A streamed answer: each event with the number of tokens that a choice has by then."""
    opening = {"prompt_token_ids": None, "prompt_text": None}
    for index in range(len(choices)):
        delta = {"role": "assistant", "content": ""}
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        yield 1, _event(head, [choice], head.usage(0) if head.body.wants_continuous_usage else None, opening)
    spent = [0] * len(choices)
    unfinished = len(choices)
    for round_ in zip_longest(*choices):
        for index, step in enumerate(round_):
            if step is None:
                continue
            spent[index] = step.completion_tokens
            unfinished -= step.finish_reason is not None
            usage = head.usage(step.completion_tokens) if head.body.wants_continuous_usage else None
            is_last = not unfinished and not head.body.wants_usage
            closing = {"system_fingerprint": FINGERPRINT} if is_last else {}
            yield max(spent), _event(head, [_part(head.body, index, step)], usage, closing)
    if head.body.wants_usage:
        total = {"usage": head.usage(sum(spent)), "system_fingerprint": FINGERPRINT}
        yield max(spent), _event(head, [], None, total)
    yield max(spent), DONE


def _part(body: ChatBody, index: int, step: Step) -> dict[str, Any]:
    return {
        "index": index,
        "delta": step.delta,
        "logprobs": _logprobs(body, step.tokens),
        "finish_reason": step.finish_reason,
        **({"stop_reason": step.stop_reason} if step.finish_reason else {}),
        "token_ids": None,
    }


def _event(head: Head, choices: list[Any], usage: dict[str, Any] | None, rest: dict[str, Any]) -> bytes:
    chunk = {**head.opening("chat.completion.chunk"), "choices": choices}
    if usage is not None:
        chunk["usage"] = {**usage, "completion_tokens_details": None}
    return b"data: " + orjson.dumps({**chunk, **rest}) + b"\n\n"


def _logprobs(body: ChatBody, tokens: list[str]) -> dict[str, Any] | None:
    return {"content": [_token_logprob(body, token) for token in tokens]} if body.logprobs else None


def _token_logprob(body: ChatBody, token: str) -> dict[str, Any]:
    """A made-up logprob, always the same for a token; the likelier a token the earlier it stands."""
    step, wanted = id_of(token) % _STEPS, body.top_logprobs or 0
    is_by_id = bool(body.return_tokens_as_token_ids)
    told = _scored(token, _likeliest(step), is_by_id=is_by_id)
    other_than = token if token in _OTHER_TOKENS else None
    return {**told, "top_logprobs": [told, *_others(step, other_than, wanted - 1, is_by_id)] if wanted else []}


@lru_cache(maxsize=256)
def _others(step: int, other_than: str | None, count: int, is_by_id: bool) -> list[dict[str, Any]]:
    """What could have stood for a token. Kept, since a long answer would have them made twenty times a token."""
    tokens = islice((token for token in _OTHER_TOKENS if token != other_than), count)
    return [_scored(token, _likeliest(step) - rank, is_by_id=is_by_id) for rank, token in enumerate(tokens, 1)]


def likeliest(token: str) -> float:
    """The log probability of a token that is the likeliest in its place."""
    return _likeliest(id_of(token) % _STEPS)


def _likeliest(step: int) -> float:
    return -0.01 - step / (2 * _STEPS)


def _scored(token: str, logprob: float, *, is_by_id: bool) -> dict[str, Any]:
    shown = f"token_id:{id_of(token)}" if is_by_id else token
    return {"token": shown, "logprob": logprob, "bytes": list(token.encode())}
