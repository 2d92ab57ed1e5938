"""Which engine tests run on that open a store or a gateway and say nothing of it: `--engine` chooses."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator

from mcp_gateway.core.store.postgres.executors import EXECUTORS
from mcp_gateway.core.store.postgres.session import WriterSession
from mcp_gateway.core.store.postgres.store import PostgresStore
from tests.databases import FOR_TESTS
from tests.postgres_server import postgres_server

NOTES = "CREATE TABLE notes (text text UNIQUE, size bytea)"


@contextlib.contextmanager
def lent_database() -> Iterator[str]:
    """The URL of one of PostgreSQL's that is as new."""
    server = postgres_server()
    url = server.make(NOTES)
    try:
        yield url
    finally:
        server.give_back(url)


@contextlib.asynccontextmanager
async def postgres_store(now_ms: Callable[[], int]) -> AsyncIterator[PostgresStore]:
    """A store there that also does what tests alone want."""
    with lent_database() as url:
        session = WriterSession(url, is_server=False)
        store = await PostgresStore.open(url, FOR_TESTS | EXECUTORS, session=session, now_ms=now_ms)
        try:
            yield store
        finally:
            await store.close()
