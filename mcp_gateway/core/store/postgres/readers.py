"""Readers beside the writer: a lane for what is short, one for what is long, and one for what accounts ask for.

Each lane has threads and connections of its own, so that nothing waits for what another lane reads.
"""

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

from mcp_gateway.core.engine import DatabaseError, Read, Report
from mcp_gateway.core.store.postgres.faults import as_database_error, is_gone
from mcp_gateway.core.store.postgres.link import PostgresLink, Where
from mcp_gateway.core.store.reports import AskedReport, Reports
from mcp_gateway.core.store.transaction import Rows, RunRead

T = TypeVar("T")

_POINT_S = 2.0
_SCAN_S = 600.0
_ONE_MOMENT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


class LinkedReaders:
    """All lanes of a database."""

    def __init__(self, url: str, answers: Mapping[type[Read[Any]], RunRead], report_timeout_s: float) -> None:
        self._answers = answers
        self._lanes = {"point": _LinkedLane(_where(url, _POINT_S)), "scan": _LinkedLane(_where(url, _SCAN_S))}
        self._report_links = _ReportLinks(_where(url, report_timeout_s))
        self._reports = Reports(self._report_links.answer, report_timeout_s, self._report_links.give_up)

    async def read(self, read: Read[T]) -> T:
        """Raises DatabaseError, and GatewayError `overloaded` at a report's deadline."""
        answer = self._answers[type(read)]
        if isinstance(read, Report):
            return cast(T, await self._reports.read(answer, read))
        return cast(T, await self._lanes[read.lane].read(answer, read))

    async def close(self) -> None:
        """Once what was asked is answered; reports are given up."""
        await self._reports.close()
        await asyncio.to_thread(self._report_links.close)
        for lane in self._lanes.values():
            await lane.close()


class _LinkedLane:
    """One reader, which answers one read after the other, in their order."""

    def __init__(self, where: Where) -> None:
        self._link = PostgresLink(where)
        self._thread = ThreadPoolExecutor(1, "postgres-reader")
        self._failures = 0
        self._failure: DatabaseError | None = None
        """The last of these: a server that did not answer, which takes its time to be known."""

    async def read(self, answer: RunRead, read: Read[Any]) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._read, answer, read, self._failures)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._link.close)
        await asyncio.to_thread(self._thread.shutdown)

    def _read(self, answer: RunRead, read: Read[Any], failures: int) -> Any:
        """One that waited while others failed would fail as they did, and is told so without waiting as long."""
        if failures != self._failures and self._failure is not None:
            raise DatabaseError(str(self._failure))
        try:
            return _answered(self._link, answer, read)
        except DatabaseError as error:
            if error.__cause__ is not None and is_gone(error.__cause__):
                self._failures += 1
                self._failure = error
            raise


class _ReportLinks:
    """Connections of reports, made when they are first needed."""

    def __init__(self, where: Where) -> None:
        self._where = where
        self._idle: list[PostgresLink] = []
        self._busy: dict[AskedReport, PostgresLink] = {}

    def answer(self, asked: AskedReport) -> Any:
        link = self._idle.pop() if self._idle else PostgresLink(self._where)
        self._busy[asked] = link
        try:
            return _answered(link, asked.answer, asked.report)
        finally:
            del self._busy[asked]
            link.rest()
            self._idle.append(link)

    def give_up(self, asked: AskedReport) -> None:
        link = self._busy.get(asked)
        if link is not None:
            link.cancel()

    def close(self) -> None:
        for link in self._idle:
            link.close()


def _answered(link: PostgresLink, answer: RunRead, read: Read[Any]) -> Any:
    """By a connection that may have been lost since it was used last, and is made anew then, once."""
    was_open = link.is_open
    try:
        return _answer(link, answer, read)
    except DatabaseError as error:
        cause = error.__cause__
        if not (was_open and cause is not None and is_gone(cause) and not isinstance(cause, TimeoutError)):
            raise
    return _answer(link, answer, read)


def _answer(link: PostgresLink, answer: RunRead, read: Read[Any]) -> Any:
    with as_database_error(), _one_moment(link):
        return answer(Rows(link), read)


@contextlib.contextmanager
def _one_moment(link: PostgresLink) -> Iterator[None]:
    """Whatever is read in between is as of one commit, in however many statements."""
    try:
        if not link.is_open:
            link.connect()
        link.script(_ONE_MOMENT)
        yield
        link.script("ROLLBACK")
    except BaseException as error:
        if is_gone(error) or isinstance(error, asyncio.CancelledError):
            link.drop()  # without waiting once more for whoever is silent
        else:
            link.script("ROLLBACK")
        raise


def _where(url: str, answer_s: float) -> Where:
    settings = {"statement_timeout": str(int(answer_s * 1000)), "default_transaction_read_only": "on"}
    return Where(url, answer_s, settings)
