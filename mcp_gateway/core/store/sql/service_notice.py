"""What the operator has switched of the whole service, and had."""

from collections.abc import Sequence

from mcp_gateway.core.service_notice import (
    INCIDENTS_KEPT_MS,
    Incident,
    IncidentKind,
    IncidentsChanged,
    IncidentsKept,
    IncidentUpdate,
    NoticeChanged,
    NoticeKept,
    ServiceNotice,
    ServiceSwitched,
    SwitchMaintenance,
    TellIncident,
)
from mcp_gateway.core.store.transaction import Executors, Rows, Transaction

_KEPT = "SELECT is_in_maintenance, incident FROM service_notice"
_BEGIN = "INSERT INTO incidents (kind, began_at_ms) VALUES (?, ?) ON CONFLICT DO NOTHING"
_END = "UPDATE incidents SET ended_at_ms = ? WHERE kind = ? AND ended_at_ms IS NULL"
_UPDATE = """
INSERT INTO incident_updates (incident_id, at_ms, text) SELECT id, :at_ms, :text FROM incidents
WHERE kind = 'incident' AND ended_at_ms IS NULL AND :text IS NOT (
    SELECT text FROM incident_updates WHERE incident_id = incidents.id ORDER BY id DESC LIMIT 1
)
"""
_FORGET_UPDATES = "DELETE FROM incident_updates WHERE incident_id IN (SELECT id FROM incidents WHERE ended_at_ms < ?)"
_FORGET = "DELETE FROM incidents WHERE ended_at_ms < ?"
_MOST_READ = 50
"""Incidents, and updates of each: whoever switches with a program may do so every minute."""
_INCIDENTS = f"SELECT id, kind, began_at_ms, ended_at_ms FROM incidents ORDER BY id DESC LIMIT {_MOST_READ}"
_UPDATES = f"SELECT at_ms, text FROM incident_updates WHERE incident_id = ? ORDER BY id DESC LIMIT {_MOST_READ}"


def _switch_maintenance(transaction: Transaction, write: SwitchMaintenance) -> None:
    transaction.execute("UPDATE service_notice SET is_in_maintenance = ?", (write.is_on,))
    _begin_or_end(transaction, "maintenance", is_on=write.is_on)
    _tell(transaction)


def _tell_incident(transaction: Transaction, write: TellIncident) -> None:
    transaction.execute("UPDATE service_notice SET incident = ?", (write.incident,))
    _begin_or_end(transaction, "incident", is_on=write.incident is not None)
    if write.incident is not None:
        transaction.execute(_UPDATE, {"at_ms": transaction.now_ms(), "text": write.incident})
    _tell(transaction)


def _begin_or_end(transaction: Transaction, kind: IncidentKind, *, is_on: bool) -> None:
    """One that goes on goes on."""
    now_ms = transaction.now_ms()
    if is_on:
        transaction.execute(_BEGIN, (kind, now_ms))
    else:
        transaction.execute(_END, (now_ms, kind))
    for forget in (_FORGET_UPDATES, _FORGET):
        transaction.execute(forget, (now_ms - INCIDENTS_KEPT_MS,))


def _tell(transaction: Transaction) -> None:
    transaction.tell(NoticeChanged(transaction.ask(NoticeKept())))
    transaction.tell(IncidentsChanged(transaction.ask(IncidentsKept())))
    transaction.announce(ServiceSwitched())


def _kept(rows: Rows, _: NoticeKept) -> ServiceNotice:
    ((is_in_maintenance, incident),) = rows.all(_KEPT)
    return ServiceNotice(bool(is_in_maintenance), incident)


def _incidents(rows: Rows, _: IncidentsKept) -> Sequence[Incident]:
    return [
        Incident(incident_id, kind, began_at_ms, ended_at_ms, _updates(rows, incident_id))
        for incident_id, kind, began_at_ms, ended_at_ms in rows.all(_INCIDENTS)
    ]


def _updates(rows: Rows, incident_id: int) -> tuple[IncidentUpdate, ...]:
    return tuple(IncidentUpdate(at_ms, text) for at_ms, text in rows.all(_UPDATES, (incident_id,)))


EXECUTORS = Executors(
    alone={SwitchMaintenance: _switch_maintenance, TellIncident: _tell_incident},
    reads={NoticeKept: _kept, IncidentsKept: _incidents},
)
