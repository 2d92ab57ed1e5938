"""Starting compares the wallets with what came since the last checkpoint, and refuses books that do not add up."""

from pathlib import Path

import pytest

from mcp_gateway.core.ledger.checkpoint import LedgerBroken, verify_since_checkpoint
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.store.sql.checkpoint import DIFFERENCES
from mcp_gateway.core.store.sqlite.store import Store
from tests.databases import Query, outside_of


@pytest.fixture
async def funded(ledger: Ledger, account: str) -> str:
    """The id of an account with money."""
    await ledger.credit(account, 1000, "first")
    return account


def tamper(database: Path, sql: str) -> None:
    with outside_of(database) as another:
        another.rows(sql)


async def test_right_books_pass_and_move_the_checkpoint(store: Store, funded: str) -> None:
    await verify_since_checkpoint(store)
    assert (await store.read(Query("SELECT paid_nano FROM ledger_checkpoint WHERE account_id = ?", (funded,))))[0] == (
        1000,
    )
    await Ledger(store).credit(funded, 500, "second")
    await verify_since_checkpoint(store)
    assert (await store.read(Query("SELECT paid_nano FROM ledger_checkpoint WHERE account_id = ?", (funded,))))[0] == (
        1500,
    )


@pytest.mark.parametrize("is_after_checkpoint", [False, True])
async def test_a_wallet_that_differs_is_named_and_nothing_moves(
    store: Store, funded: str, database: Path, is_after_checkpoint: bool
) -> None:
    if is_after_checkpoint:
        await verify_since_checkpoint(store)
    before = await store.read(Query("SELECT * FROM ledger_checkpoint_position"))
    tamper(database, "UPDATE wallets SET paid_nano = paid_nano + 1")
    with pytest.raises(LedgerBroken, match=funded):
        await verify_since_checkpoint(store)
    assert await store.read(Query("SELECT * FROM ledger_checkpoint_position")) == before


async def test_a_lost_wallet_is_noticed(store: Store, funded: str, database: Path) -> None:
    await verify_since_checkpoint(store)
    tamper(database, "DELETE FROM wallets")
    with pytest.raises(LedgerBroken):
        await verify_since_checkpoint(store)


@pytest.mark.usefixtures("of_sqlite")
async def test_only_what_came_since_the_checkpoint_is_read(store: Store, funded: str) -> None:
    await verify_since_checkpoint(store)
    plan = await store.read(Query(f"EXPLAIN QUERY PLAN {DIFFERENCES}"))
    steps = [row[3] for row in plan if "ledger_rows" in row[3]]
    assert steps == ["SEARCH ledger_rows USING INTEGER PRIMARY KEY (rowid>?)"]
