"""The public status: how each part of the service is and was, what was told of incidents; for programs and readers.

The summary has the shape of Statuspage's, which monitors know. No account's data, and no backend's name or address.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Literal
from xml.sax.saxutils import escape

from http_api.operations import Absent, Answered, Asked, Nothing, Told, written
from http_api.query import AnyQuery
from mcp_gateway.core.context import SENT
from mcp_gateway.core.observe.activity import Activity, quantile
from mcp_gateway.core.observe.status_board import Component, ComponentPast, ComponentState, StatusBoard, up_percent
from mcp_gateway.core.service_notice import INCIDENTS_KEPT_MS, Incident, ServiceNotices

ATOM = "application/atom+xml; charset=utf-8"
SVG = "image/svg+xml"
STATUS_PATH = "/status"
_FRESH_MS = 500
_PAGE_ID = "gateway"
_MAINTENANCE = "The service is in maintenance."
_DOORS = ("api", "mcp")

Indicator = Literal["none", "minor", "critical", "maintenance"]
ComponentWord = Literal["operational", "degraded_performance", "major_outage", "under_maintenance"]
IncidentWord = Literal["investigating", "resolved", "in_progress", "completed"]

_HEADLINES: dict[ComponentState, str] = {
    "operational": "All systems operational",
    "degraded": "Degraded: some parts do not work as they should",
    "down": "Down: requests are not answered",
    "maintenance": "In maintenance: requests are refused for now",
}
_INDICATORS: dict[ComponentState, Indicator] = {
    "operational": "none",
    "degraded": "minor",
    "down": "critical",
    "maintenance": "maintenance",
}
_WORDS: dict[ComponentState, ComponentWord] = {
    "operational": "operational",
    "degraded": "degraded_performance",
    "down": "major_outage",
    "maintenance": "under_maintenance",
}
_COLOURS: dict[ComponentState, str] = {
    "operational": "#1b7f3b",
    "degraded": "#9a6700",
    "down": "#b3261e",
    "maintenance": "#1f5fbf",
}


class StatusPage(Told):
    """Whose status it is; `updated_at` is when a state or an incident last changed."""

    id: str
    name: str
    url: str
    time_zone: Literal["Etc/UTC"]
    updated_at: str


class StatusIndicator(Told):
    """The worst that holds, and in words."""

    indicator: Indicator
    description: str


class ComponentObject(Told):
    """The API, the MCP server or a model.

    `uptime_percent` is of the minutes looked at in 90 days, `last_day_uptime_percent` of those in 24 hours, null before
    any; `first_token_ms` is the median of a model's latest streams of the last day, null where there were none.
    """

    id: str
    name: str
    status: ComponentWord
    description: None
    position: int
    updated_at: str
    showcase: bool
    group: bool
    group_id: None
    page_id: str
    only_show_if_degraded: bool
    uptime_percent: float | None
    last_day_uptime_percent: float | None
    first_token_ms: int | None


class IncidentUpdateObject(Told):
    """What was told at a time."""

    id: str
    incident_id: str
    status: IncidentWord
    body: str
    created_at: str
    display_at: str
    updated_at: str


class IncidentObject(Told):
    """An incident, or a time of maintenance, that is not over; the newest update first."""

    id: str
    page_id: str
    name: str
    status: IncidentWord
    impact: Indicator
    shortlink: str
    created_at: str
    started_at: str
    updated_at: str
    monitoring_at: None
    resolved_at: str | None
    scheduled_for: str | Absent = None
    incident_updates: list[IncidentUpdateObject]


class StatusSummary(Told):
    """The public status, as Statuspage's `summary.json` has it."""

    page: StatusPage
    status: StatusIndicator
    components: list[ComponentObject]
    incidents: list[IncidentObject]
    scheduled_maintenances: list[IncidentObject]


@dataclass(frozen=True, slots=True)
class ShownComponent:
    """A component with its past, and the median first token of a model's latest streams."""

    now: Component
    past: ComponentPast
    first_token_ms: int | None

    @property
    def uptime_percent(self) -> float | None:
        return up_percent(self.past.up_share)

    @property
    def last_day_uptime_percent(self) -> float | None:
        return up_percent(self.past.late_up_share)


@dataclass(frozen=True, slots=True)
class PublicStatus:
    """How everything is now; `incident` is the operator's text that is in force, the newest incident first."""

    state: ComponentState
    headline: str
    components: Sequence[Component]
    incident: str | None
    incidents: Sequence[Incident]
    first_token_ms: int | None
    changed_at_ms: int


