"""Whether a process is one of several replicas, as the settings say; and what all of them have in common."""

import sys
from typing import Any

import pytest

from mcp_gateway.core.config import ConfigError, Settings
from mcp_gateway.core.replicas import KeepSharedSecret
from mcp_gateway.core.sharing import Sharing, sharing
from mcp_gateway.core.store.sqlite.store import Store

VALKEY = {"valkey_url": "valkey://127.0.0.1:1"}
BOTH = VALKEY | {"database_url": "postgresql:///gateway"}


async def test_a_secret_is_made_once_by_whoever_comes_first(store: Store) -> None:
    assert await store.write(KeepSharedSecret("one", b"first")) == b"first"
    assert await store.write(KeepSharedSecret("one", b"second")) == b"first"
    assert await store.write(KeepSharedSecret("other", b"second")) == b"second"


@pytest.mark.parametrize("settings", [{}, VALKEY])
async def test_a_process_with_a_database_of_its_own_is_alone(store: Store, settings: dict[str, Any]) -> None:
    assert await sharing(Settings.model_validate(settings), store) == Sharing()


async def test_a_missing_package_is_told_with_what_brings_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("mcp_gateway.core.valkey.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "hiredis", None)
    with pytest.raises(ConfigError, match=r"pip install 'mcp-gateway\[valkey\]'"):
        await sharing(Settings.model_validate(BOTH), store)
