"""The audit log, which only grows: its entries, and what carries a change out together with its entry.

Knows no kind of change; what is told of each, changes.py says.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from mcp_gateway.core.engine import Engine, Read, Scan, Write

ActorKind = Literal["shell", "admin_key", "user", "signal"]
_PAGE = 500


class Actor(NamedTuple):
    """Who makes a change, and from where.

    A user of the server's shell by name and host, an administrator's key or user by its id and address, or a signal.
    """

    kind: ActorKind
    id: str
    place: str
    request_id: str | None = None


class Said(NamedTuple):
    """What is told of a change.

    `look` is read before it and behind it, in its transaction, and `tell` makes of that what may be kept; of it the log
    has what differs. `details` are more, by what came of the change; None where nothing came of it.
    """

    action: str
    subject: str
    look: Read[Any] | None = None
    tell: Callable[[Any], dict[str, Any]] = dict
    details: Callable[[Any], dict[str, Any] | None] = lambda _: {}


class AuditEntry(NamedTuple):
    id: int
    at_ms: int
    actor: Actor
    action: str
    subject: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None

    def as_object(self) -> dict[str, Any]:
        """As both the command line and HTTP tell it; the time in Unix seconds."""
        kind, actor, place, request_id = self.actor
        return {
            "id": self.id,
            "created_at": self.at_ms // 1000,
            "by": {"kind": kind, "id": actor, "where": place, "request_id": request_id},
            "action": self.action,
            "subject": self.subject,
            "before": self.before,
            "after": self.after,
        }


@dataclass(frozen=True, slots=True)
class Audited(Write[Any]):
    """A change and its entry, in one transaction; no entry where it is refused or changes nothing."""

    write: Write[Any]
    by: Actor
    said: Said


@dataclass(frozen=True, slots=True)
class NoteAction(Write[None]):
    """An entry of what changes nothing in the database."""

    by: Actor
    action: str
    subject: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Conditions that hold together; `since_ms` is inclusive, `until_ms` exclusive."""

    action: str | None = None
    subject: str | None = None
    actor: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class AuditPage(Scan[Sequence[AuditEntry]]):
    """The newest first."""

    wanted: AuditFilter
    before_id: int | None
    limit: int


class AuditLog:
    """What it has to tell."""

    def __init__(self, store: Engine) -> None:
        self._store = store

    async def page(self, wanted: AuditFilter, *, before_id: int | None, limit: int) -> Sequence[AuditEntry]:
        return await self._store.read(AuditPage(wanted, before_id, limit))

    async def all(self, wanted: AuditFilter) -> AsyncIterator[AuditEntry]:
        """Every entry, the newest first, a page at a time."""
        before_id = None
        while page := await self.page(wanted, before_id=before_id, limit=_PAGE):
            for entry in page:
                yield entry
            before_id = page[-1].id
