"""Readers beside the writer: a lane for what is short, one for what is long, and one for what accounts ask for.

Each lane has threads of its own, so that nothing waits for what another lane reads.
"""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, cast

from mcp_gateway.core.engine import Read, Report
from mcp_gateway.core.store.reports import AskedReport, Reports
from mcp_gateway.core.store.sqlite.faults import as_database_error
from mcp_gateway.core.store.sqlite.reports import ReportReaders, connected, one_moment
from mcp_gateway.core.store.transaction import Rows, RunRead

T = TypeVar("T")


class Readers:
    """All lanes of the database at `path`, which stands there."""

    def __init__(self, path: Path, answers: Mapping[type[Read[Any]], RunRead], report_timeout_s: float) -> None:
        """Raises sqlite3.Error."""
        self._answers = answers
        self._lanes = {"point": _Lane(path), "scan": _Lane(path)}
        self._report_readers = ReportReaders(path)
        self._reports = Reports(self._report_readers.read, report_timeout_s, _look_by_themselves)

    async def read(self, read: Read[T]) -> T:
        """Raises DatabaseError, and GatewayError `overloaded` at a report's deadline."""
        answer = self._answers[type(read)]
        if isinstance(read, Report):
            return cast(T, await self._reports.read(answer, read))
        return cast(T, await self._lanes[read.lane].read(answer, read))

    async def close(self) -> None:
        """Once what was asked is answered; reports are given up."""
        await self._reports.close()
        self._report_readers.close()
        for lane in self._lanes.values():
            await lane.close()


def _look_by_themselves(_: AskedReport) -> None:
    """Readers see that a report is given up."""


class _Lane:
    """One reader, which answers one read after the other, in their order."""

    def __init__(self, path: Path) -> None:
        self._connection = connected(path)
        self._thread = ThreadPoolExecutor(1, "reader")

    async def read(self, answer: RunRead, read: Read[Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._read, answer, read)

    async def close(self) -> None:
        await asyncio.to_thread(self._thread.shutdown)
        self._connection.close()

    def _read(self, answer: RunRead, read: Read[Any]) -> Any:
        with as_database_error(), one_moment(self._connection):
            return answer(Rows(self._connection), read)
