"""GET /requests and /requests/{id}: the metadata of an account's requests that have ended; never their content."""

import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Literal

from pydantic import Field, model_validator

from http_api.exports import Format, export, format_of, most_of, paged
from http_api.moments import timestamps
from http_api.operations import About, Asked, Nothing, Streamed, Told
from http_api.paging import Page, PageQuery, cursor_key, page_of
from http_api.query import Moment, Query, Several, whole_day
from mcp_gateway.core.money import format_usd
from mcp_gateway.core.observe.history import Among, FailedAttempts, History, RequestFilter
from mcp_gateway.core.prompt_tasks import PromptTask
from mcp_gateway.core.record import AskedAs, Door, EndedBy, RequestRecord, parent_of


class RequestsQuery(PageQuery):
    """Filters hold together; `status` is the HTTP status, `since` inclusive, `until` exclusive as in GET /usage.

    `least_status` 400 takes all that failed.
    """

    _whole_day = model_validator(mode="before")(whole_day)
    cursor: Annotated[str | None, cursor_key(re.compile(r"req_[0-9a-z]+(-[0-9]+)?"))] = None
    model: Several = ()
    key: Several = ()
    status: Annotated[int | None, Field(ge=100, le=599)] = None
    least_status: Annotated[int | None, Field(ge=100, le=599)] = None
    error_code: str | None = None
    door: Door | None = None
    surface: AskedAs | None = None
    since: Moment | None = None
    until: Moment | None = None
    client_request_id: str | None = None
    user: str | None = None
    tag: str | None = None
    format: Format | None = None
    """csv and jsonl have every request, unless `limit` is said."""


class RequestRouting(Told):
    """Of a request that named no model: what was read of it, and how good its caller has found the answer since."""

    task: PromptTask | Literal["unknown"]
    complexity: Literal["simple", "medium", "complex"]
    confidence: float
    score: float | None


class FailedAttempt(Told):
    """Whom the gateway asked before the one that answered, and the code that it failed with."""

    backend: str
    error_code: str


class RequestObject(Told):
    """Metadata of one request; `created_at` in Unix seconds, `time` in ISO 8601, the cost a decimal string."""

    object: Literal["request"]
    id: str
    client_request_id: str | None
    created_at: int
    time: str
    door: Door
    surface: AskedAs
    key: str | None
    model: str | None
    backend: str | None
    stream: bool
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None
    cache_write_tokens: int | None
    images: int
    cost_usd: str
    price_version: str | None
    latency_ms: int
    first_token_ms: int | None
    status: int
    error_code: str | None
    finish_reason: str | None
    ended_by: EndedBy | None
    repeat_of: str | None
    usage_missing: str | None
    parent_id: str | None
    """Of a further round of a request that used tools of other servers: that request."""
    routing: RequestRouting | None
    failed_attempts: list[FailedAttempt]
    further_refusals: int
    """Of one that a limit refused: how many of the same key were refused for the same until the minute was over. They
    have no record, and this is told once it is."""
    user: str | None
    """Whom it was made for, and by which tags its cost is told apart, where the account asks for attribution."""
    tags: list[str]


class RequestPage(Page[RequestObject]):
    """Requests, the newest first."""


class Requests:
    def __init__(self, history: History) -> None:
        self._history = history

    async def list(self, asked: Asked[RequestsQuery, Nothing]) -> RequestPage | Streamed:
        about, query = asked.about, asked.query
        wanted = RequestFilter(
            Among(query.model, query.key, about.within), query.status, query.least_status, query.error_code,
            query.door, query.since, query.until, query.client_request_id, query.surface, query.user, query.tag,
        )  # fmt: skip
        if (form := format_of(asked)) != "json":
            return export("requests", form, RequestObject, self._all(about, wanted, query))
        rows = await self._history.page(about.account_id, wanted, before_id=query.cursor, limit=query.limit + 1)
        show = await self._shown_of(about, rows)
        return page_of(RequestPage, rows, query.limit, lambda record: record.id, show)

    def _all(self, about: About, wanted: RequestFilter, query: RequestsQuery) -> AsyncIterator[Sequence[Told]]:
        return paged(
            lambda last, limit: self._history.page(about.account_id, wanted, before_id=last, limit=limit),
            lambda record: record.id,
            partial(self._shown_of, about),
            after=query.cursor,
            most=most_of(query),
        )

    async def get(self, asked: Asked[Query, Nothing]) -> RequestObject:
        about = asked.about
        record = await self._history.get(about.account_id, asked.path["request_id"], within=about.within)
        return (await self._shown_of(about, [record]))(record)

    async def _shown_of(self, about: About, rows: Sequence[RequestRecord]) -> Callable[[RequestRecord], RequestObject]:
        """Shows each of these with what stands beside it."""
        history, account_id = self._history, about.account_id
        first = await history.repeats(account_id, rows)
        missing = await history.missing_usages(account_id, rows)
        failed = await history.failed_attempts(account_id, rows)
        return partial(_object, first, missing, failed, await history.further_refusals(account_id, rows))


def _object(
    first: Mapping[str, str],
    missing_usages: Mapping[str, str],
    failed: FailedAttempts,
    further: Mapping[str, int],
    record: RequestRecord,
) -> RequestObject:
    return RequestObject(
        object="request",
        id=record.id,
        client_request_id=record.client_request_id,
        **timestamps(record.started_at_ms),
        door=record.door,
        surface=record.surface,
        key=record.key_id,
        model=record.model,
        backend=record.backend,
        stream=record.is_stream,
        prompt_tokens=record.prompt_tokens,
        completion_tokens=record.completion_tokens,
        cached_tokens=record.cached_tokens,
        cache_write_tokens=record.cache_write_tokens,
        images=record.images,
        cost_usd=format_usd(record.cost_nano),
        price_version=record.price_version,
        latency_ms=record.latency_ms,
        first_token_ms=record.first_token_ms,
        status=record.http_status,
        error_code=record.error_code,
        finish_reason=record.finish_reason,
        ended_by=record.ended_by,
        repeat_of=first.get(record.id),
        usage_missing=missing_usages.get(record.id),
        parent_id=parent_of(record.id),
        routing=routing_of(record),
        failed_attempts=[FailedAttempt(backend=name, error_code=code) for name, code in failed.get(record.id, ())],
        further_refusals=further.get(record.id, 0),
        user=None if record.attribution is None else record.attribution.user,
        tags=[] if record.attribution is None else list(record.attribution.tags),
    )


def routing_of(record: RequestRecord) -> RequestRouting | None:
    return None if record.routing is None else RequestRouting(**record.routing._asdict())
