"""What keys and accounts were admitted with today."""

from collections.abc import Mapping

from mcp_gateway.core.limits.day_counts import AdmittedOn, NoteAdmitted
from mcp_gateway.core.store.transaction import Executors, Rows, Transaction

_NOTE = (
    "INSERT INTO admitted_requests VALUES (?, ?, ?) "
    "ON CONFLICT (day, subject) DO UPDATE SET requests = MAX(admitted_requests.requests, excluded.requests)"
)
_HAS_PAST = "SELECT 1 FROM admitted_requests WHERE day < ? LIMIT 1"
_FORGET = """
DELETE FROM admitted_requests WHERE (day, subject) IN
    (SELECT day, subject FROM admitted_requests WHERE day < ? LIMIT 1000)
"""
"""A part at a time: the event loop waits for it."""


def _note_admitted(transaction: Transaction, write: NoteAdmitted) -> None:
    transaction.execute_many(_NOTE, [(write.day, subject, count) for subject, count in write.requests.items()])
    if transaction.first(_HAS_PAST, (write.day,)):  # to forget nothing would cost as much again
        transaction.execute(_FORGET, (write.day,))


def _admitted_on(rows: Rows, read: AdmittedOn) -> Mapping[str, int]:
    return dict(rows.all("SELECT subject, requests FROM admitted_requests WHERE day = ?", (read.day,)))


EXECUTORS = Executors(alone={NoteAdmitted: _note_admitted}, reads={AdmittedOn: _admitted_on})
