"""Which models may serve a request at all, and what stands in the way of the others. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, NamedTuple

from mcp_gateway.core.catalog import Model
from mcp_gateway.core.config import Feature
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.prices import MARGIN_WHOLE
from mcp_gateway.core.text import shown

Obstacle = Literal[
    "pool", "generation", "surface", "down", "context", "tools", "json_mode", "structured_outputs", "logprobs",
    "reasoning", "image", "price",
]  # fmt: skip
IN_WORDS: dict[Obstacle, str] = {
    "pool": "not in the pool",
    "generation": "generates no text",
    "surface": "cannot be asked by this endpoint",
    "down": "down",
    "context": "context window too small",
    "tools": "takes no tools",
    "json_mode": "has no JSON mode",
    "structured_outputs": "follows no JSON schema",
    "logprobs": "tells no logprobs",
    "reasoning": "does not reason",
    "image": "takes no images",
    "price": "dearer than `routing.max_price_per_million`",
}
_UNTOLD: frozenset[Obstacle] = frozenset(("pool", "generation"))
"""A model with one of these is none that the caller has asked about."""
_MOST_NAMED = 10


class Contender(NamedTuple):
    """A model as it is now; None for a speed that nobody knows.

    `has_surface` is whether it can be asked by the request's endpoint, `is_up` whether some backend may be expected to
    serve it.
    """

    model: Model
    is_up: bool = True
    first_token_s: float | None = None
    tokens_per_s: float | None = None
    has_surface: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """What a request needs of a model, whichever it is; `pool` is of public ids, None for every model there is."""

    prompt_tokens: int
    output_limit: int | None = None
    images: int = 0
    needs: frozenset[Feature] = frozenset()
    pool: frozenset[str] | None = None
    max_price_pico: Fraction | int | None = None
    """For one token, of a prompt or an answer."""


Removed = Mapping[str, Obstacle]
"""By a model's id, the first thing that stood in its way."""


class Eligibility(NamedTuple):
    able: list[Contender]
    removed: Removed
    only_down: list[str]
    """Those that could serve the request if they were up."""


def eligible(contenders: Sequence[Contender], required: Requirements, output_tokens: int) -> Eligibility:
    """`output_tokens` are those that an answer is expected to have.

    Where no window has room for them, one that has room for any will do, as it does for who names the model.
    """
    if required.output_limit is not None:
        output_tokens = min(required.output_limit, output_tokens)
    found = _sorted_out(contenders, required, output_tokens)
    return found if found.able or output_tokens <= 1 else _sorted_out(contenders, required, 1)


def _sorted_out(contenders: Sequence[Contender], required: Requirements, output_tokens: int) -> Eligibility:
    able: list[Contender] = []
    removed: dict[str, Obstacle] = {}
    only_down = []
    for contender in contenders:
        obstacles = _obstacles(contender, required, output_tokens)
        if not obstacles:
            able.append(contender)
            continue
        removed[contender.model.id] = obstacles[0]
        if obstacles == ["down"]:
            only_down.append(contender.model.id)
    return Eligibility(able, removed, only_down)


def nothing_eligible(found: Eligibility) -> GatewayError:
    """The refusal where nobody is left, which names only models that the caller may see."""
    told = _told(found.removed)
    if found.only_down:
        return GatewayError("model_unavailable", f"No model of the pool can serve this request now. {told}".strip())
    message = f"No model of the pool can serve this request. {told}" if told else "You may use no model of this pool."
    return GatewayError("model_not_found", message, param="model")


def _obstacles(contender: Contender, required: Requirements, output_tokens: int) -> list[Obstacle]:
    """All of them, the first that counts at the beginning; a list, since this is done for each model of a request."""
    model = contender.model
    found: list[Obstacle] = []
    if required.pool is not None and model.id not in required.pool:
        found.append("pool")
    if model.output_kind != "text":
        found.append("generation")
    if not contender.has_surface:
        found.append("surface")
    if not contender.is_up:
        found.append("down")
    if required.prompt_tokens + output_tokens > model.context_window:
        found.append("context")
    if required.needs:
        found += sorted(required.needs.difference(model.features))
    if required.images and "image" not in model.input_modalities:
        found.append("image")
    if required.max_price_pico is not None and _is_dearer(model, required.prompt_tokens, required.max_price_pico):
        found.append("price")
    return found


def _is_dearer(model: Model, prompt_tokens: int, max_price_pico: Fraction | int) -> bool:
    """Whether a token of the prompt or of the answer costs more, with the margin of the account."""
    rates = model.price.most_rates(prompt_tokens)
    most_pico = max(rates.prompt_pico, rates.completion_pico)
    return most_pico * (MARGIN_WHOLE + model.price.margin) > max_price_pico * MARGIN_WHOLE


def _told(removed: Removed) -> str:
    by_obstacle: dict[Obstacle, list[str]] = {}
    for model_id, obstacle in removed.items():
        if obstacle not in _UNTOLD:
            by_obstacle.setdefault(obstacle, []).append(shown(model_id))
    return " ".join(f"{_begun(IN_WORDS[obstacle])}: {_named(ids)}." for obstacle, ids in by_obstacle.items())


def _begun(words: str) -> str:
    """As a sentence begins; what else is in capitals stays so."""
    return words[0].upper() + words[1:]


def _named(ids: Sequence[str]) -> str:
    more = f", and {len(ids) - _MOST_NAMED} more" if len(ids) > _MOST_NAMED else ""
    return ", ".join(ids[:_MOST_NAMED]) + more
