"""What the operator has switched of the whole service while it runs: maintenance, and an incident for the status page.

It is kept in the database until it is switched back, over restarts and reloads, and holds beside the configuration.
What was told, and when, is kept for as long as the status page shows it. What one of several servers has switched, all
of them go by.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from mcp_gateway.core.clock import DAY_MS
from mcp_gateway.core.engine import Announcement, DatabaseError, Engine, Read, Write
from mcp_gateway.core.lifecycle import Lifecycle

logger = logging.getLogger(__name__)

_REST_S = 1.0
"""Before what could not be read is read again."""
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


@dataclass(frozen=True, slots=True)
class ServiceSwitched(Announcement):
    """Another server has switched something, or told it."""

    word: ClassVar[str] = "service"


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
        self._changes = 0
        """How many this process has made."""
        self._is_stale = asyncio.Event()
        store.listen(IncidentsChanged, self._take_history)
        store.listen(NoticeChanged, self._changed_here)
        store.listen(ServiceSwitched, lambda _: self._is_stale.set())
        store.on_unheard(self._is_stale.set)

    async def begin(self) -> None:
        """Go on with what was switched before a restart."""
        notice, history = await self._read()
        self.history = history
        self._take(notice)

    async def watch(self) -> None:
        """Go by what other servers switch, until cancelled."""
        while True:
            await self._is_stale.wait()
            self._is_stale.clear()
            changes = self._changes
            try:
                notice, history = await self._read()
            except DatabaseError as error:
                logger.error("what was switched elsewhere could not be read: %s", error)
                self._is_stale.set()
                await asyncio.sleep(_REST_S)
                continue
            if changes == self._changes:
                self.history = history
                self._take(notice)
            else:  # what was read may be older than what was switched here meanwhile
                self._is_stale.set()

    async def _read(self) -> tuple[ServiceNotice, Sequence[Incident]]:
        return await self._store.read(NoticeKept()), await self._store.read(IncidentsKept())

    def configure(self, configured: ServiceNotice) -> None:
        self.configured = configured
        self._put_in_force()

    @property
    def incident(self) -> str | None:
        return self.switched.incident or self.configured.incident

    def _take_history(self, changed: IncidentsChanged) -> None:
        self.history = changed.incidents

    def _changed_here(self, changed: NoticeChanged) -> None:
        self._changes += 1
        self._take(changed.notice)

    def _take(self, switched: ServiceNotice) -> None:
        self.switched = switched
        self._put_in_force()

    def _put_in_force(self) -> None:
        self._lifecycle.is_in_maintenance = self.configured.is_in_maintenance or self.switched.is_in_maintenance
