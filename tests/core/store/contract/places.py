"""Where an engine keeps what it is given, and what a test has befall it there; a place for each engine that there is.

Each engine is a class like `SqlitePlace`, and a row in `PLACES`.
"""

import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from mcp_gateway.core.engine import Engine
from mcp_gateway.core.store.sqlite.private import beside
from mcp_gateway.core.store.sqlite.store import Store
from tests.clocks import MsClock
from tests.core.store.contract.noting import NOTING, TABLE
from tests.core.store.sqlite.steps import drawn, watched
from tests.databases import FOR_TESTS, OutsideFile, migrated
from tests.disk import Disk
from tests.loop_clock import pass_time


class OpenEngine(Engine, Protocol):
    """One whose end a test decides."""

    async def close(self) -> list[Any]:
        """Commit what is queued, then close. Returns the writes to keep that could not be committed."""


Around = Callable[[OpenEngine], OpenEngine]


class Place(Protocol):
    """One database, in which notes can be written, and the machine below it."""

    disk: Disk
    """What is durable is on it; it is held, let go and broken by a test."""
    commits_first: bool
    """Whether what is committed is seen before the disk has it; else a commit is over once the disk has it."""

    def opened(self) -> contextlib.AbstractAsyncContextManager[OpenEngine]:
        """The database as it was left, by an engine that it is closed with at the end."""

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Somebody else has what each write needs."""

    def full(self) -> contextlib.AbstractContextManager[None]:
        """No note of a hundred thousand bytes finds room."""

    def killed(self) -> "Place":
        """Another machine with all that the engine's process would leave if it were killed now."""

    def without_power(self) -> "Place":
        """Another machine with all that would be left if the power failed now: what the disk has taken for good."""

    def end(self) -> None:
        """Give back what it takes, once nothing is opened there."""


class SqlitePlace:
    """A file of SQLite's."""

    commits_first = True

    def __init__(self, folder: Path, around: Around = lambda engine: engine) -> None:
        self.disk = Disk()
        self._folder = folder
        self._around = around
        self._database = folder / "gateway.sqlite3"
        self._store: Store | None = None
        self._copies = 0
        self._on_disk: dict[str, bytes] = {}
        if not self._database.exists():
            migrated(self._database)
            with contextlib.closing(sqlite3.connect(self._database)) as connection:
                connection.execute(TABLE)
        self._take(self._files())

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[OpenEngine]:
        executors = FOR_TESTS | NOTING
        store = await Store.open(self._database, executors, now_ms=MsClock(), busy_timeout_s=0.0, sync=self._sync)
        writer = watched(store)
        self._store = store
        try:
            yield self._around(store)
        finally:
            self.disk.release()
            pass_time(10)  # so that the end waits for no rest of an outage
            await store.close()
            self._store = None
        assert set(writer.steps) <= drawn()

    @property
    def store(self) -> Store:
        """What is opened, without what may be around it."""
        assert self._store is not None
        return self._store

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        with OutsideFile(self._database) as another, another.locked():
            yield

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        connection = self.store._writer._connection
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        try:
            yield
        finally:
            with contextlib.suppress(sqlite3.ProgrammingError):  # the engine may have ended before the outage
                connection.execute("PRAGMA max_page_count = 1000000")

    def killed(self) -> "SqlitePlace":
        return self._with(self._files())

    def without_power(self) -> "SqlitePlace":
        return self._with(self._on_disk)

    def end(self) -> None:
        """Its folder goes with the test."""

    def _sync(self, descriptor: int) -> None:
        """The log as it was before: what is written into it meanwhile may be left out."""
        size_bytes = os.fstat(descriptor).st_size
        self.disk(descriptor)
        files = self._files()
        log, *_ = beside(self._database)
        files[log.name] = files[log.name][:size_bytes]
        self._take(files)

    def _take(self, files: dict[str, bytes]) -> None:
        self._on_disk = files

    def _files(self) -> dict[str, bytes]:
        log, *_ = beside(self._database)
        return {file.name: file.read_bytes() for file in (self._database, log) if file.exists()}

    def _with(self, files: dict[str, bytes]) -> "SqlitePlace":
        self._copies += 1
        folder = self._folder / f"copy {self._copies}"
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        return SqlitePlace(folder)


def _of_postgres(folder: Path) -> Place:
    from tests.core.store.contract.postgres_place import PostgresPlace  # noqa: PLC0415 - few tests need its server

    return PostgresPlace(folder)


PLACES: dict[str, Callable[[Path], Place]] = {"sqlite": SqlitePlace, "postgres": _of_postgres}
