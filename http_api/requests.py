"""GET /requests and /requests/{id}: the metadata of an account's requests that have ended; never their content."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any

from pydantic import Field, model_validator
from starlette.requests import Request
from starlette.responses import Response

from http_api.holders import key_holder
from http_api.paging import PageQuery, cursor_key, list_object
from http_api.query import Moment, Query, read_query, whole_day
from http_api.responses import json_response, timestamps
from mcp_gateway.core.caller import Caller
from mcp_gateway.core.limits.limiter import Limiter
from mcp_gateway.core.money import format_usd
from mcp_gateway.core.observe.history import History, Wanted
from mcp_gateway.core.record import Door, RequestRecord


class RequestsQuery(PageQuery):
    """Filters hold together; `status` is the HTTP status, `since` inclusive, `until` exclusive as in GET /usage."""

    _whole_day = model_validator(mode="before")(whole_day)
    cursor: Annotated[str | None, cursor_key(re.compile(r"req_[0-9a-z]+"))] = None
    model: str | None = None
    key: str | None = None
    status: Annotated[int | None, Field(ge=100, le=599)] = None
    error_code: str | None = None
    door: Door | None = None
    since: Moment | None = None
    until: Moment | None = None
    client_request_id: str | None = None


class Requests:
    def __init__(self, history: History, limiter: Limiter) -> None:
        self._history = history
        self._limiter = limiter

    async def list(self, request: Request) -> Response:
        caller = key_holder(request, self._limiter)
        asked = read_query(request, RequestsQuery)
        wanted = Wanted(
            asked.model, asked.key, asked.status, asked.error_code, asked.door, asked.since, asked.until,
            asked.client_request_id,
        )  # fmt: skip
        rows = await self._history.page(caller.account_id, wanted, before_id=asked.cursor, limit=asked.limit + 1)
        show = partial(_object, *await self._beside(caller, rows))
        return json_response(list_object(rows, asked.limit, lambda record: record.id, show))

    async def get(self, request: Request) -> Response:
        caller = key_holder(request, self._limiter)
        read_query(request, Query)
        record = await self._history.get(caller.account_id, request.path_params["request_id"])
        return json_response(_object(*await self._beside(caller, [record]), record))

    async def _beside(self, caller: Caller, rows: Sequence[RequestRecord]) -> tuple[dict[str, str], dict[str, str]]:
        first = await self._history.repeats(caller.account_id, rows)
        return first, await self._history.missing_usages(caller.account_id, rows)


def _object(first: Mapping[str, str], missing_usages: Mapping[str, str], record: RequestRecord) -> dict[str, Any]:
    return {
        "object": "request",
        "id": record.id,
        "client_request_id": record.client_request_id,
        **timestamps(record.started_at_ms),
        "door": record.door,
        "key": record.key_id,
        "model": record.model,
        "backend": record.backend,
        "stream": record.is_stream,
        "prompt_tokens": record.prompt_tokens,
        "completion_tokens": record.completion_tokens,
        "cached_tokens": record.cached_tokens,
        "cost_usd": format_usd(record.cost_nano),
        "price_version": record.price_version,
        "latency_ms": record.latency_ms,
        "first_token_ms": record.first_token_ms,
        "status": record.http_status,
        "error_code": record.error_code,
        "finish_reason": record.finish_reason,
        "repeat_of": first.get(record.id),
        "usage_missing": missing_usages.get(record.id),
    }
