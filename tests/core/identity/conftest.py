from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mcp_gateway.core.identity.accounts import Accounts
from mcp_gateway.core.identity.key_ring import KeyRing
from mcp_gateway.core.identity.keys import KeysPerAccount
from mcp_gateway.core.identity.known_keys import KnownKeys
from mcp_gateway.core.ids import new_id, now_ms
from mcp_gateway.core.store.sqlite.store import Store
from tests.databases import migrated, open_store


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return migrated(tmp_path / "gateway.sqlite3")


@pytest.fixture
async def store(database: Path) -> AsyncIterator[Store]:
    store = await open_store(database, busy_timeout_s=1.0)
    yield store
    await store.close()


@pytest.fixture
def accounts(store: Store) -> Accounts:
    return Accounts(store, new_id=new_id, now_ms=now_ms)


@pytest.fixture
async def account(accounts: Accounts) -> str:
    """The id of an account."""
    return (await accounts.create("Ann")).id


class Clock:
    """Unix milliseconds; stands still unless a test moves it."""

    def __init__(self) -> None:
        self.now_ms = 86_400_000 * 20_000

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(store: Store, clock: Clock) -> KeyRing:
    return KeyRing(store, new_id=new_id, now_ms=clock, most=KeysPerAccount(live=3, a_day=20))


@pytest.fixture
async def known(keys: KeyRing, clock: Clock) -> KnownKeys:
    """What a server has in memory that has just started."""
    known = KnownKeys(keys, now_ms=clock)
    await known.begin()
    return known