class StatusDoor:
    """Unless `is_full`, nothing is told of models and traffic."""

    def __init__(
        self,
        board: StatusBoard,
        notices: ServiceNotices,
        activity: Activity,
        now_ms: Callable[[], int],
        *,
        base_url: str,
        is_full: bool,
    ) -> None:
        self._board = board
        self._notices = notices
        self._activity = activity
        self._now_ms = now_ms
        self._url = f"{base_url}{STATUS_PATH}"
        self._is_full = is_full
        self._told: tuple[object, ...] = ()
        self._changed_at_ms = now_ms()
        self._made_at_ms = 0
        self._status: PublicStatus | None = None
        self._summed: tuple[PublicStatus | None, bytes] = None, b""

    def status(self) -> PublicStatus:
        """As of half a second ago at most, however many ask."""
        now_ms = self._now_ms()
        if self._status is None or not 0 <= now_ms - self._made_at_ms < _FRESH_MS:
            self._made_at_ms, self._status = now_ms, self._made(now_ms)
        return self._status

    async def summary(self, asked: Asked[AnyQuery, Nothing]) -> Answered[StatusSummary]:
        status = self.status()
        if self._summed[0] is not status:
            self._summed = status, written(self._summary(status))
        return _unless_known(asked, self._summed[1], "application/json")

    async def history(self, asked: Asked[AnyQuery, Nothing]) -> Answered[bytes]:
        return _unless_known(asked, _atom(self._url, self.status()).encode(), ATOM)

    async def badge(self, asked: Asked[AnyQuery, Nothing]) -> Answered[bytes]:
        return _unless_known(asked, _badge(self.status().state).encode(), SVG)

    def _made(self, now_ms: int) -> PublicStatus:
        components = [one for one in self._board.components() if self._is_full or one.id in _DOORS]
        incident = self._notices.incident
        incidents = [
            one
            for one in self._notices.history
            if one.ended_at_ms is None or one.ended_at_ms > now_ms - INCIDENTS_KEPT_MS
        ]
        told = (components, incident, incidents)
        if told != self._told:
            self._told, self._changed_at_ms = told, now_ms
        state = components[0].state
        if state == "operational" and incident is not None:
            state, headline = "degraded", "There is an incident"
        else:
            headline = _HEADLINES[state]
        return PublicStatus(
            state=state,
            headline=headline,
            components=components,
            incident=incident,
            incidents=incidents,
            first_token_ms=quantile(self._activity.last_day().first_tokens_ms, 0.5) if self._is_full else None,
            changed_at_ms=self._changed_at_ms,
        )

    def shown(self, component: Component) -> ShownComponent:
        """Of the few that a page has room for, as of all for programs."""
        first_token_ms = None if component.model is None else self._activity.first_token_ms(component.model)
        return ShownComponent(component, self._board.past_of(component.id), first_token_ms)

    def _summary(self, status: PublicStatus) -> StatusSummary:
        changed = _moment(status.changed_at_ms)
        current = [one for one in status.incidents if one.ended_at_ms is None]
        incidents = [self._incident(one, status.state) for one in current if one.kind == "incident"]
        if status.incident is not None and not incidents:
            incidents = [self._configured(status.incident, changed, status.state)]
        return StatusSummary(
            page=StatusPage(id=_PAGE_ID, name="Gateway", url=self._url, time_zone="Etc/UTC", updated_at=changed),
            status=StatusIndicator(indicator=_INDICATORS[status.state], description=status.headline),
            components=[
                ComponentObject(
                    id=one.id,
                    name=one.name,
                    status=_WORDS[one.state],
                    description=None,
                    position=position,
                    updated_at=changed,
                    showcase=True,
                    group=False,
                    group_id=None,
                    page_id=_PAGE_ID,
                    only_show_if_degraded=False,
                    uptime_percent=shown.uptime_percent,
                    last_day_uptime_percent=shown.last_day_uptime_percent,
                    first_token_ms=shown.first_token_ms,
                )
                for position, one in enumerate(status.components, 1)
                for shown in (self.shown(one),)
            ],
            incidents=incidents,
            scheduled_maintenances=[self._incident(one, "maintenance") for one in current if one.kind == "maintenance"],
        )

    def _incident(self, incident: Incident, state: ComponentState) -> IncidentObject:
        began, name = _moment(incident.began_at_ms), str(incident.id)
        updates = incident.updates
        is_planned = incident.kind == "maintenance"
        word: IncidentWord = "in_progress" if is_planned else "investigating"
        planned: dict[str, Any] = {"scheduled_for": began} if is_planned else {}
        return IncidentObject(
            id=name,
            page_id=_PAGE_ID,
            name=updates[-1].text if updates else _MAINTENANCE,
            status=word,
            impact=_INDICATORS[state],
            shortlink=f"{self._url}#incident-{name}",
            created_at=began,
            started_at=began,
            updated_at=_moment(updates[0].at_ms) if updates else began,
            monitoring_at=None,
            resolved_at=None,
            **planned,
            incident_updates=[
                _update(f"{name}-{len(updates) - number}", name, word, update.text, _moment(update.at_ms))
                for number, update in enumerate(updates)
            ],
        )

    def _configured(self, text: str, changed: str, state: ComponentState) -> IncidentObject:
        """Of the configuration it is not known since when it says so."""
        return IncidentObject(
            id="configured",
            page_id=_PAGE_ID,
            name=text,
            status="investigating",
            impact=_INDICATORS[state],
            shortlink=self._url,
            created_at=changed,
            started_at=changed,
            updated_at=changed,
            monitoring_at=None,
            resolved_at=None,
            incident_updates=[_update("configured-1", "configured", "investigating", text, changed)],
        )


