"""GET /generation?id=: what a request used and cost, in the words in which OpenRouter's clients ask for it."""

from collections.abc import Callable, Collection, Sequence
from types import NoneType
from typing import Any, Literal

from http_api.answer_ids import request_id_in
from http_api.moments import timestamps
from http_api.operations import Asked, Nothing, Told
from http_api.query import Query
from http_api.requests import RequestRouting, routing_of
from mcp_gateway.core.catalog import VLLM
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.money import usd_number
from mcp_gateway.core.observe.history import History
from mcp_gateway.core.optimization import AUTO
from mcp_gateway.core.record import AskedAs, RequestRecord
from mcp_gateway.core.text import shown

_API_TYPES: dict[AskedAs, Literal["embeddings", "rerank"]] = {
    "embeddings": "embeddings", "rerank": "rerank", "score": "rerank",
}  # fmt: skip


class GenerationQuery(Query):
    """The id of an answer, or of the request that it was to."""

    id: str


class Generation(Told):
    """One request, with its further rounds where it used tools of other servers. Costs are numbers, in USD.

    Null is what this gateway does not know, told since OpenRouter's own SDKs want each name; times are in milliseconds.
    """

    id: str
    request_id: str
    upstream_id: None
    api_type: Literal["completions", "embeddings", "rerank"]
    model: str | None
    provider_name: str | None
    created_at: str
    streamed: bool
    cancelled: bool
    finish_reason: str | None
    native_finish_reason: str | None
    tokens_prompt: int
    tokens_completion: int
    native_tokens_prompt: int
    native_tokens_completion: int
    native_tokens_cached: int | None
    native_tokens_reasoning: None
    num_media_prompt: int
    total_cost: float
    usage: float
    upstream_inference_cost: None
    cache_discount: None
    is_byok: Literal[False]
    latency: int | None
    generation_time: int
    moderation_latency: None
    data_region: Literal["global"]
    origin: str
    app_id: None
    external_user: None
    http_referer: None
    native_tokens_completion_images: None
    num_fetches: None
    num_input_audio_prompt: None
    num_media_completion: None
    num_search_results: None
    preset_id: None
    provider_responses: None
    router: Literal["auto"] | None
    routing: RequestRouting | None
    service_tier: None
    session_id: None
    user_agent: None
    web_search_engine: None
    workspace_id: None


_UNKNOWN = tuple(name for name, field in Generation.model_fields.items() if field.annotation is NoneType)


class GenerationObject(Told):
    data: Generation


class Generations:
    """Reads the request log; `sources` are the names of who may have answered, as of now."""

    def __init__(self, history: History, sources: Callable[[], Collection[str]]) -> None:
        self._history = history
        self._sources = sources

    async def get(self, asked: Asked[GenerationQuery, Nothing]) -> GenerationObject:
        caller, found = asked.caller, request_id_in(asked.query.id)
        if found is None:
            message = f"`id` must be that of an answer or of a request, not '{shown(asked.query.id)}'."
            raise GatewayError("invalid_value", message, param="id")
        record = await self._history.get(caller.account_id, found, within=caller.within)
        rounds = [record, *await self._history.rounds(record)]
        return GenerationObject(data=Generation(id=asked.query.id, **self._about(rounds), **_used(rounds)))

    def _about(self, rounds: Sequence[RequestRecord]) -> dict[str, Any]:
        """What was asked, and how it ended: the last round says."""
        first, last = rounds[0], rounds[-1]
        source = last.backend if last.backend is None or last.backend in self._sources() else VLLM
        return {
            "request_id": first.id,
            "api_type": _API_TYPES.get(first.surface, "completions"),
            "model": last.model,
            "provider_name": source,
            "created_at": timestamps(first.started_at_ms)["time"],
            "streamed": first.is_stream,
            "cancelled": last.error_code == "client_closed",
            "finish_reason": last.finish_reason,
            "native_finish_reason": last.finish_reason,
            "router": None if first.routing is None else AUTO,
            "routing": routing_of(first),
            "is_byok": False,
            "latency": first.latency_ms if first.first_token_ms is None else first.first_token_ms,
            "generation_time": sum(record.latency_ms for record in rounds),
            "data_region": "global",
            "origin": "",
        } | dict.fromkeys(_UNKNOWN)


def _used(rounds: Sequence[RequestRecord]) -> dict[str, Any]:
    prompt_tokens = sum(record.prompt_tokens for record in rounds)
    completion_tokens = sum(record.completion_tokens for record in rounds)
    cached = [record.cached_tokens for record in rounds if record.cached_tokens is not None]
    cost = usd_number(sum(record.cost_nano for record in rounds))
    return {
        "tokens_prompt": prompt_tokens,
        "tokens_completion": completion_tokens,
        "native_tokens_prompt": prompt_tokens,
        "native_tokens_completion": completion_tokens,
        "native_tokens_cached": sum(cached) if cached else None,
        "num_media_prompt": sum(record.images for record in rounds),
        "total_cost": cost,
        "usage": cost,
    }
