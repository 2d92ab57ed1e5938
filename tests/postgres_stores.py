"""Which engine tests run on that open a store or a gateway and say nothing of it: `--engine` chooses."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from mcp_gateway.core.store.postgres.executors import EXECUTORS
from mcp_gateway.core.store.postgres.session import WriterSession
from mcp_gateway.core.store.postgres.store import PostgresStore
from tests.databases import FOR_TESTS
from tests.postgres_server import copy_rows, postgres_server

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


_left: dict[Path, str] = {}
"""Databases of gateways that have ended, by their folders; those of stores, by what would be their file on SQLite."""


def url_of(path: Path) -> str:
    """Of the database that is in this file's place, as long as the test lasts."""
    if path not in _left:
        _left[path] = postgres_server().make(NOTES)
    return _left[path]


@contextlib.contextmanager
def database_of(folder: Path) -> Iterator[str]:
    """The URL of the one that a gateway has with this folder: a gateway that ended may have left it in this test."""
    url = _left.pop(folder, None) or postgres_server().make(NOTES)
    try:
        yield url
    finally:
        _left[folder] = url


def leave_copy(url: str, place: Path) -> None:
    """What the next gateway with this folder finds, or store of this file: all that is committed at this moment."""
    copy = _left[place] = postgres_server().make(NOTES)
    copy_rows(url, copy)


def forget_left() -> None:
    """As a test ends: nobody opens another gateway in its folders."""
    while _left:
        postgres_server().give_back(_left.popitem()[1])


async def open_at(url: str, now_ms: Callable[[], int]) -> PostgresStore:
    """A store there that also does what tests alone want."""
    session = WriterSession(url, is_server=False)
    return await PostgresStore.open(url, FOR_TESTS | EXECUTORS, session=session, now_ms=now_ms)


@contextlib.asynccontextmanager
async def postgres_store(now_ms: Callable[[], int], url: str | None = None) -> AsyncIterator[PostgresStore]:
    """The same, closed in the end."""
    with lent_database() if url is None else contextlib.nullcontext(url) as url:
        store = await open_at(url, now_ms)
        try:
            yield store
        finally:
            await store.close()
