"""Usage as providers tell it, which they do in five places and by several names, in OpenAI's one form."""

from typing import Any

from mcp_gateway.core.surfaces.chunks import objects_in
from mcp_gateway.core.surfaces.usage import count_of


def usage_told(told: dict[str, Any]) -> dict[str, Any] | None:
    """The usage that an answer or a chunk tells, in OpenAI's form; of several the last is the one that counts."""
    places = [choice.get("usage") for choice in objects_in(told.get("choices"))]
    inner = (told.get(name) for name in ("x_groq", "message", "response"))
    places += [one.get("usage") for one in inner if isinstance(one, dict)]
    places.append(told.get("usage"))
    return next((usage for place in reversed(places) if (usage := _in_one_form(place)) is not None), None)


def _in_one_form(value: Any) -> dict[str, Any] | None:
    """None for what is no usage. Of output counts what all is more than the prompt, where the reasoning is left out."""
    if not isinstance(value, dict):
        return None
    prompt, completion = count_of(value.get("prompt_tokens")), count_of(value.get("completion_tokens"))
    if prompt is None:
        return None
    total = count_of(value.get("total_tokens")) or 0
    output = max(completion or 0, total - prompt)
    if not (prompt or output):
        return None  # a place that is kept for it
    usage: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
    if prompt_details := _prompt_details(value, prompt):
        usage["prompt_tokens_details"] = prompt_details
    if (reasoning := _detail(value, "completion_tokens_details", "reasoning_tokens")) is not None:
        usage["completion_tokens_details"] = {"reasoning_tokens": min(reasoning, output)}
    return usage


def _prompt_details(value: dict[str, Any], prompt: int) -> dict[str, int]:
    details = "prompt_tokens_details"
    told = (_detail(value, details, "cached_tokens"), *map(value.get, ("prompt_cache_hit_tokens", "cached_tokens")))
    cached = next((count for one in told if (count := count_of(one)) is not None), None)
    written = _detail(value, details, "cache_write_tokens")
    found = {} if cached is None else {"cached_tokens": min(cached, prompt)}
    if written is not None:
        found["cache_write_tokens"] = min(written, prompt - found.get("cached_tokens", 0))
    return found


def _detail(value: dict[str, Any], details: str, name: str) -> int | None:
    held = value.get(details)
    return count_of(held.get(name)) if isinstance(held, dict) else None
