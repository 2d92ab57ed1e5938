"""What the operator has switched of the whole service while it runs: maintenance, and an incident for the status page.

It is kept in the database until it is switched back, over restarts and reloads, and holds beside the configuration.
"""

from dataclasses import dataclass
from typing import NamedTuple

from mcp_gateway.core.engine import Engine, Read, Write
from mcp_gateway.core.lifecycle import Lifecycle

MOST_INCIDENT_CHARS = 500


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


class NoticeChanged(NamedTuple):
    """A commit has changed it."""

    notice: ServiceNotice


class ServiceNotices:
    """What is in force: it is in maintenance where the configuration or the operator says so.

    An incident that was told while the gateway runs stands before the configuration's.
    """

    def __init__(self, store: Engine, lifecycle: Lifecycle, configured: ServiceNotice) -> None:
        self._store = store
        self._lifecycle = lifecycle
        self.configured = configured
        self.switched = ServiceNotice()
        store.listen(NoticeChanged, lambda changed: self._take(changed.notice))

    async def begin(self) -> None:
        """Go on with what was switched before a restart."""
        self._take(await self._store.read(NoticeKept()))

    def configure(self, configured: ServiceNotice) -> None:
        self.configured = configured
        self._put_in_force()

    @property
    def incident(self) -> str | None:
        return self.switched.incident or self.configured.incident

    def _take(self, switched: ServiceNotice) -> None:
        self.switched = switched
        self._put_in_force()

    def _put_in_force(self) -> None:
        self._lifecycle.is_in_maintenance = self.configured.is_in_maintenance or self.switched.is_in_maintenance
