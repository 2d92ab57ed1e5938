"""list_models: what there is to choose from, with prices and health."""

import json
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import Any, get_args

import orjson
from mcp import types

from mcp_gateway.core.caller import Caller, KeyScope
from mcp_gateway.core.catalog import Model, Published
from mcp_gateway.core.config import Task
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.limits.limiter import Limiter, counted
from mcp_gateway.core.money import MILLION_TOKENS
from mcp_gateway.core.optimization import AUTO, MODES
from mcp_gateway.core.prices import as_fields
from mcp_gateway.core.routing.auto_model import AutoModel
from mcp_gateway.core.upstream.pool import ModelStatus, Pool
from mcp_gateway.tools.arguments import Arguments
from mcp_gateway.tools.pages import first_page, models_behind
from mcp_gateway.tools.tool import Invocation, Result, output_schema, result

_MAX_PRICE_DIGITS = 30
"""Before the point; far above any price, and far below where decimal arithmetic ends."""

_PAGE_MODELS = 100
_MOST_OF_POOL = 100
"""Told of those that `auto` chooses from."""
_PAGE_BYTES = 128 * 1024
"""What a model can read at once; the text says most of it again."""
_MORE = "There are more models: call list_models again with the same arguments and cursor {}, or with more conditions."

ARGUMENTS = Arguments(
    {
        "type": "object",
        "properties": {
            "capability": {
                "type": "string",
                "enum": ["tools", "json_mode", "structured_outputs", "logprobs", "reasoning", "image"],
                "description": "Only models that can do this.",
            },
            "max_price_usd": {
                "type": ["number", "string"],
                "description": "Only models whose input and output both cost at most this, in USD per million tokens.",
            },
            "cursor": {"type": "string", "description": "For the next page: `next_cursor` of the one before."},
        },
    }
)

_TOKENS = ("input", "output", "cached_input", "cache_write")
"""As Rates has them."""
_FEES = {"usd_per_request": "a request", "usd_per_image": "an image"}
_RATES: dict[str, Any] = {f"{tokens}_usd_per_million_tokens": {"type": "string"} for tokens in _TOKENS}
_MODEL: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "description": "What other tools take as `model`."},
        "name": {"type": "string"},
        "description": {"type": "string"},
        "context_window": {"type": "integer", "description": "Tokens of input and output together."},
        "max_output_tokens": {"type": "integer"},
        **_RATES,
        **{fee: {"type": "string"} for fee in _FEES},
        "tiers": {
            "type": "array",
            "items": {"type": "object", "properties": {"above_prompt_tokens": {"type": "integer"}, **_RATES}},
            "description": "What all tokens of a request cost whose prompt is longer.",
        },
        "features": {"type": "array", "items": {"type": "string"}},
        "input_modalities": {"type": "array", "items": {"type": "string"}},
        "served_by": {"type": "string", "description": "The provider that is asked first; vllm are the own servers."},
        "status": {"type": "string", "enum": ["ready", "loading", "unavailable"]},
        "task": {"type": "string", "enum": list(get_args(Task)), "description": "What it is for alone, if it is."},
        "guests": {"type": "boolean", "description": "Usable without an API key."},
        "model_pool": {"type": "array", "items": {"type": "string"}, "description": "Whom `auto` chooses from."},
        "modes": {"type": "array", "items": {"type": "string"}, "description": "What `auto` may choose by."},
    },
    "required": ["id", "context_window", "input_usd_per_million_tokens", "output_usd_per_million_tokens", "status"],
}


