"""The request log: metadata of every request that was admitted, never a word of its content."""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from operator import attrgetter

from mcp_gateway.core.ids import first_id_at
from mcp_gateway.core.store.store import Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request. `cost_nano` in nano-USD by the prices that `price_version` names; times in milliseconds."""

    id: str
    client_request_id: str | None
    account_id: str
    key_id: str | None
    door: str
    model: str | None
    backend: str | None
    is_stream: bool
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None
    cost_nano: int
    price_version: str | None
    started_at_ms: int
    latency_ms: int
    first_token_ms: int | None
    http_status: int
    error_code: str | None
    finish_reason: str | None

    def insert(self, connection: sqlite3.Connection) -> None:
        """Write the row, once; goes into the transaction that settles or voids the request."""
        connection.execute(_INSERT, _row(self))


COLUMNS = tuple(field.name for field in fields(RequestRecord))
_INSERT = (
    f"INSERT INTO requests ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))}) ON CONFLICT (id) DO NOTHING"
)
_row: Callable[[RequestRecord], tuple[object, ...]] = attrgetter(*COLUMNS)


class Records:
    """Adds rows for requests that cost nothing, and reads what must survive a restart."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, record: RequestRecord) -> None:
        """Write a row without waiting for it; it is not lost while the process lives."""
        self._store.write(record.insert, is_durable=False, must_commit=True).add_done_callback(_note_failure)

    async def requests_today(self, day_start_ms: int) -> Mapping[str, int]:
        """How many requests of each key were admitted since `day_start_ms`."""
        sql = "SELECT key_id, COUNT(*) FROM requests WHERE id >= ? AND key_id IS NOT NULL GROUP BY key_id"
        return dict(await self._store.fetch_all(sql, (first_id_at("req", day_start_ms),)))


def _note_failure(written: "asyncio.Future[None]") -> None:
    if not written.cancelled() and (error := written.exception()) is not None:
        logger.warning("a request could not be recorded at once: %s", type(error).__name__)
