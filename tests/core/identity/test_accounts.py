"""Accounts, the guests' among them."""

import asyncio
import sqlite3
from dataclasses import asdict
from functools import partial

import pytest

from mcp_gateway.core.caller import GUEST_ACCOUNT_ID
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.accounts import Account, Accounts
from mcp_gateway.core.identity.key_ring import KeyRing
from mcp_gateway.core.identity.own_limits import DEFAULT, OwnLimits
from tests.databases import Work


async def test_a_fresh_database_has_the_guests_account(accounts: Accounts) -> None:
    assert [account.id for account in await accounts.list()] == [GUEST_ACCOUNT_ID]


async def test_accounts_are_listed_oldest_first_the_guests_before_all(accounts: Accounts) -> None:
    made = [await accounts.create(name) for name in ("Ann", "Bob")]
    listed = await accounts.list()
    assert listed[1:] == sorted(made, key=lambda account: (account.created_at_ms, account.id))
    assert listed[0].id == GUEST_ACCOUNT_ID


async def test_an_account_is_found_by_its_id(accounts: Accounts) -> None:
    made = await accounts.create("Ann")
    assert made.id.startswith("acc_")
    assert await accounts.get(made.id) == made


async def test_an_unknown_account_is_not_found(accounts: Accounts) -> None:
    for asked in (
        accounts.get("acc_none"),
        accounts.change("acc_none", is_active=False),
        accounts.change("acc_none", limits={"in_flight": 1}),
    ):
        with pytest.raises(GatewayError) as caught:
            await asked
        assert caught.value.code == "not_found"


async def test_nothing_is_noted_of_an_account_that_there_is_not(accounts: Accounts, keys: KeyRing) -> None:
    for asked in (
        accounts.change("what was typed", is_active=False),
        accounts.change("what was typed", limits={"in_flight": 1}),
        accounts.change("what was typed", margin=1),
    ):
        with pytest.raises(GatewayError):
            await asked
    assert await keys.changes_after(0) is None


async def test_several_changes_of_an_account_come_all_or_none(accounts: Accounts, keys: KeyRing) -> None:
    made = await accounts.create("Ann")

    @Work
    def refuse(_: sqlite3.Connection) -> bool:
        raise GatewayError("conflict", "not now")

    change = partial(accounts.change, made.id, name="Bea", limits={"in_flight": 3}, margin=100, may_proxy=True)
    with pytest.raises(GatewayError, match="conflict"):
        await change(is_attributed=True, is_active=False, and_then=[refuse])
    assert await accounts.get(made.id) == made
    assert await keys.changes_after(0) is None
    await change(is_attributed=True, is_active=False)
    limits = OwnLimits(in_flight=3)
    assert await accounts.get(made.id) == Account(
        made.id, "Bea", made.created_at_ms, False, limits, margin=100, may_proxy=True, is_attributed=True
    )


async def test_an_account_can_be_switched_off_and_on(accounts: Accounts) -> None:
    made = await accounts.create("Ann")
    await accounts.change(made.id, is_active=False)
    assert not (await accounts.get(made.id)).is_active
    await accounts.change(made.id, is_active=True)
    assert (await accounts.get(made.id)).is_active


async def test_an_account_has_no_limits_of_its_own_until_it_is_given_some(accounts: Accounts) -> None:
    made = await accounts.create("Ann")
    assert made.limits == OwnLimits(DEFAULT, DEFAULT, DEFAULT, DEFAULT)
    limits = OwnLimits(requests_per_minute=7, in_flight=None)
    await accounts.change(made.id, limits=asdict(limits))
    assert (await accounts.get(made.id)).limits == limits
    assert [account.limits for account in await accounts.list()] == [OwnLimits(), limits]
    await accounts.change(made.id, limits=asdict(OwnLimits()))
    assert await accounts.get(made.id) == made


async def test_limits_that_are_not_given_stay_as_they_are_by_then(accounts: Accounts) -> None:
    made = await accounts.create("Ann")
    await asyncio.gather(
        accounts.change(made.id, limits={"in_flight": 3, "requests_per_day": None}),
        accounts.change(made.id, limits={"tokens_per_minute": 9}),
        accounts.change(made.id, limits={"in_flight": DEFAULT}),
    )
    assert (await accounts.get(made.id)).limits == OwnLimits(requests_per_day=None, tokens_per_minute=9)


async def test_guests_have_their_limits_from_the_configuration(accounts: Accounts) -> None:
    with pytest.raises(GatewayError) as caught:
        await accounts.change(GUEST_ACCOUNT_ID, limits={"requests_per_minute": 1})
    assert "[guests]" in caught.value.message