class ListModels:
    """The catalog in force."""

    scope: KeyScope = "inference"
    needs: Task | None = None
    is_for_minters = False
    is_regional: bool = False
    is_text_whole = True
    definition = types.Tool(
        name="list_models",
        title="List models",
        description="List the models of this gateway: id, context window, prices, capabilities and health.",
        input_schema=ARGUMENTS.schema,
        output_schema=output_schema(
            {
                "models": {"type": "array", "items": _MODEL},
                "next_cursor": {
                    "type": "string",
                    "description": "Where there are more: ask again with it as `cursor`.",
                },
            }
        ),
        annotations=types.ToolAnnotations(
            read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
        ),
    )

    def __init__(self, published: Published, auto_model: AutoModel, pool: Pool, limiter: Limiter) -> None:
        self._published = published
        self._auto_model = auto_model
        self._pool = pool
        self._limiter = limiter

    async def __call__(self, arguments: dict[str, Any], invocation: Invocation) -> Result:
        self._published.check_reader(invocation.caller)
        await counted(self._limiter, invocation.caller)
        given = ARGUMENTS.taken(arguments)
        limit_usd = _price_limit_usd(given.get("max_price_usd"))
        able = (
            self._row(model, invocation.caller)
            for model in self._models(given.get("cursor"), invocation.caller)
            if _can(model, given.get("capability"))
        )
        found = (row for row in able if _costs_at_most(row, limit_usd))
        rows, has_more = first_page(found, row_bytes, max_entries=_PAGE_MODELS, max_bytes=_PAGE_BYTES)
        lines = [*map(_line, rows)] or ["No model matches; ask again with fewer conditions."]
        told: dict[str, Any] = {"models": rows}
        if has_more:
            told["next_cursor"] = rows[-1]["id"]
            lines.append(_MORE.format(json.dumps(told["next_cursor"], ensure_ascii=False)))
        return result("\n".join(lines), told)

    def _models(self, cursor: str | None, caller: Caller) -> Iterator[Model]:
        """`auto` comes last, whatever page it is on, so that no cursor is its name."""
        yield from models_behind(cursor, self._published.seen_by(caller))
        if (auto := self._auto_model.seen_by(caller)) is not None:
            yield auto

    def _row(self, model: Model, caller: Caller) -> dict[str, Any]:
        row = model_row(model, self._pool.status_of(model))
        if model.id == AUTO:
            ids = [member.id for member in self._auto_model.pool(caller).models]
            row |= {"model_pool": ids[:_MOST_OF_POOL], "modes": list(MODES)}
        return row


def row_bytes(row: dict[str, Any]) -> int:
    """How much a model's row takes as JSON."""
    return len(orjson.dumps(row))


def model_row(model: Model, status: ModelStatus) -> dict[str, Any]:
    """A model as its choosers need it, prices in USD per million tokens."""
    task = {} if model.task is None else {"task": model.task}
    return {
        "id": model.id,
        "name": model.name,
        "description": model.description,
        "context_window": model.context_window,
        "max_output_tokens": model.max_output_tokens,
        **as_fields(model.price, _RATES, _FEES, MILLION_TOKENS),
        "features": list(model.features),
        "input_modalities": list(model.input_modalities),
        **({} if model.id == AUTO else {"served_by": model.offers[0].source}),
        "status": status,
        "guests": model.is_open_to_guests,
    } | task


def _can(model: Model, capability: str | None) -> bool:
    return capability is None or capability in model.features or capability in model.input_modalities


def _costs_at_most(row: dict[str, Any], limit_usd: Decimal | None) -> bool:
    """By the prices that the row tells, which are the caller's own."""
    if limit_usd is None:
        return True
    return all(Decimal(row[f"{tokens}_usd_per_million_tokens"]) <= limit_usd for tokens in ("input", "output"))


def _price_limit_usd(asked: float | str | None) -> Decimal | None:
    """For a million tokens. Raises GatewayError `invalid_value`."""
    if asked is None:
        return None
    try:
        limit = Decimal(str(asked))
    except InvalidOperation:
        limit = Decimal("NaN")
    if not limit.is_finite() or limit < 0 or limit.adjusted() > _MAX_PRICE_DIGITS:
        message = "`max_price_usd` must be USD per million tokens, as in 0.5."
        raise GatewayError("invalid_value", message, param="max_price_usd")
    return limit


def _line(row: dict[str, Any]) -> str:
    prices = (
        f"{row['input_usd_per_million_tokens']} in, {row['output_usd_per_million_tokens']} out{_further_words(row)}"
    )
    abilities = ", ".join((*row["features"], *row["input_modalities"]))
    window = f"context {row['context_window']} tokens"
    return f"{row['id']}: {row['status']}, {window}, USD per million tokens {prices}; {abilities}{_choice_words(row)}"


def _choice_words(row: dict[str, Any]) -> str:
    if "model_pool" not in row:
        return ""
    return f"; chooses one of {', '.join(row['model_pool'])} by {', '.join(row['modes'])}"


def _further_words(row: dict[str, Any]) -> str:
    """What else a request costs; what caches save of it is in the data alone."""
    words = [f", {row[name]} {what}" for name, what in _FEES.items() if name in row]
    if "tiers" in row:
        words.append(f", other rates above {row['tiers'][0]['above_prompt_tokens']} prompt tokens")
    return "".join(words)
