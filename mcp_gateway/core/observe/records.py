"""The request log: metadata of every request that was admitted, never a word of its content."""

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from mcp_gateway.core.clock import HOUR_MS
from mcp_gateway.core.engine import Engine, Scan, Write
from mcp_gateway.core.record import AddRecord, RequestRecord

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NoteMissingUsage(Write[None]):
    """By which policy a request was billed whose backend told no usage."""

    account_id: str
    request_id: str
    policy: str


@dataclass(frozen=True, slots=True)
class NoteFailedAttempt(Write[None]):
    """Who was asked for a request's answer and failed before its first token, the first as number 1."""

    account_id: str
    request_id: str
    number: int
    backend: str
    code: str


@dataclass(frozen=True, slots=True)
class NoteRefused(Write[None]):
    """A limit refused a request that has a row, and `further` like it that have none; the last note is good."""

    account_id: str
    request_id: str
    further: int


@dataclass(frozen=True, slots=True)
class RequestCounts(Scan[list[tuple[str, str, int]]]):
    """Account, key and how many of its requests were admitted, from an hour since the Unix epoch on; further rounds of
    one are none."""

    since_hour: int


class Records:
    """Adds rows for requests that cost nothing, and reads what must survive a restart."""

    def __init__(self, store: Engine) -> None:
        self._store = store

    def add(self, record: RequestRecord) -> None:
        """Write a row without waiting for it; it is not lost while the process lives."""
        written = self._store.write(AddRecord(record), is_durable=False, in_outage="keep")
        written.add_done_callback(_note_failure)

    def note_missing_usage(self, record: RequestRecord, policy: str) -> None:
        """Say beside a request's row that its usage is not the backend's, and by which policy it was billed."""
        note = NoteMissingUsage(record.account_id, record.id, policy)
        self._store.write(note, is_durable=False, in_outage="keep").add_done_callback(_note_failure)

    def note_failed_attempt(self, account_id: str, request_id: str, number: int, backend: str, code: str) -> None:
        """Say beside a request's row who was asked before the one that it names."""
        note = NoteFailedAttempt(account_id, request_id, number, backend, code)
        self._store.write(note, is_durable=False, in_outage="keep").add_done_callback(_note_failure)

    def note_refused(self, account_id: str, request_id: str, further: int) -> None:
        """Say beside a request's row that a limit refused it, and how many further ones since that have none."""
        note = NoteRefused(account_id, request_id, further)
        self._store.write(note, is_durable=False, in_outage="keep").add_done_callback(_note_failure)

    async def requests_today(self, day_start_ms: int) -> Mapping[str, int]:
        """How many requests of each key, and of each account by all of its keys, were admitted since `day_start_ms`."""
        counts = Counter[str]()
        for account_id, key_id, count in await self._store.read(RequestCounts(day_start_ms // HOUR_MS)):
            counts[account_id] += count
            counts[key_id] += count
        return counts


def _note_failure(written: "asyncio.Future[None]") -> None:
    if not written.cancelled() and (error := written.exception()) is not None:
        logger.warning("a request could not be recorded at once: %s", type(error).__name__)
