"""What the operator has switched of the whole service while it runs: maintenance, and an incident for the status page.

It is kept in the database until it is switched back, over restarts and reloads, and holds beside the configuration.
What was told, and when, is kept for as long as the status page shows it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from mcp_gateway.core.clock import DAY_MS
from mcp_gateway.core.engine import Engine, Read, Write
from mcp_gateway.core.lifecycle import Lifecycle

MOST_INCIDENT_CHARS = 500
INCIDENTS_KEPT_MS = 90 * DAY_MS
"""After they are over."""

IncidentKind = Literal["incident", "maintenance"]


class ServiceNotice(NamedTuple):
    """`incident` is the text of the status page, None for none."""

    is_in_maintenance: bool = False
    incident: str | None = None


@dataclass(frozen=True, slots=True)
class SwitchMaintenance(Write[None]):
    is_on: bool


@dataclass(frozen=True, slots=True)
class TellIncident(Write[None]):
    """None: there is none any more."""

    incident: str | None


@dataclass(frozen=True, slots=True)
class NoticeKept(Read[ServiceNotice]):
    """What was switched, and not back."""


class IncidentUpdate(NamedTuple):
    """What was told of an incident, at a time in Unix milliseconds."""

    at_ms: int
    text: str


class Incident(NamedTuple):
    """An incident, or a time of maintenance, of which nothing is told; the newest update first."""

    id: int
    kind: IncidentKind
    began_at_ms: int
    ended_at_ms: int | None
    updates: tuple[IncidentUpdate, ...]


@dataclass(frozen=True, slots=True)
class IncidentsKept(Read[Sequence[Incident]]):
    """Those that are not long over, the newest first."""


class NoticeChanged(NamedTuple):
    """A commit has changed it."""

    notice: ServiceNotice


class IncidentsChanged(NamedTuple):
    """A commit has changed what is told, or was."""

    incidents: Sequence[Incident]


class ServiceNotices:
    """What is in force: it is in maintenance where the configuration or the operator says so.

    An incident that was told while the gateway runs stands before the configuration's.
    """

    def __init__(self, store: Engine, lifecycle: Lifecycle, configured: ServiceNotice) -> None:
        self._store = store
        self._lifecycle = lifecycle
        self.configured = configured
        self.switched = ServiceNotice()
        self.history: Sequence[Incident] = ()
        """Of what was switched, the newest first."""
        store.listen(IncidentsChanged, self._take_history)
        store.listen(NoticeChanged, lambda changed: self._take(changed.notice))

    async def begin(self) -> None:
        """Go on with what was switched before a restart."""
        self._take(await self._store.read(NoticeKept()))
        self.history = await self._store.read(IncidentsKept())

    def configure(self, configured: ServiceNotice) -> None:
        self.configured = configured
        self._put_in_force()

    @property
    def incident(self) -> str | None:
        return self.switched.incident or self.configured.incident

    def _take_history(self, changed: IncidentsChanged) -> None:
        self.history = changed.incidents

    def _take(self, switched: ServiceNotice) -> None:
        self.switched = switched
        self._put_in_force()

    def _put_in_force(self) -> None:
        self._lifecycle.is_in_maintenance = self.configured.is_in_maintenance or self.switched.is_in_maintenance