def _update(update_id: str, incident_id: str, status: IncidentWord, body: str, at: str) -> IncidentUpdateObject:
    return IncidentUpdateObject(
        id=update_id, incident_id=incident_id, status=status, body=body, created_at=at, display_at=at, updated_at=at
    )


def _moment(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _unless_known(asked: Asked[AnyQuery, Nothing], body: bytes, media_type: str) -> Answered[Any]:
    """304 to whoever has this very answer already (RFC 9110, 13.1.2)."""
    tag = b'"%s"' % sha256(body).hexdigest()[:32].encode()
    headers = ((b"etag", tag), (b"cache-control", b"no-cache"))
    known = asked.scope[SENT].get(b"if-none-match", b"")
    if known.strip() == b"*" or tag in (one.strip().removeprefix(b"W/") for one in known.split(b",")):
        return Answered(b"", 304, headers, media_type)
    return Answered(body, None, headers, media_type)


def _atom(url: str, status: PublicStatus) -> str:
    entries = "".join(_entries(url, status.incidents))
    latest = max((_last_told_ms(one) for one in status.incidents), default=status.changed_at_ms)
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<feed xmlns="http://www.w3.org/2005/Atom">'
        f"<title>Gateway: incidents</title><id>{escape(url)}</id><author><name>Gateway</name></author>"
        f'<link rel="self" href="{escape(url)}/history.atom"/><link rel="alternate" href="{escape(url)}"/>'
        f"<updated>{_moment(latest)}</updated>{entries}</feed>\n"
    )


def _entries(url: str, incidents: Iterable[Incident]) -> Iterable[str]:
    for one in incidents:
        title = one.updates[-1].text if one.updates else _MAINTENANCE
        lines = [f"{_moment(at_ms)}: {text}" for at_ms, text in one.updates]
        if one.ended_at_ms is not None:
            lines.insert(0, f"{_moment(one.ended_at_ms)}: It is over.")
        link = escape(f"{url}#incident-{one.id}")
        yield (
            f'<entry><title>{escape(title)}</title><id>{link}</id><link href="{link}"/>'
            f"<published>{_moment(one.began_at_ms)}</published><updated>{_moment(_last_told_ms(one))}</updated>"
            f'<content type="text">{escape(chr(10).join(lines) or title)}</content></entry>'
        )


def _last_told_ms(incident: Incident) -> int:
    told = [incident.began_at_ms, *(update.at_ms for update in incident.updates)]
    return max(told if incident.ended_at_ms is None else [*told, incident.ended_at_ms])


def _badge(state: ComponentState) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="150" height="20" role="img" aria-label="status: {state}">'
        f"<title>status: {state}</title>"
        f'<rect width="52" height="20" rx="3" fill="#444c56"/>'
        f'<rect x="48" width="102" height="20" rx="3" fill="{_COLOURS[state]}"/>'
        '<g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">'
        f'<text x="25" y="14">status</text><text x="99" y="14">{state}</text></g></svg>\n'
    )
