"""The ledger's auditors over PostgreSQL: the same lives of it, with another process beside it, locks and kills."""

import contextlib
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import settings

from mcp_gateway.core.store.postgres.executors import EXECUTORS
from mcp_gateway.core.store.postgres.link import Where
from mcp_gateway.core.store.postgres.session import LOCKS, WRITING, WriterSession
from mcp_gateway.core.store.postgres.store import PostgresStore
from mcp_gateway.core.store.sqlite.store import Store
from tests.clocks import MsClock
from tests.core.ledger.test_machine import PATIENT_S, LedgerLife
from tests.core.ledger.test_tree import TreeLife
from tests.databases import FOR_TESTS
from tests.patience import poll
from tests.postgres_server import Outside, copy_rows, postgres_server
from tests.postgres_stores import NOTES

pytestmark = pytest.mark.engines


class Elsewhere:
    """`store` and `other` have sessions at one database."""

    if TYPE_CHECKING:
        clock: MsClock
        store: Store
        folder: tempfile.TemporaryDirectory[str]

    def __init__(self) -> None:
        self._urls: dict[str, str] = defaultdict(lambda: postgres_server().make(NOTES))
        """Of databases, by the folders that are their files' on SQLite."""
        self._has_hurried = False
        super().__init__()

    @property
    def url(self) -> str:
        return self._urls[self.folder.name]

    async def _opened(self) -> Store:
        session = WriterSession(self.url, is_server=False, lock_timeout_ms=int(PATIENT_S * 1000))
        session.link._where = session.link._where._replace(
            answer_s=PATIENT_S, settings={**session.link._where.settings, "statement_timeout": "0"}
        )
        session.link.patient(None)
        store = await PostgresStore.open(self.url, FOR_TESTS | EXECUTORS, session=session, now_ms=self.clock)
        return cast(Store, store)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        with Outside(self.url) as another:
            another.run(f"BEGIN; SELECT pg_advisory_xact_lock({LOCKS}, {WRITING})")
            yield
            if self._has_hurried:
                poll(lambda: not another.rows("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))
        self._has_hurried = False

    def hurry(self) -> None:
        """Whoever waits is closed before the lock is free, and what it asked for ends with it."""
        self._has_hurried = True
        self._session.link._where = self._session.link._where._replace(answer_s=0.05)
        self._session.link.patient(None)

    def teardown(self) -> None:
        super().teardown()  # type: ignore[misc]
        for url in self._urls.values():
            postgres_server().give_back(url)

    @property
    def _session(self) -> WriterSession:
        return cast(PostgresStore, self.store)._writer._session


class LedgerElsewhere(Elsewhere, LedgerLife):
    """A process that is killed has lost its session."""

    @property
    def url(self) -> str:
        return self._urls[""]

    def _copied(self) -> "tempfile.TemporaryDirectory[str]":
        """Nothing more of what the process does reaches the database: its session is gone, and it finds no way back."""
        link = self._session.link
        process_id = link.process_id
        link._where = Where(f"postgresql://nobody@/none?host={self.folder.name}", PATIENT_S, {})
        postgres_server().admin.rows("SELECT pg_terminate_backend(CAST(? AS integer))", process_id)
        return tempfile.TemporaryDirectory()


class TreeElsewhere(Elsewhere, TreeLife):
    """A process that is killed has left what is committed; what waits for a lock is at the server already."""

    withdraws = False
    race = None  # type: ignore[assignment]
    """The auditor hears of commits in their order, and cannot judge a refusal while others are on their way."""

    def _copied(self) -> "tempfile.TemporaryDirectory[str]":
        copy = super()._copied()
        copy_rows(self.url, self._urls[copy.name])
        return copy


TestLedgerElsewhere = LedgerElsewhere.TestCase
TestTreeElsewhere = TreeElsewhere.TestCase
TestLedgerElsewhere.settings = TestTreeElsewhere.settings = settings(max_examples=6, stateful_step_count=30)
