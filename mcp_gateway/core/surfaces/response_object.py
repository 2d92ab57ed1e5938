"""The response object of OpenAI's Responses API, in one piece or within events: what is read of it, and its one form.

Nothing is kept here, so every answer says `store: false`. What would tell of a backend's inside is left out.
"""

from collections.abc import Callable
from typing import Any

from mcp_gateway.core.surfaces.credible import not_understood, read_finish_reason
from mcp_gateway.core.surfaces.error_shapes import failure_in
from mcp_gateway.core.surfaces.surface import Failure
from mcp_gateway.core.surfaces.usage import Usage, read_usage

_NOT_TOLD = ("input_messages", "output_messages", "kv_transfer_params", "ec_transfer_params")
"""vLLM's: the prompt as it was rendered, and where its caches are."""
_TOLD = frozenset({
    "background", "completed_at", "created_at", "frequency_penalty", "id", "incomplete_details", "instructions",
    "max_output_tokens", "max_tool_calls", "metadata", "output", "parallel_tool_calls", "presence_penalty",
    "previous_response_id", "reasoning", "status", "temperature", "text", "tool_choice", "tools", "top_logprobs",
    "top_p", "truncation", "usage",
})  # fmt: skip
"""Of a provider's response: other names may be of the operator's account."""
_REASONS = {"max_output_tokens": "length", "max_tokens": "length", "content_filter": "content_filter"}
"""Why a response is incomplete, in the words that records have for every surface."""
_CALLS = ("function_call", "custom_tool_call")
_ENDED_BADLY: dict[str, dict[str, Any]] = {"failed": {}, "cancelled": {"message": "aborted"}}
"""Statuses of an answer that is none; nobody here can cancel, so who did was the backend."""
_TEXTS = ("text", "refusal", "arguments", "input")
_LISTS = ("content", "summary")


def response_id(request_id: str) -> str:
    """The id that an answer has: a backend is asked to give it this one."""
    return f"resp_{request_id}"


def skeleton(request_id: str, model: str, status: str, created_at_s: int) -> dict[str, Any]:
    """A response of ours, of which nothing has come."""
    return {
        "id": response_id(request_id),
        "object": "response",
        "created_at": created_at_s,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": None,
        "model": model,
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "store": False,
        "temperature": None,
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "usage": None,
    }


def checked(response: Any) -> dict[str, Any]:
    """What a backend answered, if it is a response. Raises GatewayError `backend_error`."""
    if isinstance(response, dict) and isinstance(response.get("output"), list):
        return response
    raise not_understood()


def in_our_form(response: dict[str, Any], model: str) -> dict[str, Any]:
    """The same response under the public name of its model."""
    kept = {name: value for name, value in response.items() if name not in _NOT_TOLD}
    return {**kept, "error": kept.get("error"), "model": model, "store": False}


def in_openais_form(response: dict[str, Any], model: str) -> dict[str, Any]:
    """The same of a server whose account is not the caller's: nothing but what OpenAI tells of the answer itself."""
    kept = {name: value for name, value in response.items() if name in _TOLD}
    return {**kept, "object": "response", "error": kept.get("error"), "model": model, "store": False}


def usage_of(response: dict[str, Any]) -> Usage | None:
    """The usage that it tells; None where it tells none that can be read."""
    told = response.get("usage")
    if not isinstance(told, dict):
        return None
    counts = {"prompt_tokens": told.get("input_tokens"), "completion_tokens": told.get("output_tokens")}
    return read_usage(counts | {"prompt_tokens_details": told.get("input_tokens_details")})


def told_usage(response: dict[str, Any], billed: Usage, cost_usd: str | None = None) -> dict[str, Any]:
    """What is billed, in the shape that clients read: Codex gives an answer up whose details are no numbers."""
    written = {} if billed.cache_write_tokens is None else {"cache_write_tokens": billed.cache_write_tokens}
    usage: dict[str, Any] = {
        "input_tokens": billed.prompt_tokens,
        "input_tokens_details": {"cached_tokens": billed.cached_tokens or 0, **written},
        "output_tokens": billed.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": _reasoning_tokens(response, billed)},
        "total_tokens": billed.total_tokens,
    }
    return usage if cost_usd is None else usage | {"cost_usd": cost_usd}


def finish_reason_of(response: dict[str, Any]) -> str | None:
    """Why it ended, in the words that records have for every surface."""
    if response.get("status") == "incomplete":
        details = response.get("incomplete_details")
        reason = details.get("reason") if isinstance(details, dict) else None
        return read_finish_reason(_REASONS.get(reason, reason)) if isinstance(reason, str) else None
    kinds = [item.get("type") for item in response["output"] if isinstance(item, dict)]
    return "tool_calls" if any(kind in _CALLS for kind in kinds) else "stop"


def failure_of_response(
    response: dict[str, Any], read: Callable[[dict[str, Any]], Failure] = failure_in
) -> Failure | None:
    """What kept it from being an answer, as its error object is read; None for one that is."""
    error, assumed = response.get("error"), _ENDED_BADLY.get(str(response.get("status")))
    if not error and assumed is None:
        return None
    return read(error if isinstance(error, dict) else assumed or {})


def text_bytes_of(response: dict[str, Any]) -> int:
    """How many bytes its texts, its reasoning and the arguments of its calls have."""
    waiting, size_bytes = [item for item in response["output"] if isinstance(item, dict)], 0
    while waiting:
        one = waiting.pop()
        size_bytes += sum(len(one[name].encode()) for name in _TEXTS if isinstance(one.get(name), str))
        for name in _LISTS:
            parts = one.get(name)
            waiting += [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    return size_bytes


def _reasoning_tokens(response: dict[str, Any], billed: Usage) -> int:
    """As the backend tells them, where the rest that it tells is what is billed."""
    if usage_of(response) != billed:
        return 0
    details = response["usage"].get("output_tokens_details")
    count = details.get("reasoning_tokens") if isinstance(details, dict) else None
    return count if type(count) is int and 0 <= count <= billed.completion_tokens else 0
