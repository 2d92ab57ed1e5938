"""PostgreSQL behind three verbs: write, read, close. Knows nothing of what is stored."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.store.postgres.calls import carried_out
from mcp_gateway.core.store.postgres.faults import as_database_error
from mcp_gateway.core.store.postgres.hearing import Hearing
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
        transaction = Transaction(session.link, executors, now_ms, can_be_heard=True)
        writer = BatchWriter(session, transaction)
        super().__init__(writer, LinkedReaders(url, executors.reads, report_timeout_s), executors, now_ms)
        self._session = session
        is_replica = session.replica is not None
        self._hearing = Hearing(url, session.name, writer.hear, self._has_unheard, may_be_elected=is_replica)
        begin = asyncio.get_running_loop().create_task
        self._tasks = [
            *([begin(self._hearing.watch())] if session.is_server else []),
            *([begin(self._beat())] if is_replica else []),
        ]

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
            await carried_out(_opened, session)
        return cls(session, url, executors | OWN, now_ms, report_timeout_s)

    @property
    def replica(self) -> int | None:
        return self._session.replica

    @property
    def hears_others(self) -> bool:
        """Whether it is heard at once what other servers change."""
        return self._hearing.is_up

    @property
    def is_elected(self) -> bool:
        return self.replica is None or self._hearing.is_elected

    @property
    def log_bytes(self) -> int:
        """None of its own: PostgreSQL looks after its log."""
        return 0

    async def close(self) -> list[Any]:
        """Commit what is queued, then close. Returns the writes to keep that could not be committed."""
        if self._writer.is_closing:
            return []
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        kept = await self._writer.close()
        await self._readers.close()
        return kept

    async def _beat(self) -> None:
        """Commit now and then, so that others see that this replica lives."""
        while True:
            await asyncio.sleep(BEAT_S)
            with contextlib.suppress(GatewayError):
                await self.flushed()

    def _has_unheard(self) -> None:
        for hear in self._on_unheard:
            hear()


def _opened(session: WriterSession) -> None:
    try:
        session.open()
    except BaseException:
        session.link.close()
        raise
