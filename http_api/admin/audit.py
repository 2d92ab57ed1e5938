"""GET /admin/audit, also as CSV and lines of JSON: who changed what of the operator's, by command or over HTTP."""

import re
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Annotated, Literal

from pydantic import JsonValue, model_validator

from http_api.exports import Format, export, format_of, most_of, paged
from http_api.operations import Asked, Nothing, Streamed, Told
from http_api.paging import Page, PageQuery, cursor_key, page_of
from http_api.query import Moment, whole_day
from mcp_gateway.core.audit.log import ActorKind, AuditEntry, AuditFilter, AuditLog


class AuditQuery(PageQuery):
    """Filters hold together; `by` is the id of a key or user, or the name of a shell's user."""

    _whole_day = model_validator(mode="before")(whole_day)
    cursor: Annotated[str | None, cursor_key(re.compile(r"[0-9]{1,18}"))] = None
    action: str | None = None
    subject: str | None = None
    by: str | None = None
    since: Moment | None = None
    until: Moment | None = None
    format: Format | None = None


class AuditActor(Told):
    """Who made a change: a user of the server's shell, an administrator's key or user, or a signal."""

    kind: ActorKind
    id: str
    where: str
    """The host of a shell, or the address that asked."""
    request_id: str | None


class AuditObject(Told):
    """One change: of its subject what was, and what is since. `created_at` in Unix seconds."""

    object: Literal["audit_entry"]
    id: int
    created_at: int
    by: AuditActor
    action: str
    subject: str
    before: dict[str, JsonValue] | None
    after: dict[str, JsonValue] | None


class AuditPageAnswer(Page[AuditObject]):
    """Changes, the newest first."""


class Audit:
    def __init__(self, log: AuditLog) -> None:
        self._log = log

    async def list(self, asked: Asked[AuditQuery, Nothing]) -> AuditPageAnswer | Streamed:
        query = asked.query
        wanted = AuditFilter(query.action, query.subject, query.by, query.since, query.until)
        if (form := format_of(asked)) != "json":
            return export("audit", form, AuditObject, self._all(wanted, query))
        entries = await self._page(wanted, query.cursor, query.limit + 1)
        return page_of(AuditPageAnswer, entries, query.limit, _id_of, _object)

    def _all(self, wanted: AuditFilter, query: AuditQuery) -> AsyncIterator[Sequence[Told]]:
        async def shown_of(_: Sequence[AuditEntry]) -> Callable[[AuditEntry], Told]:
            return _object

        read = partial(self._page, wanted)
        return paged(read, _id_of, shown_of, after=query.cursor, most=most_of(query))

    async def _page(self, wanted: AuditFilter, after: str | None, limit: int) -> Sequence[AuditEntry]:
        return await self._log.page(wanted, before_id=None if after is None else int(after), limit=limit)


def _id_of(entry: AuditEntry) -> str:
    return str(entry.id)


def _object(entry: AuditEntry) -> AuditObject:
    return AuditObject.model_validate({"object": "audit_entry", **entry.as_object()})
