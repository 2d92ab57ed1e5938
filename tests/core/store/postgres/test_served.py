"""A gateway that keeps its books in PostgreSQL: one server, commands beside it, chats that are billed."""

import contextlib
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mcp_gateway.core.config import Settings
from mcp_gateway.core.engine import DatabaseError
from mcp_gateway.core.gateway import open_desk, open_gateway
from mcp_gateway.core.store import opening
from mcp_gateway.core.store.database import NotRestorable, SchemaTooNew
from mcp_gateway.core.store.opening import database_in
from mcp_gateway.core.store.postgres.database import PostgresDatabase
from mcp_gateway.core.store.postgres.link import ThreadedPostgresLink, Where
from mcp_gateway.core.store.postgres.migrations import _steps, migrate_database
from mcp_gateway.core.store.postgres.session import LOCKS, SERVING
from mcp_gateway.core.store.sole import AlreadyServed
from tests.postgres_server import Outside, postgres_server
from tests.postgres_stores import lent_database
from tests.replaying import ReplayingBackend
from tests.serving import bearer, open_door
from tests.stage import CREDIT_NANO, PRICED, cost_nano, staged

pytestmark = pytest.mark.engines


def settings_at(url: str, folder: Path, **more: Any) -> Settings:
    return Settings(data_dir=folder, database_url=url, **more)  # type: ignore[arg-type]


async def test_chats_are_billed_and_commands_work_beside_the_server(tmp_path: Path, backend: ReplayingBackend) -> None:
    with lent_database() as url:
        settings: dict[str, Any] = {"vllm_urls": [backend.url], "models": [PRICED], "database_url": url}
        async with open_door(tmp_path / "one", **settings) as door:
            stage = await staged(door, backend)
            answer = await stage.ask()
            assert answer.status_code == 200
            usage = answer.json()["usage"]
            charged = cost_nano(usage["prompt_tokens"], usage["completion_tokens"])
            await stage.is_left_with(CREDIT_NANO - charged)
            transactions = await door.http.get("/v1/billing/transactions", headers=bearer(stage.key))
            assert [one["kind"] for one in transactions.json()["data"]] == ["settle", "credit"]
            report = await door.http.get("/v1/usage", headers=bearer(stage.key))
            assert report.status_code == 200
            async with open_desk(settings_at(url, tmp_path / "another machine")) as desk:
                assert await desk.ledger.check(of_all_entries=True) == []
                found = await desk.keys.list(stage.account_id)
                with desk.server._alone() as is_alone:
                    assert not is_alone  # by its database, whatever folder it has
                await desk.keys.revoke(found[0].id)
            await door.gateway.known_keys.catch_up()
            refused = await door.chat(stage.key)
            assert refused.status_code == 401
        async with open_door(tmp_path / "one", **settings) as door:
            assert await door.balance_nano(stage.account_id) == CREDIT_NANO - charged


async def test_a_second_server_of_a_database_does_not_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp_gateway.core.store.postgres.database._PATIENCE_S", 0.0)
    with lent_database() as url:
        async with open_gateway(settings_at(url, tmp_path / "one")):
            other = PostgresDatabase(tmp_path, url, patience_s=0)
            with pytest.raises(AlreadyServed, match="already serves from this database"):
                await other.open(now_ms=lambda: 0, report_timeout_s=1, is_server=True)


async def test_servers_that_name_one_valkey_serve_from_a_database_together(tmp_path: Path, valkey_url: str) -> None:
    with lent_database() as url:
        one, two = (settings_at(url, tmp_path / name, valkey_url=valkey_url) for name in ("one", "two"))
        async with open_gateway(one) as first, open_gateway(two) as second:
            assert len({None, first.replica(), second.replica()}) == 3
            async with open_desk(settings_at(url, tmp_path / "a command")) as desk:
                assert await desk.ledger.check(of_all_entries=True) == []
            sole = PostgresDatabase(tmp_path, url, patience_s=0)
            with pytest.raises(AlreadyServed, match="set GATEWAY_VALKEY_URL for both"):
                await sole.open(now_ms=lambda: 0, report_timeout_s=1, is_server=True)


def test_a_database_that_is_elsewhere_has_tools_of_its_own(tmp_path: Path) -> None:
    database = PostgresDatabase(tmp_path, "postgresql://nobody@localhost/none")
    with pytest.raises(DatabaseError, match="pg_dump"):
        database.back_up(tmp_path / "copy")
    with pytest.raises(NotRestorable, match="pg_restore"):
        database.restore(tmp_path / "copy", tmp_path / "aside", [])


def test_one_that_nobody_serves_is_told_in_words(tmp_path: Path) -> None:
    database = PostgresDatabase(tmp_path, f"postgresql://nobody@/none?host={tmp_path}")
    with pytest.raises(DatabaseError, match="database_url names cannot be reached: "):
        database.upgrade_unless_served()


@pytest.mark.parametrize("package", ["asyncpg", "greenlet"])
def test_what_is_to_be_installed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for name in [name for name in sys.modules if name.startswith("mcp_gateway.core.store.postgres")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(DatabaseError, match=rf"{package} is needed: .*mcp-gateway\[postgres\]"):
        opening.database_in(tmp_path, "postgresql://a@b/c")


def test_of_five_that_begin_at_once_one_makes_the_schema() -> None:
    url = postgres_server().make_empty()

    def begin(_: int) -> int:
        link = ThreadedPostgresLink(Where(url, 60.0, {}))
        link.connect()
        try:
            return migrate_database(link)
        finally:
            link.close()

    with ThreadPoolExecutor(5) as starters:
        assert sorted(starters.map(begin, range(5))) == [0, 0, 0, 0, max(_steps())]


async def test_a_replica_that_begins_while_another_makes_the_schema_serves_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for the lock of who makes it, and then for that of who serves."""
    url = postgres_server().make_empty()
    with Outside(url) as first, Outside(url) as serving:
        first.rows(f"SELECT pg_advisory_lock({LOCKS}, {SERVING})")
        waits: list[float] = []

        def other_has_begun(seconds: float) -> None:
            waits.append(seconds)
            migrate_database(first._link)
            first.rows(f"SELECT pg_advisory_unlock({LOCKS}, {SERVING})")
            serving.rows(f"SELECT pg_advisory_lock_shared({LOCKS}, {SERVING})")

        monkeypatch.setattr("time.sleep", other_has_begun)
        second = PostgresDatabase(tmp_path, url, is_shared=True)
        store = await second.open(now_ms=lambda: 0, report_timeout_s=1, is_server=True)
        await store.close()
        assert len(waits) == 1


def test_a_schema_of_a_later_version_and_one_that_was_changed_are_refused(tmp_path: Path) -> None:
    url = postgres_server().make_empty()
    database = database_in(tmp_path, url)
    database.upgrade_unless_served()
    database.upgrade_unless_served()
    with Outside(url) as outside:
        outside.run("INSERT INTO schema_migrations (number, sha256) VALUES (9999, '')")
        with pytest.raises(SchemaTooNew):
            database.upgrade_unless_served()
        outside.run("DELETE FROM schema_migrations WHERE number = 9999; UPDATE schema_migrations SET sha256 = 'x'")
    with pytest.raises(DatabaseError, match="was changed"), contextlib.suppress(AlreadyServed):
        PostgresDatabase(tmp_path, url)._migrate_alone()
