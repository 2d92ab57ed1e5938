"""The whole service, for administrators: what is published, who answers, and what is switched while it runs."""

from typing import Any

from http_api.admin.reloads import ReloadObject
from http_api.admin.service import IncidentBody, MaintenanceBody
from http_api.admin.table import AdminEndpoints
from http_api.console.forms import Form
from http_api.console.serving import AskedPage, Console, SeeOther, Shown, again, asking
from http_api.operations import Access, AnyOperation, Asked, Nothing
from http_api.query import AnyQuery, Query
from mcp_gateway.core.errors import GatewayError

ADMIN_PATH = "/console/admin"
OVERVIEW_PATH = f"{ADMIN_PATH}/overview"


class OverviewQuery(Query):
    """Whether a change was just made."""

    changed: bool = False


class ServicePages:
    def __init__(self, admin: AdminEndpoints) -> None:
        self._service = admin.service
        self._backends = admin.backends
        self._reloads = admin.reloads

    def rows(self, console: Console) -> list[AnyOperation]:
        row: dict[str, Any] = {"access": Access.ADMINISTRATOR, "is_always_answered": True}
        form = row | {"method": "POST"}
        return [
            console.page(ADMIN_PATH, self.begin, **row),
            console.page(OVERVIEW_PATH, self.show, query=OverviewQuery, **row),
            console.page(f"{OVERVIEW_PATH}/maintenance", self.switch, **form),
            console.page(f"{OVERVIEW_PATH}/incident", self.tell, **form),
            console.page(f"{OVERVIEW_PATH}/incident/remove", self.tell_no_more, **form),
            console.page(f"{OVERVIEW_PATH}/reload", self.reload, **form),
            console.page(f"{OVERVIEW_PATH}/drain", self.question, **row),
            console.page(f"{OVERVIEW_PATH}/drain", self.drain, **form),
        ]

    async def begin(self, asked: Asked[AnyQuery, Form]) -> SeeOther:
        return SeeOther(OVERVIEW_PATH)

    async def show(self, asked: Asked[OverviewQuery, Form]) -> Shown:
        return await self._shown(asked, is_changed=asked.query.changed)

    async def switch(self, asked: AskedPage) -> SeeOther:
        body = MaintenanceBody(enabled=asked.body.get("enabled") == "true")
        await self._service.put_maintenance(asking(asked, body))
        return SeeOther(f"{OVERVIEW_PATH}?changed=1")

    async def tell(self, asked: AskedPage) -> Shown | SeeOther:
        try:
            await self._service.put_incident(asking(asked, asked.body.as_body(IncidentBody)))
        except GatewayError as error:
            return await self._again(asked, error)
        return SeeOther(f"{OVERVIEW_PATH}?changed=1")

    async def tell_no_more(self, asked: AskedPage) -> SeeOther:
        await self._service.remove_incident(asking(asked, Nothing()))
        return SeeOther(f"{OVERVIEW_PATH}?changed=1")

    async def reload(self, asked: AskedPage) -> Shown:
        """What it changed is told in this one answer."""
        try:
            told = await self._reloads.reload(asking(asked, Nothing()))
        except GatewayError as error:
            return await self._again(asked, error)
        return await self._shown(asked, reloaded=told)

    async def question(self, asked: Asked[AnyQuery, Form]) -> Shown:
        return Shown("admin_drain.html", {"service": await self._service.get(asking(asked, Nothing()))})

    async def drain(self, asked: AskedPage) -> Shown:
        """Once: a second click is told how far it is."""
        told = await self._service.get(asking(asked, Nothing()))
        if not told.draining:
            told = await self._service.drain(asking(asked, Nothing()))
        return Shown("admin_drain.html", {"service": told})

    async def _again(self, asked: AskedPage, error: GatewayError) -> Shown:
        shown = await self._shown(asked, typed=asked.body)
        return again(shown.template, shown.values, error)

    async def _shown(
        self,
        asked: AskedPage,
        *,
        is_changed: bool = False,
        typed: Form | None = None,
        reloaded: ReloadObject | None = None,
    ) -> Shown:
        nothing: Asked[Query, Nothing] = asking(asked, Nothing())
        values = {
            "service": await self._service.get(nothing),
            "told": await self._backends.list(nothing),
            "is_changed": is_changed,
            "typed": typed or Form(),
            "reloaded": reloaded,
            "error": None,
        }
        return Shown("admin_overview.html", values)
