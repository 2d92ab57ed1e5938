"""Usage as Anthropic tells it: the prompt's tokens come in parts, of which `input_tokens` is what no cache had."""

from collections.abc import Mapping, Sequence
from typing import Any

from mcp_gateway.core.surfaces.chunks import objects_in
from mcp_gateway.core.surfaces.usage import Usage, count_of

_INPUT, _OUTPUT = "input_tokens", "output_tokens"
_READ, _WRITTEN = "cache_read_input_tokens", "cache_creation_input_tokens"
_PROMPT = (_INPUT, _READ, _WRITTEN)
_DETAILS = ("cache_creation", "output_tokens_details")
"""Parts of these counts that are told beside them."""


def prompt_in(told: Mapping[str, Any], before: Usage | None = None) -> Usage | None:
    """The prompt that a usage object tells, with an output of 0; None where it tells none.

    Counts of a stream are told for all that came, each for itself: one that is not told stays as it was `before`.
    """
    parts = _counts(told, _PROMPT)
    if before is not None:
        kept = as_told(before)[_INPUT], before.cached_tokens, before.cache_write_tokens
        parts = [was if part is None else part for part, was in zip(parts, kept, strict=True)]
    if parts[0] is None:
        return None
    return Usage(sum(part or 0 for part in parts), 0, *parts[1:])


def output_in(told: Mapping[str, Any]) -> int | None:
    """The answer's tokens that a usage object tells."""
    return _counts(told, (_OUTPUT,))[0]


def usage_in(told: Any) -> Usage | None:
    """The usage that an answer in one piece tells."""
    if not isinstance(told, dict):
        return None
    prompt, output = prompt_in(told), output_in(told)
    return None if prompt is None or output is None else prompt._replace(completion_tokens=output)


def as_told(usage: Usage) -> dict[str, int]:
    """A usage in Anthropic's words."""
    cached, written = usage.cached_tokens or 0, usage.cache_write_tokens or 0
    rest = usage.prompt_tokens - cached - written
    return {_INPUT: rest, _WRITTEN: written, _READ: cached, _OUTPUT: usage.completion_tokens}


def details_in(told: Any) -> dict[str, dict[str, int]]:
    """What a usage object tells of the parts of its counts."""
    if not isinstance(told, dict):
        return {}
    found = {name: told[name] for name in _DETAILS if isinstance(told.get(name), dict)}
    return found and {
        name: {part: count for part, count in one.items() if type(count) is int} for name, one in found.items()
    }


def _counts(told: Mapping[str, Any], names: Sequence[str]) -> list[int | None]:
    """These counts, or of each the sum over the rounds of sampling that an answer took, where that is more.

    The count beside them may leave out what was asked of the model, or of another, on the way.
    """
    own = [count_of(told.get(name)) for name in names]
    rounds = told.get("iterations")
    return [_of_rounds(rounds, name, one) for name, one in zip(names, own, strict=True)] if rounds else own


def _of_rounds(rounds: Any, name: str, own: int | None) -> int | None:
    counts = [count for one in objects_in(rounds) if (count := count_of(one.get(name))) is not None]
    return max(own or 0, sum(counts)) if counts else own
