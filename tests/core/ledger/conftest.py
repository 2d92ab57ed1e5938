from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mcp_gateway.core.identity.accounts import Accounts
from mcp_gateway.core.ids import new_id
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.store.sqlite.store import Store
from tests.databases import migrated, open_store


class Clock:
    """Milliseconds that pass only when told to."""

    def __init__(self) -> None:
        self.ms = 1_000_000

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return migrated(tmp_path / "gateway.sqlite3")


@pytest.fixture
async def store(database: Path, clock: Clock) -> AsyncIterator[Store]:
    store = await open_store(database, now_ms=clock, busy_timeout_s=0.05)
    yield store
    await store.close()


@pytest.fixture
def ledger(store: Store, clock: Clock) -> Ledger:
    return Ledger(store)


@pytest.fixture
async def account(store: Store, clock: Clock) -> str:
    """The id of an account without money."""
    return (await Accounts(store, new_id=new_id, now_ms=clock).create("Ann")).id
