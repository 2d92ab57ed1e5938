"""The audit log, for administrators: who changed what, filtered, and as a file of all that is found."""

from typing import Any, Literal
from urllib.parse import urlencode

from http_api.admin.audit import Audit, AuditPageAnswer, AuditQuery
from http_api.console.addresses import filters_in, older
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
        kept = filters_in(asked, _FILTERS)
        values = {
            "entries": found.data,
            "filter": {name: kept.get(name, "") for name in _FILTERS},
            "export": f"?{urlencode(kept)}",
            "older": older(found.next_cursor, kept),
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
