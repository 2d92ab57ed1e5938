"""What bodies to vLLM have in common, whichever surface they come from, and where a prompt is counted."""

from collections.abc import Iterable, Sequence
from typing import Any

from mcp_gateway.core.dialects.cache_salt import cache_salt
from mcp_gateway.core.dialects.dialect import Counting
from mcp_gateway.core.json_bounds import dump_json
from mcp_gateway.core.surfaces.surface import Ask, Terms

TOKENIZE_PATH = "/tokenize"


def bound(body: dict[str, Any], terms: Terms, caps: Sequence[str], preferred: str = "max_tokens") -> None:
    """Lower every field that governs the answer's length to what the terms allow; without a limit none is named.

    `caps` are the fields that limit it, of which the `preferred` one is set where the caller named none.
    """
    limit = terms.output_limit
    named = [name for name in caps if body.get(name) is not None]
    for name in named:
        if limit is None:
            del body[name]
        elif body[name] > limit:
            body[name] = limit
    if limit is not None and not named:
        body[preferred] = limit
    most = terms.ceiling if limit is None else limit
    if (least := body.get("min_tokens")) is not None and least > most:
        body["min_tokens"] = most


def joined(prompts: Any) -> str:
    """The texts of one or several prompts as one; empty for token ids."""
    if isinstance(prompts, str):
        return prompts
    return "".join(one for one in prompts if isinstance(one, str)) if isinstance(prompts, list) else ""


def ask_for_usage(body: dict[str, Any]) -> None:
    """Have the answer be a stream that tells its usage in every frame."""
    body["stream"] = True
    body["stream_options"] = {
        **(body.get("stream_options") or {}),
        "include_usage": True,
        "continuous_usage_stats": True,
    }


def generating(
    ask: Ask, terms: Terms, backend_model: str, account_id: str, caps: Sequence[str], *, is_stream: bool
) -> bytes:
    """What was sifted of the caller's own, renamed and bounded, with usage asked for in every frame of a stream."""
    body = ask.body | {"model": backend_model, "cache_salt": cache_salt(account_id)}
    bound(body, terms, caps)
    if is_stream:
        ask_for_usage(body)
    return dump_json(body)


def counting_with(
    body: dict[str, Any], fields: Iterable[str], backend_model: str, path: str = TOKENIZE_PATH
) -> Counting:
    """Asks to count the prompt that these fields of a body make."""
    kept = {name: body[name] for name in fields if name in body}
    return Counting(path, dump_json({"model": backend_model, **kept}))


def counting_of(text: str, backend_model: str) -> Counting | None:
    """Asks to count a text that no template is put around; None for an empty one."""
    return Counting(TOKENIZE_PATH, dump_json({"model": backend_model, "prompt": text})) if text else None
