"""Of the whole service: maintenance and the incident of the status page, switched while it runs, and its end."""

from contextlib import suppress
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from http_api.admin.actors import Desks, actor_of, desk_for
from http_api.operations import Asked, Nothing, Told
from http_api.query import Query
from mcp_gateway.core.audit.log import NoteAction
from mcp_gateway.core.config import Line
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.lifecycle import Lifecycle
from mcp_gateway.core.service_notice import (
    MOST_INCIDENT_CHARS,
    ServiceNotice,
    ServiceNotices,
    SwitchMaintenance,
    TellIncident,
)


class MaintenanceBody(BaseModel):
    """Whether every new request is refused from now on, until it is switched back."""

    model_config = ConfigDict(extra="forbid", strict=True)

    enabled: bool


class IncidentBody(BaseModel):
    """What the status page says from now on, in one line, until it is removed."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: Annotated[Line, Field(min_length=1, max_length=MOST_INCIDENT_CHARS)]


class Notice(Told):
    """`incident` is null where there is none."""

    maintenance: bool
    incident: str | None


class ServiceObject(Notice):
    """What is in force, of it what the configuration says and what was switched, and how many answers are open."""

    object: Literal["service"]
    configured: Notice
    switched: Notice
    draining: bool
    in_flight: int


class ServiceDoor:
    def __init__(self, notices: ServiceNotices, lifecycle: Lifecycle, desks: Desks) -> None:
        self._notices = notices
        self._lifecycle = lifecycle
        self._desks = desks

    async def get(self, asked: Asked[Query, Nothing]) -> ServiceObject:
        return self._told()

    async def put_maintenance(self, asked: Asked[Query, MaintenanceBody]) -> ServiceObject:
        return await self._changed(asked, SwitchMaintenance(asked.body.enabled))

    async def put_incident(self, asked: Asked[Query, IncidentBody]) -> ServiceObject:
        return await self._changed(asked, TellIncident(asked.body.text))

    async def remove_incident(self, asked: Asked[Query, Nothing]) -> ServiceObject:
        return await self._changed(asked, TellIncident(None))

    async def drain(self, asked: Asked[Query, Nothing]) -> ServiceObject:
        """In an outage of the database, too: then it is noted as soon as that takes it, if it does before the end."""
        action = NoteAction(actor_of(asked), "service.drain", "gateway", None, {})
        noted = desk_for(self._desks, asked).store.write(action, in_outage="keep")
        self._lifecycle.is_asked_to_end = True
        with suppress(GatewayError):
            await noted
        return self._told()

    async def _changed(self, asked: Asked[Any, Any], write: SwitchMaintenance | TellIncident) -> ServiceObject:
        await desk_for(self._desks, asked).store.write(write)
        return self._told()

    def _told(self) -> ServiceObject:
        notices, lifecycle = self._notices, self._lifecycle
        return ServiceObject(
            object="service",
            maintenance=lifecycle.is_in_maintenance,
            incident=notices.incident,
            configured=_notice(notices.configured),
            switched=_notice(notices.switched),
            draining=lifecycle.is_asked_to_end or not lifecycle.is_ready,
            in_flight=lifecycle.in_flight,
        )


def _notice(notice: ServiceNotice) -> Notice:
    return Notice(maintenance=notice.is_in_maintenance, incident=notice.incident)
