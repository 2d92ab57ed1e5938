"""GET /admin/audit: who changed what of the operator's, by command or over HTTP."""

import re
from typing import Annotated, Literal

from pydantic import JsonValue, model_validator

from http_api.operations import Asked, Nothing, Told
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

    async def list(self, asked: Asked[AuditQuery, Nothing]) -> AuditPageAnswer:
        query = asked.query
        wanted = AuditFilter(query.action, query.subject, query.by, query.since, query.until)
        before_id = None if query.cursor is None else int(query.cursor)
        entries = await self._log.page(wanted, before_id=before_id, limit=query.limit + 1)
        return page_of(AuditPageAnswer, entries, query.limit, lambda entry: str(entry.id), _object)


def _object(entry: AuditEntry) -> AuditObject:
    return AuditObject.model_validate({"object": "audit_entry", **entry.as_object()})
