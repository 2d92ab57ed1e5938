"""SQLite's file in a data folder: opened, copied and replaced as a whole."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from mcp_gateway.core.engine import DatabaseError
from mcp_gateway.core.store.database import Contents, Restored, SchemaNumbers
from mcp_gateway.core.store.sole import alone, sole_server
from mcp_gateway.core.store.sqlite.backup import back_up
from mcp_gateway.core.store.sqlite.contents import FileContents, faults_in, reading
from mcp_gateway.core.store.sqlite.executors import EXECUTORS
from mcp_gateway.core.store.sqlite.migrations import schema_numbers
from mcp_gateway.core.store.sqlite.restore import check_log, entries_after, restore
from mcp_gateway.core.store.sqlite.store import ENGINE_VERSION, Store
from mcp_gateway.core.store.sqlite.upgrade import upgrade_unless_served
from mcp_gateway.core.store.sqlite.write_ahead_log import Sync, sync_data

DATABASE = "gateway.sqlite3"


class SqliteDatabase:
    """The one in `folder`."""

    engine_version = ENGINE_VERSION

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / DATABASE

    def check(self) -> None:
        check_log(self._file)

    def schema(self) -> SchemaNumbers:
        with reading(self._file) as connection:
            return schema_numbers(connection)

    def faults(self) -> list[str]:
        with reading(self._file) as connection:
            return faults_in(connection)

    def upgrade_unless_served(self) -> None:
        upgrade_unless_served(self._file)

    async def open(
        self,
        *,
        now_ms: Callable[[], int],
        report_timeout_s: float,
        fsynced: Callable[[float], None] | None = None,
        is_server: bool = False,
    ) -> Store:
        sync = sync_data if fsynced is None else _timed(fsynced)
        return await Store.open(self._file, EXECUTORS, now_ms=now_ms, report_timeout_s=report_timeout_s, sync=sync)

    def sole_server(self) -> AbstractContextManager[None]:
        return sole_server(self._folder)

    def alone(self) -> AbstractContextManager[bool]:
        return alone(self._folder)

    def back_up(self, target: Path) -> None:
        back_up(self._file, target)

    def restore(self, backup: Path, aside: Path, others: Iterable[Path]) -> Restored:
        last = restore(self._file, backup, aside, others)
        return Restored(last.at_ms, entries_after(aside / DATABASE, last.id))

    @contextlib.contextmanager
    def contents(self) -> Iterator[Contents]:
        self.check()
        if not self._file.exists():
            raise FileNotFoundError(f"there is no database at {self._file}")
        self.upgrade_unless_served()
        with self.sole_server(), reading(self._file) as connection:
            yield FileContents(connection)

    def fill(self, contents: Contents) -> Mapping[str, int]:
        raise DatabaseError("a database is copied into one of PostgreSQL's alone: name its URL")


def _timed(fsynced: Callable[[float], None]) -> Sync:
    def timed(descriptor: int) -> None:
        began_at_s = time.perf_counter()
        sync_data(descriptor)
        fsynced(time.perf_counter() - began_at_s)

    return timed
