"""The audit log: changes with their entries, and pages of these."""

from collections.abc import Sequence
from typing import Any

import orjson

from mcp_gateway.core.audit.log import Actor, Audited, AuditEntry, AuditPage, NoteAction, Said
from mcp_gateway.core.store.transaction import Executors, Row, Rows, Transaction

_NOTED = "at_ms, actor_kind, actor, place, request_id, action, subject, before, after"
_COLUMNS = f"id, {_NOTED}"
_NOTE = f"INSERT INTO audit_log ({_NOTED}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"


def _audited(transaction: Transaction, write: Audited) -> Any:
    said = write.said
    before = _look(transaction, said)
    outcome = transaction.run(write.write)
    details = said.details(outcome)
    if details is not None:
        after = _look(transaction, said)
        told = _differing(after, before) | details
        if told:
            was = _differing(before, after) if before else None
            _note(transaction, NoteAction(write.by, said.action, said.subject, was, told))
    return outcome


def _look(transaction: Transaction, said: Said) -> dict[str, Any]:
    """Nothing of what there is not."""
    found = None if said.look is None else transaction.ask(said.look)
    return {} if found is None else said.tell(found)


def _differing(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in one.items() if name not in other or other[name] != value}


def _note(transaction: Transaction, write: NoteAction) -> None:
    kind, actor, place, request_id = write.by
    row = (transaction.now_ms(), kind, actor, place, request_id, write.action, write.subject)
    transaction.execute(_NOTE, (*row, _stored(write.before), _stored(write.after)))


def _stored(facts: dict[str, Any] | None) -> str | None:
    return None if facts is None else orjson.dumps(facts).decode()


def _page(rows: Rows, read: AuditPage) -> Sequence[AuditEntry]:
    wanted = read.wanted
    asked = {
        "id < ?": read.before_id,
        "action = ?": wanted.action,
        "subject = ?": wanted.subject,
        "actor = ?": wanted.actor,
        "at_ms >= ?": wanted.since_ms,
        "at_ms < ?": wanted.until_ms,
    }
    given = {condition: value for condition, value in asked.items() if value is not None}
    sql = f"SELECT {_COLUMNS} FROM audit_log WHERE {' AND '.join(('TRUE', *given))} ORDER BY id DESC LIMIT ?"
    return [_entry(row) for row in rows.all(sql, (*given.values(), read.limit))]


def _entry(row: Row) -> AuditEntry:
    entry_id, at_ms, kind, actor, place, request_id, action, subject, before, after = row
    return AuditEntry(
        entry_id, at_ms, Actor(kind, actor, place, request_id), action, subject, _read(before), _read(after)
    )


def _read(stored: str | None) -> dict[str, Any] | None:
    return None if stored is None else orjson.loads(stored)


EXECUTORS = Executors(alone={Audited: _audited, NoteAction: _note}, reads={AuditPage: _page})
