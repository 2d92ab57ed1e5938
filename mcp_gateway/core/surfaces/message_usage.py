"""Usage as Anthropic tells it: the prompt's tokens come in parts, of which `input_tokens` is what no cache had."""

from collections.abc import Mapping
from typing import Any

from mcp_gateway.core.surfaces.chunks import objects_in
from mcp_gateway.core.surfaces.usage import Usage, count_of

_INPUT, _OUTPUT = "input_tokens", "output_tokens"
_READ, _WRITTEN = "cache_read_input_tokens", "cache_creation_input_tokens"
_PROMPT = (_INPUT, _READ, _WRITTEN)
_ROUNDS = "iterations"
_DETAILS = frozenset({"cache_creation", "output_tokens_details"})
"""Parts of these counts that are told beside them."""


def counts_in(told: Any) -> dict[str, Any]:
    """What is told as usage, whose counts are those of all rounds of sampling that the answer took; {} for no object.

    The count beside the rounds may leave out what was asked of the model, or of another, on the way.
    """
    if not isinstance(told, dict):
        return {}
    return _of_rounds(told) if told.get(_ROUNDS) else told


def prompt_in(told: Mapping[str, Any], before: Usage | None = None) -> Usage | None:
    """The prompt that a usage object tells, with an output of 0; None where it tells none.

    Counts of a stream are told for all that came, each for itself: one that is not told stays as it was `before`.
    """
    # Each part by itself: every event of a stream that tells usage comes here.
    rest, read, written = count_of(told.get(_INPUT)), count_of(told.get(_READ)), count_of(told.get(_WRITTEN))
    if before is not None:
        if rest is None:
            rest = before.prompt_tokens - (before.cached_tokens or 0) - (before.cache_write_tokens or 0)
        if read is None:
            read = before.cached_tokens
        if written is None:
            written = before.cache_write_tokens
    return None if rest is None else Usage(rest + (read or 0) + (written or 0), 0, read, written)


def output_in(told: Mapping[str, Any]) -> int | None:
    """The answer's tokens that a usage object tells."""
    return count_of(told.get(_OUTPUT))


def usage_in(told: Any) -> Usage | None:
    """The usage that an answer in one piece tells."""
    counts = counts_in(told)
    prompt, output = prompt_in(counts), output_in(counts)
    return None if prompt is None or output is None else prompt._replace(completion_tokens=output)


def as_told(usage: Usage) -> dict[str, int]:
    """A usage in Anthropic's words."""
    cached, written = usage.cached_tokens or 0, usage.cache_write_tokens or 0
    rest = usage.prompt_tokens - cached - written
    return {_INPUT: rest, _WRITTEN: written, _READ: cached, _OUTPUT: usage.completion_tokens}


def details_in(told: Any) -> dict[str, dict[str, int]]:
    """What a usage object tells of the parts of its counts."""
    if not isinstance(told, dict) or _DETAILS.isdisjoint(told):
        return {}
    found = {name: one for name, one in told.items() if name in _DETAILS and isinstance(one, dict)}
    return {name: {part: count for part, count in one.items() if type(count) is int} for name, one in found.items()}


def _of_rounds(told: dict[str, Any]) -> dict[str, Any]:
    """The same with each count as the sum over the rounds, where that is more."""
    rounds = objects_in(told[_ROUNDS])
    counts = {**told}
    for name in (*_PROMPT, _OUTPUT):
        known = [count for one in rounds if (count := count_of(one.get(name))) is not None]
        if known:
            counts[name] = max(count_of(told.get(name)) or 0, sum(known))
    return counts
