"""PostgreSQL behind three verbs: write, read, close. Knows nothing of what is stored."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.store.postgres.faults import as_database_error
from mcp_gateway.core.store.postgres.readers import LinkedReaders
from mcp_gateway.core.store.postgres.session import BEAT_S, WriterSession
from mcp_gateway.core.store.postgres.writer import BatchWriter
from mcp_gateway.core.store.transaction import Executors, Transaction
from mcp_gateway.core.store.verbs import OWN, OpenStore

T = TypeVar("T")


class PostgresStore(OpenStore[BatchWriter, LinkedReaders]):
    """An open database."""

    def __init__(
        self, session: WriterSession, url: str, executors: Executors, now_ms: Callable[[], int], report_timeout_s: float
    ) -> None:
        writer = BatchWriter(session, Transaction(session.link, executors, now_ms))
        super().__init__(writer, LinkedReaders(url, executors.reads, report_timeout_s), executors, now_ms)
        is_replica = session.replica is not None
        self._beating = asyncio.get_running_loop().create_task(self._beat()) if is_replica else None

    @classmethod
    async def open(
        cls,
        url: str,
        executors: Executors,
        *,
        session: WriterSession,
        now_ms: Callable[[], int],
        report_timeout_s: float = 30.0,
    ) -> "PostgresStore":
        """The database at `url`, whose schema is up to date. Raises DatabaseError, TakenOver."""
        with as_database_error():
            await asyncio.to_thread(_opened, session)
        return cls(session, url, executors | OWN, now_ms, report_timeout_s)

    @property
    def log_bytes(self) -> int:
        """None of its own: PostgreSQL looks after its log."""
        return 0

    async def close(self) -> list[Any]:
        """Commit what is queued, then close. Returns the writes to keep that could not be committed."""
        if self._writer.is_closing:
            return []
        if self._beating is not None:
            self._beating.cancel()
        kept = await self._writer.close()
        await self._readers.close()
        return kept

    async def _beat(self) -> None:
        """Commit now and then, so that others see that this replica lives."""
        while True:
            await asyncio.sleep(BEAT_S)
            with contextlib.suppress(GatewayError):
                await self.flushed()


def _opened(session: WriterSession) -> None:
    try:
        session.open()
    except BaseException:
        session.link.close()
        raise
