"""What of the database nothing is in, and how it becomes shorter while it is served."""

import sqlite3

from mcp_gateway.core.observe.retention import GiveSpaceBack, Space, SpaceOf
from mcp_gateway.core.store.transaction import Executors, Rows, Transaction

_INCREMENTAL = 2


def let_it_shrink(connection: sqlite3.Connection) -> None:
    """Of a database that is about to be made; one that has tables stays as it is until it is copied."""
    connection.execute(f"PRAGMA auto_vacuum = {_INCREMENTAL}")


def _space(rows: Rows, _: SpaceOf) -> Space:
    (free_pages,), (pages,), (mode,) = (
        rows.all(f"PRAGMA {name}")[0] for name in ("freelist_count", "page_count", "auto_vacuum")
    )
    return Space(free_pages, pages, mode == _INCREMENTAL)


def _give_back(transaction: Transaction, write: GiveSpaceBack) -> None:
    """Pages at the end are moved into free ones, each with what refers to it."""
    transaction.all(f"PRAGMA incremental_vacuum({write.pages})")


EXECUTORS = Executors(alone={GiveSpaceBack: _give_back}, reads={SpaceOf: _space})
