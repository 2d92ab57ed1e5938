"""Replicas whose database is another one all of a sudden, without what was committed last: as a standby takes over."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from mcp_gateway.core.ledger.entries import Balance
from tests.crash.test_kill import Tokens
from tests.engines.gateways import Site, site_at
from tests.engines.test_processes import CREDIT_NANO, FREELY, Load
from tests.patience import eventually, poll
from tests.postgres_server import copy_rows, name_in, postgres_server
from tests.postgres_stores import NOTES

pytestmark = pytest.mark.engines


@pytest.fixture
async def site(tmp_path: Path, valkey_url: str) -> AsyncIterator[Site]:
    async with site_at(tmp_path, valkey_url) as site:
        yield site


def take_the_place(of: str, by: str) -> None:
    """The database at one URL is from now on the one at another."""
    admin, (old, new) = postgres_server().admin, map(name_in, (of, by))
    admin.run(f"ALTER DATABASE {old} ALLOW_CONNECTIONS false")
    admin.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = ?", old)
    poll(lambda: not admin.rows("SELECT 1 FROM pg_stat_activity WHERE datname = ?", old))
    admin.run(f"ALTER DATABASE {old} RENAME TO former_{old}")
    admin.run(f"ALTER DATABASE {new} RENAME TO {old}")


async def test_replicas_go_on_with_what_a_database_has_that_takes_the_place_of_theirs(site: Site) -> None:
    site.backend.standing = Tokens(7)
    async with site.desk() as desk:
        account = (await desk.accounts.create("failed over")).id
        await desk.ledger.credit(account, CREDIT_NANO, "start")
        _, key = await desk.keys.create(account, limits=FREELY)
    load = Load(key, clients=2)
    async with AsyncExitStack() as stack:
        programs = [await stack.enter_async_context(site.replica(name)) for name in ("one", "two")]
        for program in programs:
            load.at(program)
        await load.more()
        standby = postgres_server().make(NOTES)
        copy_rows(site.url, standby)
        await load.more()
        take_the_place(site.url, standby)
        for _ in range(3):
            await load.more()
        await load.end_all()
        with site.outside() as outside:
            await eventually(lambda: not outside.rows("SELECT 1 FROM allotments WHERE amount_nano > 0"))
            for program in programs:
                await program.end()
            settled = outside.rows("SELECT reference, revenue_nano FROM ledger_transactions WHERE kind = 'settle'")
    assert load.seen.broken == 0
    charged = dict(settled)
    assert len(charged) == len(settled)
    assert 0 < len(charged.keys() & load.seen.whole.keys()) < len(load.seen.whole)
    async with site.desk() as desk:
        assert await desk.ledger.check(of_all_entries=True) == []
        assert await desk.ledger.balance(account) == Balance(CREDIT_NANO - sum(charged.values()))
