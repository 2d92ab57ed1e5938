"""Several replicas on one database, each with a ledger of its own, as tests open them."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from mcp_gateway.core.identity.accounts import Accounts
from mcp_gateway.core.ids import new_id
from mcp_gateway.core.ledger.leases import Leases
from mcp_gateway.core.ledger.shared import SharedLedger
from mcp_gateway.core.store.postgres.executors import EXECUTORS
from mcp_gateway.core.store.postgres.session import DECLARE_OVER, WriterSession
from mcp_gateway.core.store.postgres.store import PostgresStore
from tests.clocks import MsClock
from tests.databases import FOR_TESTS, changing
from tests.patience import eventually
from tests.postgres_server import Outside


class Replica:
    """One of them."""

    def __init__(self, session: WriterSession, store: PostgresStore, ledger: SharedLedger) -> None:
        self.session = session
        self.store = store
        self.ledger = ledger
        self.leases = Leases(store, ledger)

    @property
    def id(self) -> int:
        assert self.store.replica is not None
        return self.store.replica

    async def give_back_idle(self) -> None:
        """As its loop does in two turns."""
        await self.ledger.return_idle()
        await self.ledger.return_idle()


@contextlib.asynccontextmanager
async def replica_at(url: str, clock: MsClock, **options: Any) -> AsyncIterator[Replica]:
    session = WriterSession(url, is_server=True, is_shared=True)
    store = await PostgresStore.open(url, FOR_TESTS | EXECUTORS, session=session, now_ms=clock)
    ledger = SharedLedger(store, lambda: store.replica, lambda: store.hears_others, **options)
    try:
        await eventually(lambda: store.hears_others)
        yield Replica(session, store, ledger)
    finally:
        await store.close()


@contextlib.asynccontextmanager
async def cut_off(replica: Replica, outside: Outside) -> AsyncIterator[None]:
    """Its session has ended, and it finds no way to the database while this lasts."""
    opened = replica.session.open

    def refused() -> None:
        raise ConnectionRefusedError

    replica.session.open = refused  # type: ignore[method-assign]
    await end_session(replica.session, outside)
    try:
        yield
    finally:
        replica.session.open = opened  # type: ignore[method-assign]


async def account_in(store: PostgresStore, clock: MsClock) -> str:
    return (await Accounts(store, new_id=new_id, now_ms=clock).create("someone")).id


async def paid_account(replica: Replica, clock: MsClock, credit_nano: int) -> str:
    """An account with so much money."""
    account_id = await account_in(replica.store, clock)
    await replica.ledger.credit(account_id, credit_nano, "paid")
    return account_id


async def account_with_group(replica: Replica, clock: MsClock, credit_nano: int = 10_000) -> str:
    """The same with a group of keys, `under`."""
    account_id = await paid_account(replica, clock, credit_nano)
    await replica.store.write(changing("INSERT INTO key_groups VALUES ('under', ?, 'x')", (account_id,)))
    return account_id


async def end_session(session: WriterSession, outside: Outside) -> None:
    """Its connection ends, and it is not told before it asks for something."""
    process_id = session.link.process_id
    outside.rows("SELECT pg_terminate_backend(CAST(? AS integer))", process_id)
    gone = "SELECT 1 FROM pg_stat_activity WHERE pid = CAST(? AS integer)"
    await eventually(lambda: not outside.rows(gone, process_id))


def make_old(outside: Outside, replica: int) -> None:
    """It has not committed anything for an hour."""
    outside.rows("UPDATE writers SET at = now() - interval '1 hour' WHERE id = ? RETURNING id", replica)


__all__ = ["DECLARE_OVER"]
