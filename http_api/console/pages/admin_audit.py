"""The audit log, for administrators: who changed what, filtered, and as a file of all that is found."""

from typing import Any, Literal
from urllib.parse import parse_qsl, urlencode

from http_api.admin.audit import Audit, AuditPageAnswer, AuditQuery
from http_api.console.forms import Form
from http_api.console.serving import Console, Shown, asking
from http_api.operations import Access, AnyOperation, Asked, Nothing, Streamed

AUDIT_PATH = "/console/admin/audit"
_FILTERS = ("action", "subject", "by", "since", "until")


class AuditPages:
    def __init__(self, audit: Audit) -> None:
        self._audit = audit

    def rows(self, console: Console) -> list[AnyOperation]:
        row: dict[str, Any] = {"access": Access.ADMINISTRATOR, "query": AuditQuery, "is_always_answered": True}
        return [
            console.page(AUDIT_PATH, self.list, **row),
            console.page(f"{AUDIT_PATH}.csv", self.table, **row),
            console.page(f"{AUDIT_PATH}.jsonl", self.lines, **row),
        ]

    async def list(self, asked: Asked[AuditQuery, Form]) -> Shown:
        query = asked.query.model_copy(update={"format": "json"})
        found = await self._audit.list(asking(asked, Nothing(), query))
        assert isinstance(found, AuditPageAnswer)
        given = dict(parse_qsl(asked.scope["query_string"].decode("latin-1")))
        typed = {name: given.get(name, "") for name in _FILTERS}
        kept = {name: value for name, value in typed.items() if value}
        older = None if found.next_cursor is None else f"?{urlencode(kept | {'cursor': found.next_cursor})}"
        values = {
            "entries": found.data,
            "filter": typed,
            "export": f"?{urlencode(kept)}",
            "older": older,
        }
        return Shown("admin_audit.html", values, part="table")

    async def table(self, asked: Asked[AuditQuery, Form]) -> Streamed:
        return await self._export(asked, "csv")

    async def lines(self, asked: Asked[AuditQuery, Form]) -> Streamed:
        return await self._export(asked, "jsonl")

    async def _export(self, asked: Asked[AuditQuery, Form], form: Literal["csv", "jsonl"]) -> Streamed:
        told = await self._audit.list(asking(asked, Nothing(), asked.query.model_copy(update={"format": form})))
        assert isinstance(told, Streamed)
        return told
