from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mcp_gateway.core.store.store import Store


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "gateway.sqlite3"


@pytest.fixture
async def store(database: Path) -> AsyncIterator[Store]:
    store = await Store.open(database, busy_timeout_s=0.05)
    await store.write(lambda connection: connection.execute("CREATE TABLE notes (text UNIQUE, size BLOB)") and None)
    yield store
    await store.close()
