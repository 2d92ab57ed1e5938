"""When the gateway first had each model: the same after a restart."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mcp_gateway.core.observe.model_ages import ModelAges
from tests.databases import locked, migrated, open_store, outside_of


@contextlib.asynccontextmanager
async def opened(folder: Path, now_s: float) -> AsyncIterator[ModelAges]:
    """One run of the gateway, which begins then."""
    store = await open_store(migrated(folder / "gateway.sqlite3"), busy_timeout_s=0)
    ages = ModelAges(store, lambda: now_s)
    await ages.restore()
    try:
        yield ages
    finally:
        await store.close()


def rows(folder: Path) -> list[tuple[str, int]]:
    with outside_of(folder / "gateway.sqlite3") as another:
        return another.rows("SELECT * FROM models_seen ORDER BY id")


async def test_a_model_is_as_old_as_its_first_sight_in_any_run(tmp_path: Path) -> None:
    async with opened(tmp_path, 1000.7) as ages:
        assert [ages.created_at_s(name) for name in ("a", "a")] == [1000, 1000]
    async with opened(tmp_path, 2000.0) as ages:
        assert [ages.created_at_s(name) for name in ("b", "a")] == [2000, 1000]
    async with opened(tmp_path, 500.0) as ages:
        assert [ages.created_at_s(name) for name in ("a", "b", "c")] == [1000, 2000, 500]
    assert rows(tmp_path) == [("a", 1000), ("b", 2000), ("c", 500)]


async def test_what_could_not_be_written_is_written_with_the_next_catalog(tmp_path: Path) -> None:
    async with opened(tmp_path, 1000.0) as ages:
        store = ages._store
        async with locked(tmp_path / "gateway.sqlite3"):
            assert ages.created_at_s("a") == 1000
            with pytest.raises(Exception, match="ledger_unavailable"):
                await store.flushed()
        ages.created_at_s("a")
    assert rows(tmp_path) == [("a", 1000)]


async def test_of_names_without_end_the_first_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp_gateway.core.observe.model_ages._MOST_REMEMBERED", 2)
    async with opened(tmp_path, 1000.0) as ages:
        assert [ages.created_at_s(name) for name in ("a", "b", "c", "d", "a")] == [1000] * 5
    assert rows(tmp_path) == [("a", 1000), ("b", 1000)]
