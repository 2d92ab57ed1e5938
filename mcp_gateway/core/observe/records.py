"""The request log: metadata of every request that was admitted, never a word of its content."""

import asyncio
import logging
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence

from mcp_gateway.core.clock import HOUR_MS
from mcp_gateway.core.record import INSERT, RequestRecord
from mcp_gateway.core.store.store import Store

logger = logging.getLogger(__name__)


REQUESTS_SINCE = "accounts CROSS JOIN requests ON requests.account_id = accounts.id AND requests.id >= ?"
"""Those of all accounts from an id on: the log is kept by account, and each is searched; CROSS keeps that order."""
_COUNTS_SINCE = """
SELECT account_id, key_id, SUM(requests) FROM accounts CROSS JOIN hourly_usage ON account_id = accounts.id AND hour >= ?
WHERE key_id <> '' GROUP BY account_id, key_id
"""


class Records:
    """Adds rows for requests that cost nothing, and reads what must survive a restart."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, record: RequestRecord) -> None:
        """Write a row without waiting for it; it is not lost while the process lives."""
        written = self._store.write_grouped(_write, record, is_durable=False, in_outage="keep")
        written.add_done_callback(_note_failure)

    def note_missing_usage(self, record: RequestRecord, policy: str) -> None:
        """Say beside a request's row that its usage is not the backend's, and by which policy it was billed."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT INTO missing_usages VALUES (?, ?, ?)", (record.account_id, record.id, policy))

        self._store.write(work, is_durable=False, in_outage="keep").add_done_callback(_note_failure)

    async def requests_today(self, day_start_ms: int) -> Mapping[str, int]:
        """How many requests of each key, and of each account by all of its keys, were admitted since `day_start_ms`."""
        counts = Counter[str]()
        for account_id, key_id, count in await self._store.fetch_all(_COUNTS_SINCE, (day_start_ms // HOUR_MS,)):
            counts[account_id] += count
            counts[key_id] += count
        return counts


def _write(connection: sqlite3.Connection, records: Sequence[RequestRecord]) -> list[None]:
    connection.executemany(INSERT, records)
    return [None] * len(records)


def _note_failure(written: "asyncio.Future[None]") -> None:
    if not written.cancelled() and (error := written.exception()) is not None:
        logger.warning("a request could not be recorded at once: %s", type(error).__name__)
