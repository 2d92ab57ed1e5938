"""Purses of accounts that hold nothing are forgotten where there are many, and made again by what the database says."""

import asyncio

import pytest

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.ledger import purse
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.store.sqlite.store import Store
from tests.patience import PATIENCE_S, eventually

CREDIT_NANO = 10


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purse, "_MOST_PURSES", 1)


@pytest.fixture
async def waited_for(store: Store, account: str) -> Ledger:
    """The account's money is waited for."""
    ledger = Ledger(store, hold_wait_s=PATIENCE_S)
    await ledger.credit(account, CREDIT_NANO, "start")
    return ledger


async def test_a_forgotten_purse_is_read_again(ledger: Ledger, account: str) -> None:
    await ledger.credit(account, CREDIT_NANO, "start")
    assert (await ledger.balance(account)).spendable_nano == CREDIT_NANO
    await ledger.balance("acc_other")
    assert ledger._purses.known(account) is None
    assert (await ledger.hold("req_1", account, CREDIT_NANO, CREDIT_NANO)).amount_nano == CREDIT_NANO


async def test_a_purse_that_holds_something_stays(ledger: Ledger, account: str) -> None:
    await ledger.credit(account, CREDIT_NANO, "start")
    await ledger.hold("req_1", account, CREDIT_NANO, CREDIT_NANO)
    await ledger.balance("acc_other")
    with pytest.raises(GatewayError, match="balance_held"):
        await ledger.hold("req_2", account, 1, 1)


@pytest.mark.parametrize("waiting", [1, 3])
async def test_who_waits_is_served_where_its_purse_was_forgotten_as_its_money_came_free(
    waited_for: Ledger, account: str, waiting: int
) -> None:
    await waited_for.hold("req_running", account, CREDIT_NANO, CREDIT_NANO)
    asking = [asyncio.create_task(waited_for.hold(f"req_{number}", account, 2, 2)) for number in range(waiting)]
    purse = waited_for._purses.of(account)
    await eventually(lambda: waited_for._wait_list and not purse.reads)  # all have looked, and wait
    waited_for.release("req_running")
    waited_for._purses.of("acc_other")
    assert waited_for._purses.known(account) is None
    assert [hold.amount_nano for hold in await asyncio.gather(*asking)] == [2] * waiting


async def test_nobody_is_left_waiting_by_a_hold_that_was_made_by_reading(waited_for: Ledger, account: str) -> None:
    await waited_for.hold("req_1", account, CREDIT_NANO, CREDIT_NANO)
    assert not waited_for._wait_list
