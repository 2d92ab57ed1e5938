from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mcp_gateway.core.identity.accounts import Accounts
from mcp_gateway.core.identity.keys import KeyRing, KeysPerAccount
from mcp_gateway.core.identity.known_keys import KnownKeys
from mcp_gateway.core.ids import new_id, now_ms
from mcp_gateway.core.store.store import Store


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "gateway.sqlite3"


@pytest.fixture
async def store(database: Path) -> AsyncIterator[Store]:
    store = await Store.open(database, busy_timeout_s=1.0)
    yield store
    await store.close()


@pytest.fixture
def accounts(store: Store) -> Accounts:
    return Accounts(store, new_id=new_id, now_ms=now_ms)


@pytest.fixture
async def account(accounts: Accounts) -> str:
    """The id of an account."""
    return (await accounts.create("Ann")).id


@pytest.fixture
def keys(store: Store) -> KeyRing:
    return KeyRing(store, new_id=new_id, now_ms=now_ms, most=KeysPerAccount(live=3, a_day=20))


@pytest.fixture
async def known(keys: KeyRing) -> KnownKeys:
    """What a server has in memory that has just started."""
    known = KnownKeys(keys)
    await known.begin()
    return known
