"""Keys in the database: what is kept of them, how they are listed, and how many there may be."""

import asyncio
import re
from collections.abc import Awaitable, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from mcp_gateway.core.caller import GUEST_ACCOUNT_ID, SCOPES, Allowance, KeyScope
from mcp_gateway.core.engine import Write
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.idempotency import Idempotency, Kept
from mcp_gateway.core.identity import key_ring
from mcp_gateway.core.identity.accounts import LIMITS_OF, Accounts
from mcp_gateway.core.identity.key_ring import EndKeys, KeyRing
from mcp_gateway.core.identity.keys import Key, KeysPerAccount, Maker, binding, digest_of
from mcp_gateway.core.identity.known_keys import KnownKeys
from mcp_gateway.core.identity.own_limits import DEFAULT, OwnLimits
from mcp_gateway.core.ids import new_id, now_ms
from mcp_gateway.core.ledger.budgets import Budget, BudgetGroup, MakeBudgets
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.optimization import NO_DEFAULTS, RoutingChange, RoutingDefaults
from mcp_gateway.core.store.sqlite.store import Store
from tests.clocks import MsClock
from tests.databases import Query, Work

UNLIMITED = Allowance(None, None, None, None)


async def refusal(asked: Awaitable[object]) -> str:
    with pytest.raises(GatewayError) as caught:
        await asked
    return caught.value.code


async def test_a_key_knows_all_that_stand_before_it(keys: KeyRing, account: str) -> None:
    first, _ = await keys.create(account, limits=OwnLimits(1, None))
    second, _ = await keys.create(account, made_by=first.id, limits=OwnLimits(in_flight=2))
    third, raw = await keys.create(account, made_by=second.id)
    assert third.makers == (Maker(second.id, second.limits), Maker(first.id, first.limits))
    assert (first.makers, second.makers) == ((), (Maker(first.id, first.limits),))
    assert await keys.find(digest_of(raw)) == third
    assert sorted(await keys.makers_among([third.id, second.id, first.id, account, "key_unknown"])) == sorted(
        [(third.id, second.id), (third.id, first.id), (second.id, first.id)]
    )
    assert await keys.makers_among([]) == []


async def test_keys_are_told_by_their_names_or_how_they_begin_the_newest_first(keys: KeyRing, account: str) -> None:
    named, _ = await keys.create(account, name="the laptop")
    made, _ = await keys.create(account, made_by=named.id)
    other, _ = await keys.create(account, name="another")
    names = {other.id: "another", made.id: f"{made.prefix}…", named.id: "the laptop"}
    assert [*(await keys.names(account, most=9)).items()] == sorted(names.items(), reverse=True)
    assert [*(await keys.names(account, most=1))] == [max(names)]
    assert {*(await keys.names(account, most=9, within=named.id))} == {made.id, named.id}


async def test_a_line_of_keys_that_made_one_another_has_an_end(store: Store, account: str) -> None:
    keys = KeyRing(store, new_id=new_id, now_ms=now_ms, most=KeysPerAccount(live=99, a_day=99))
    key, _ = await keys.create(account, limits=OwnLimits(100))
    for number in range(8):
        key, _ = await keys.create(account, made_by=key.id, limits=OwnLimits(99 - number))
    assert len(key.makers) == 8
    assert await refusal(keys.create(account, made_by=key.id)) == "conflict"


async def test_a_key_that_is_replaced_by_one_like_itself_may_be_so_for_ever(store: Store, account: str) -> None:
    keys = KeyRing(store, new_id=new_id, now_ms=now_ms, most=KeysPerAccount(live=99, a_day=99))
    first, _ = await keys.create(account, limits=OwnLimits(50))
    lower, _ = await keys.create(account, limits=OwnLimits(5), made_by=first.id)
    key = lower
    for _ in range(20):
        before, (key, _) = key, await keys.create(account, made_by=key.id, limits=key.limits)
        await keys.revoke(before.id)
    assert len(key.makers) == 21
    assert [maker.key_id for maker in binding(key.makers)] == [lower.id, first.id]


def test_of_makers_with_the_same_limits_the_first_one_binds() -> None:
    one, other = OwnLimits(1), OwnLimits(2)
    line = [Maker("e", one), Maker("d", other), Maker("c", one), Maker("b", other), Maker("a", OwnLimits())]
    assert [maker.key_id for maker in binding(line)] == ["c", "b", "a"]
    assert binding([]) == []


async def test_a_new_key_is_found_by_its_digest_at_once(keys: KeyRing, account: str) -> None:
    key, raw = await keys.create(account, name="laptop")
    assert await keys.find(digest_of(raw)) == key
    assert (key.account_id, key.name, key.is_test) == (account, "laptop", False)


@pytest.mark.parametrize(("is_test", "prefix"), [(False, "gw_live_"), (True, "gw_test_")])
async def test_a_key_says_what_it_is_for_and_is_hard_to_guess(
    keys: KeyRing, account: str, is_test: bool, prefix: str
) -> None:
    key, raw = await keys.create(account, is_test=is_test)
    assert re.fullmatch(prefix + r"[\w-]{32,}", raw)
    assert raw.startswith(key.prefix)
    assert len(key.prefix) == 12
    assert key.is_test is is_test


@pytest.mark.usefixtures("of_sqlite")
async def test_the_key_itself_is_kept_nowhere(keys: KeyRing, account: str, database: Path, store: Store) -> None:
    key, raw = await keys.create(account)
    await store.close()
    kept = b"".join(path.read_bytes() for path in database.parent.iterdir())
    assert key.prefix.encode() in kept
    assert raw[len(key.prefix) :].encode() not in kept
    assert raw not in repr(key)


async def test_limits_are_a_number_none_or_the_default(keys: KeyRing, account: str) -> None:
    limits = OwnLimits(requests_per_minute=7, requests_per_day=None)
    key, _ = await keys.create(account, limits=limits)
    assert key.limits == limits
    assert (await keys.get(key.id)).limits == limits
    assert (await keys.get(key.id)).limits.in_flight is DEFAULT


async def test_a_change_touches_only_what_it_names(keys: KeyRing, account: str) -> None:
    key, _ = await keys.create(account, name="old", limits=OwnLimits(in_flight=3))
    renamed = await keys.change(key.id, name="new")
    assert (renamed.name, renamed.limits) == ("new", OwnLimits(in_flight=3))
    limited = await keys.change(key.id, limits={"in_flight": 2})
    assert await keys.get(key.id) == limited
    assert (limited.name, limited.limits) == ("new", OwnLimits(in_flight=2))


async def test_a_key_says_how_models_are_chosen_for_it_and_that_is_changed_one_by_one(
    keys: KeyRing, account: str, store: Store
) -> None:
    plain, _ = await keys.create(account)
    assert plain.routing == NO_DEFAULTS
    said = RoutingDefaults(("b", "a", "a/b:c"), "cost", tells_event=True)
    made, made_raw = await keys.create(account, routing=said)
    again = KeyRing(store, new_id=new_id, now_ms=now_ms, most=KeysPerAccount(live=99, a_day=99))
    for found in (made, await again.find(digest_of(made_raw)), (await again.list(account))[1]):
        assert found is not None
        assert found.routing == said
    changes: list[tuple[RoutingChange, RoutingDefaults]] = [
        ({"mode": "latency"}, RoutingDefaults(None, "latency")),
        ({"model_pool": ("x", "y")}, RoutingDefaults(("x", "y"), "latency")),
        ({"tells_event": True}, RoutingDefaults(("x", "y"), "latency", tells_event=True)),
        ({}, RoutingDefaults(("x", "y"), "latency", tells_event=True)),
        ({"mode": None, "model_pool": ("y",)}, RoutingDefaults(("y",), None, tells_event=True)),
        ({"model_pool": None, "tells_event": False}, NO_DEFAULTS),
    ]
    for change, routing in changes:
        assert (await keys.change(plain.id, routing=change)).routing == routing
        assert (await keys.change(plain.id, name="x")).routing == routing
    assert (await keys.get(made.id)).routing == said


async def test_changes_of_how_models_are_chosen_at_once_all_stay(keys: KeyRing, account: str) -> None:
    key, _ = await keys.create(account)
    changes: list[RoutingChange] = [{"mode": "cost"}, {"model_pool": ("a", "b")}, {"tells_event": True}]
    await asyncio.gather(*(keys.change(key.id, routing=change) for change in changes))
    assert (await keys.get(key.id)).routing == RoutingDefaults(("a", "b"), "cost", tells_event=True)


async def test_changes_of_different_limits_at_once_all_stay(keys: KeyRing, account: str) -> None:
    key, _ = await keys.create(account, limits=OwnLimits(in_flight=3))
    names = ("requests_per_minute", "requests_per_day", "tokens_per_minute")
    await asyncio.gather(*(keys.change(key.id, limits={name: limit}) for limit, name in enumerate(names, 4)))
    assert (await keys.get(key.id)).limits == OwnLimits(4, 5, 6, in_flight=3)
    await keys.change(key.id, limits={"requests_per_day": None, "in_flight": DEFAULT})
    assert (await keys.get(key.id)).limits == OwnLimits(4, None, 6)


async def test_a_change_is_checked_against_the_limits_that_it_would_replace(keys: KeyRing, account: str) -> None:
    key, _ = await keys.create(account, limits=OwnLimits(in_flight=9, requests_per_day=None))
    of_operator = keys.change(key.id, limits={"in_flight": 2})  # written first, in the same transaction
    refused = keys.change(key.id, name="new", limits={"in_flight": 5}, lowered_from=UNLIMITED)
    _, error = await asyncio.gather(of_operator, refused, return_exceptions=True)
    assert isinstance(error, GatewayError)
    assert error.code == "insufficient_permissions"
    assert "at most 2;" in error.message
    raised = await keys.change(key.id, limits={"requests_per_day": 7}, lowered_from=UNLIMITED)
    await keys.change(key.id, limits={"requests_per_day": None})
    assert raised.limits.requests_per_day == 7
    kept = await keys.get(key.id)
    assert (kept.name, kept.limits) == ("", OwnLimits(in_flight=2, requests_per_day=None))


async def test_guests_have_no_keys(keys: KeyRing) -> None:
    with pytest.raises(GatewayError) as caught:
        await keys.create(GUEST_ACCOUNT_ID)
    assert caught.value.code == "conflict"


async def test_an_account_has_only_so_many_live_keys_even_if_asked_at_once(keys: KeyRing, account: str) -> None:
    made = await asyncio.gather(*(keys.create(account) for _ in range(8)), return_exceptions=True)
    refusals = [error.code for error in made if isinstance(error, GatewayError)]
    assert refusals == ["conflict"] * 5
    await keys.revoke((await keys.list(account))[0].id)
    await keys.create(account)


async def test_keys_are_listed_by_account(keys: KeyRing, accounts: Accounts, account: str) -> None:
    other = await accounts.create("Bob")
    mine, _ = await keys.create(account)
    his, _ = await keys.create(other.id)
    assert await keys.list(account) == [mine]
    assert {key.id for key in await keys.list()} == {mine.id, his.id}


async def test_unknown_accounts_and_keys_are_not_found(keys: KeyRing) -> None:
    for asked in (
        keys.create("acc_none"),
        keys.get("key_none"),
        keys.revoke("key_none"),
        keys.change("key_none", name="x"),
    ):
        with pytest.raises(GatewayError) as caught:
            await asked
        assert caught.value.code == "not_found"


async def test_revoking_a_key_again_changes_nothing(keys: KeyRing, account: str) -> None:
    key, _ = await keys.create(account)
    revoked = await keys.revoke(key.id)
    assert revoked.revoked_at_ms is not None
    assert await keys.revoke(key.id) == revoked


async def test_pages_are_newest_first_and_each_begins_after_the_last(
    keys: KeyRing, accounts: Accounts, account: str
) -> None:
    await keys.create((await accounts.create("Bob")).id)
    made = sorted([(await keys.create(account))[0] for _ in range(3)], key=lambda key: key.id, reverse=True)
    first = await keys.page(account, before_id=None, limit=2)
    assert list(first) == made[:2]
    assert list(await keys.page(account, before_id=first[-1].id, limit=2)) == made[2:]
    assert list(await keys.page(account, before_id=made[-1].id, limit=2)) == []


async def test_a_page_may_be_of_live_or_of_revoked_keys_alone(keys: KeyRing, account: str) -> None:
    kept, lost = [(await keys.create(account))[0] for _ in range(2)]
    revoked = await keys.revoke(lost.id)
    assert list(await keys.page(account, before_id=None, limit=9, state="live")) == [kept]
    assert list(await keys.page(account, before_id=None, limit=9, state="revoked")) == [revoked]


async def test_an_account_makes_only_so_many_keys_in_a_utc_day_revoked_ones_included(
    keys: KeyRing, account: str, accounts: Accounts, clock: MsClock
) -> None:
    clock.now_ms += 86_400_000 - 1_500
    for _ in range(20):
        await keys.revoke((await keys.create(account))[0].id)
    assert await refusal(keys.create(account)) == "requests_per_day"
    with pytest.raises(GatewayError) as caught:
        await keys.create(account)
    assert caught.value.retry_after_s == 2
    await keys.create((await accounts.create("Bob")).id)
    clock.now_ms += 1_500
    await keys.create(account)


# Scopes, ends and makers


async def test_a_key_has_all_scopes_or_those_it_was_given(keys: KeyRing, account: str) -> None:
    everything, _ = await keys.create(account)
    some, raw = await keys.create(account, scopes=["read", "inference", "read"])
    assert everything.scopes == set(SCOPES)
    assert some.scopes == {"inference", "read"}
    assert await keys.find(digest_of(raw)) == some


async def test_a_test_key_has_the_scope_inference_alone(keys: KeyRing, account: str) -> None:
    scopes_given: list[list[KeyScope] | None] = [None, ["inference"]]
    for scopes in scopes_given:
        made, _ = await keys.create(account, is_test=True, scopes=scopes)
        assert (await keys.get(made.id)).scopes == {"inference"}
    assert await refusal(keys.create(account, is_test=True, scopes=["inference", "read"])) == "invalid_value"


async def test_keys_from_before_there_were_scopes_have_all_of_them_and_test_keys_one(
    keys: KeyRing, account: str, store: Store
) -> None:
    made = [(await keys.create(account, is_test=is_test, scopes=["inference"]))[0] for is_test in (False, True)]
    await store.write(Work(lambda connection: connection.execute("DELETE FROM key_rights").fetchall()))
    live, test = [await keys.get(key.id) for key in made]
    assert live.scopes == set(SCOPES)
    assert test.scopes == {"inference"}
    assert (live.expires_at_ms, live.made_by) == (None, None)
    assert (await keys.revoke(live.id)).revoked_at_ms is not None


async def test_an_end_lies_in_the_future(keys: KeyRing, account: str, clock: MsClock) -> None:
    for expires_at_ms in (0, clock.now_ms - 1, clock.now_ms, 253_402_300_800_000, 2**48 - 1):
        assert await refusal(keys.create(account, expires_at_ms=expires_at_ms)) == "invalid_value"
    key, _ = await keys.create(account, expires_at_ms=clock.now_ms + 1)
    assert key.fault_at(clock.now_ms) is None
    assert key.fault_at(clock.now_ms + 1) == "expired_api_key"


async def test_an_expired_key_takes_no_place_and_is_told_from_a_revoked_one_for_good(
    keys: KeyRing, account: str, clock: MsClock
) -> None:
    brief = [(await keys.create(account, expires_at_ms=clock.now_ms + 10))[0] for _ in range(3)]
    assert (await keys.revoke(brief[0].id)).state_at(clock.now_ms + 99) == "revoked"
    clock.now_ms += 10
    assert (await keys.revoke(brief[1].id)).state_at(clock.now_ms) == "expired"
    made = [(await keys.create(account))[0] for _ in range(3)]
    assert await refusal(keys.create(account)) == "conflict"
    states = [(await keys.get(key.id)).state_at(clock.now_ms) for key in (*brief, *made)]
    assert states == ["revoked", "expired", "expired", "live", "live", "live"]
    for state, count in (("live", 3), ("revoked", 1), ("expired", 2), (None, 6)):
        assert len(await keys.page(account, before_id=None, limit=9, state=state)) == count  # type: ignore[arg-type]


async def test_a_key_is_revoked_with_those_it_made_and_those_that_these_made(
    keys: KeyRing, account: str, clock: MsClock, store: Store
) -> None:
    keys = KeyRing(store, new_id=new_id, now_ms=clock, most=KeysPerAccount(live=9, a_day=20))
    root, other = [(await keys.create(account))[0] for _ in range(2)]
    child, lost = [(await keys.create(account, made_by=root.id))[0] for _ in range(2)]
    grandchildren = [(await keys.create(account, made_by=maker.id))[0] for maker in (child, lost)]
    await keys.create(account, made_by=other.id)
    await keys.revoke(lost.id)
    revoked, count = await keys.revoke_with_made(root.id)
    assert (revoked.id, revoked.state_at(clock.now_ms), count) == (root.id, "revoked", 3)
    assert [(await keys.get(key.id)).state_at(clock.now_ms) for key in (child, *grandchildren)] == ["revoked"] * 3
    assert len(await keys.page(account, before_id=None, limit=9, state="live")) == 2
    assert (await keys.revoke_with_made(root.id))[1] == 0


async def test_a_key_that_is_made_while_its_maker_is_revoked_is_revoked_too_or_never_made(
    keys: KeyRing, account: str, clock: MsClock, store: Store
) -> None:
    keys = KeyRing(store, new_id=new_id, now_ms=clock, most=KeysPerAccount(live=99, a_day=99))
    root, _ = await keys.create(account)
    children = [(await keys.create(account, made_by=root.id))[0] for _ in range(3)]
    makers = [root, *children] * 3
    made = [asyncio.ensure_future(keys.create(account, made_by=maker.id)) for maker in makers[:6]]
    revoking = asyncio.ensure_future(keys.revoke_with_made(root.id))
    made += [asyncio.ensure_future(keys.create(account, made_by=maker.id)) for maker in makers[6:]]
    await asyncio.gather(*made, return_exceptions=True)
    await revoking
    assert await keys.page(account, before_id=None, limit=99, state="live") == []


async def test_a_key_that_is_not_valid_any_more_makes_no_other(
    keys: KeyRing, accounts: Accounts, account: str, clock: MsClock
) -> None:
    revoked, expired, live = [(await keys.create(account, expires_at_ms=clock.now_ms + 10))[0] for _ in range(3)]
    await keys.revoke(revoked.id)
    assert await refusal(keys.create(account, made_by=revoked.id)) == "revoked_api_key"
    clock.now_ms += 10
    assert await refusal(keys.create(account, made_by=expired.id)) == "expired_api_key"
    live, _ = await keys.create(account)
    await accounts.change(account, is_active=False)
    assert await refusal(keys.create(account, made_by=live.id)) == "account_deactivated"


COUNT = (
    "SELECT COUNT(*) FROM keys WHERE account_id = 'a' AND {} "
    "AND EXISTS (SELECT 1 FROM minted_keys WHERE key_id = id) = 1"
)


@pytest.mark.usefixtures("of_sqlite")
@pytest.mark.parametrize(
    "sql",
    [
        COUNT.format("revoked_at_ms IS NULL"),
        COUNT.format("created_at_ms >= 1"),
        "SELECT * FROM keys WHERE account_id = 'a' AND id < 'key_9' ORDER BY id DESC LIMIT 51",
        "SELECT * FROM keys WHERE account_id = 'a' AND revoked_at_ms IS NULL ORDER BY id DESC LIMIT 51",
    ],
)
async def test_no_revoked_key_of_long_ago_is_read_for_a_count_or_a_page(store: Store, sql: str) -> None:
    plan = next(row[3] for row in await store.read(Query(f"EXPLAIN QUERY PLAN {sql}")) if "SEARCH" in row[3])
    assert re.search(r"live_keys_of_account|created_at_ms>|id<", plan), plan


async def test_a_key_and_the_answer_that_is_kept_of_it_are_written_together_or_not_at_all(
    keys: KeyRing, account: str, store: Store, clock: MsClock
) -> None:
    async with Idempotency(store, now_ms=clock).answering(account, "k", "keys", b"{}") as request:
        made, _ = await keys.create(account, keep=lambda key: request.answered(201, {"id": key.id}))
        assert await refusal(keys.create(account, keep=lambda key: request.answered(201, {"id": key.id}))) == "conflict"
    assert [key.id for key in await keys.list(account)] == [made.id]
    async with Idempotency(store, now_ms=clock).answering(account, "k", "keys", b"{}") as again:
        assert again.kept == Kept(201, {"id": made.id})


async def test_a_keys_budgets_are_written_with_it_and_not_where_it_is_refused(
    keys: KeyRing, account: str, ledger: Ledger
) -> None:
    def budget_of(key: Key) -> list[Write[None]]:
        return [MakeBudgets((Budget(f"bud_{key.id}", account, key.id, 100, "day"),))]

    made = [(await keys.create(account, and_then=budget_of))[0].id for _ in range(3)]
    assert await refusal(keys.create(account, and_then=budget_of)) == "conflict"  # it has as many as it may
    assert sorted(one.budget.holder for one in await ledger.budgets(account)) == sorted(made)


# Minted keys


async def mint(keys: KeyRing, maker: Key, **asked: Any) -> Key:
    return (await keys.create(maker.account_id, made_by=maker.id, has_budget=True, **asked))[0]


async def test_minted_keys_and_what_they_made_end_with_their_maker_and_others_do_not(
    keys: KeyRing, account: str, clock: MsClock
) -> None:
    maker, _ = await keys.create(account)
    usual, _ = await keys.create(account, made_by=maker.id)
    of_usual = await mint(keys, usual)
    minted = await mint(keys, maker)
    made, _ = await keys.create(account, made_by=minted.id)
    of_made, raw = await keys.create(account, made_by=made.id)
    assert [key.is_minted for key in (maker, usual, of_usual, minted, made, of_made)] == [False, False, *[True] * 4]
    assert await keys.find(digest_of(raw)) == of_made
    clock.now_ms += 1
    await keys.revoke(maker.id)
    ended = {key.id for key in await keys.list(account) if key.revoked_at_ms == clock.now_ms}
    assert ended == {maker.id, minted.id, made.id, of_made.id}
    await keys.revoke(usual.id)
    assert (await keys.get(of_usual.id)).state_at(clock.now_ms) == "revoked"


async def test_the_budget_of_a_minted_key_ends_with_it_and_another_binds_what_outlives_its_key(
    keys: KeyRing, account: str, ledger: Ledger, clock: MsClock
) -> None:
    def budget_of(key: Key) -> list[Write[None]]:
        return [MakeBudgets((Budget(f"bud_{key.id}", account, key.id, 100, "total"),))]

    maker, _ = await keys.create(account, and_then=budget_of)
    usual, _ = await keys.create(account, made_by=maker.id)
    revoked, brief = [
        await mint(keys, usual, and_then=budget_of, expires_at_ms=expires_at_ms)
        for expires_at_ms in (None, clock.now_ms + 10)
    ]

    async def holders() -> set[str]:
        return {one.budget.holder for one in await ledger.budgets(account)}

    assert await holders() == {maker.id, revoked.id, brief.id}
    await keys.revoke(revoked.id)
    assert await holders() == {maker.id, brief.id}
    clock.now_ms += 10
    await mint(keys, usual)
    assert await holders() == {maker.id}
    await keys.revoke(maker.id)
    assert await holders() == {maker.id}
    assert maker.id in (await keys.get(usual.id)).holders
    await keys.revoke(usual.id)
    assert await holders() == set()


async def test_the_budget_of_any_key_ends_once_no_live_key_spends_of_it(
    account: str, ledger: Ledger, accounts: Accounts, store: Store, clock: MsClock
) -> None:
    """Whoever ends in which order, at each step of a line, beside another line, a group and another account."""
    keys = KeyRing(store, new_id=new_id, now_ms=clock, most=KeysPerAccount(live=99, a_day=99))

    def budget_of(key: Key) -> list[Write[None]]:
        return [MakeBudgets((Budget(f"bud_{key.id}", key.account_id, key.id, 100, "total"),))]

    async def holders() -> list[str]:
        return sorted(one.budget.holder for one in await ledger.budgets(account))

    stranger = (await accounts.create("stranger")).id
    (foreign, _), (other, _) = [await keys.create(one, and_then=budget_of) for one in (stranger, account)]
    group = BudgetGroup("grp_1", account, "agents")
    await store.write(MakeBudgets((Budget("bud_g", account, "grp_1", 100, "day"),), group))
    for order in permutations(range(3)):
        line: list[Key] = []
        for _ in range(3):
            made_by = line[-1].id if line else None
            line.append((await keys.create(account, made_by=made_by, group="agents", and_then=budget_of))[0])
        live = set(range(3))
        for place in order:
            await keys.revoke(line[place].id)
            live.discard(place)
            spent_of = [key.id for key in line[: max(live, default=-1) + 1]]
            assert await holders() == sorted(["grp_1", other.id, *spent_of])
    brief, _ = await keys.create(account, expires_at_ms=clock.now_ms + 10, and_then=budget_of)
    assert brief.id in await holders()
    clock.now_ms += 10
    await keys.revoke(other.id)
    await keys.create(account)
    assert await holders() == ["grp_1"]
    assert [one.budget.holder for one in await ledger.budgets(stranger)] == [foreign.id]


async def test_of_a_branch_that_ends_its_head_is_noted_and_of_a_minted_key_nothing(
    keys: KeyRing, account: str, known: KnownKeys
) -> None:
    """Whoever knows a key looks at it again where one behind it has changed; a minted key may use no more than that."""
    maker, _ = await keys.create(account)
    number = await keys.forget_changes()
    minted = [await mint(keys, maker) for _ in range(2)]
    below, raw = await keys.create(account, made_by=minted[0].id)
    assert await keys.changes_after(number) is None
    assert await known.look_up(raw) == below
    await keys.revoke(maker.id)
    changes = await keys.changes_after(number)
    assert changes is not None
    assert changes.ids is not None
    assert set(changes.ids) == {maker.id, LIMITS_OF + account}
    with pytest.raises(GatewayError) as caught:
        known.recall(raw)
    assert caught.value.code == "revoked_api_key"


@pytest.mark.parametrize("has_budget", [True, False])
async def test_a_line_of_minted_keys_has_an_end_wherever_it_begins(
    account: str, store: Store, clock: MsClock, has_budget: bool
) -> None:
    keys = KeyRing(store, new_id=new_id, now_ms=clock, most=KeysPerAccount(live=99, a_day=99))
    last, _ = await keys.create(account)
    for _ in range(10):
        last, _ = await keys.create(account, made_by=last.id)
    last = await mint(keys, last)
    for _ in range(7):
        last, _ = await keys.create(account, made_by=last.id, has_budget=has_budget)
    for with_budget in (True, False):
        assert await refusal(keys.create(account, made_by=last.id, has_budget=with_budget)) == "conflict"
    maker_id = last.made_by
    assert (await keys.create(account, made_by=maker_id))[0].is_minted


async def test_of_thousands_that_end_some_do_at_a_time_and_their_maker_last(
    account: str, store: Store, clock: MsClock
) -> None:
    keys = KeyRing(store, new_id=new_id, now_ms=clock, most=KeysPerAccount(live=99, a_day=99))
    for count in range(3, 10):
        maker, _ = await keys.create(account)
        usual, _ = await keys.create(account, made_by=maker.id)
        line = [maker]
        for number in range(count):
            line.append(await mint(keys, line[number // 3]))
        at_once: list[set[str]] = []

        async def live(line: Sequence[Key] = line) -> set[str]:
            return {key.id for key in line} & {key.id for key in await keys.list(account) if key.revoked_at_ms is None}

        write = EndKeys((maker.id,), clock(), 4)
        is_all = False
        while not is_all:
            before = await live()
            ended = await store.write(write)
            is_all, after = ended.is_all, await live()
            assert ended.ids == before - after
            assert 1 <= len(ended.ids) <= 4
            assert all(key.made_by in after for key in line if key.id in after - {maker.id})
            at_once.append(set(ended.ids))
        assert set().union(*at_once) == {key.id for key in line}
        assert (await keys.get(usual.id)).revoked_at_ms is None
        _, made_count = await keys.revoke_with_made(maker.id)
        assert made_count == 1


async def test_a_revocation_ends_all_however_many_end_at_once(
    account: str, store: Store, clock: MsClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_ring, "_MOST_ENDED_AT_ONCE", 2)
    keys = KeyRing(store, new_id=new_id, now_ms=clock, most=KeysPerAccount(live=99, a_day=99))
    for with_made in (True, False):
        maker, _ = await keys.create(account)
        minted = [await mint(keys, maker) for _ in range(5)]
        below = [await mint(keys, minted[0]) for _ in range(3)]
        if with_made:
            assert (await keys.revoke_with_made(maker.id))[1] == 8
        else:
            await keys.revoke(maker.id)
        assert all([(await keys.get(key.id)).revoked_at_ms for key in (maker, *minted, *below)])


async def test_the_operators_keys_mint_nothing_by_having_a_budget(keys: KeyRing, account: str) -> None:
    key, _ = await keys.create(account, has_budget=True)
    assert not key.is_minted


async def test_a_branch_ends_without_its_siblings_and_is_counted_as_it_ends(keys: KeyRing, account: str) -> None:
    maker, _ = await keys.create(account)
    first, second = [await mint(keys, maker) for _ in range(2)]
    below = [await mint(keys, first) for _ in range(2)]
    await keys.revoke(below[0].id)
    _, made_count = await keys.revoke_with_made(first.id)
    assert made_count == 1
    live = await keys.page(account, before_id=None, limit=9, state="live")
    assert {key.id for key in live} == {second.id, maker.id}
    assert (await keys.revoke_with_made(first.id))[1] == 0


async def test_an_ended_maker_mints_no_more_and_of_those_at_once_none_is_left(keys: KeyRing, account: str) -> None:
    maker, _ = await keys.create(account)
    first = await mint(keys, maker)
    await asyncio.gather(mint(keys, first), keys.revoke(maker.id), mint(keys, first), return_exceptions=True)
    assert [key for key in await keys.list(account) if key.revoked_at_ms is None] == []
    assert await refusal(mint(keys, first)) == "revoked_api_key"


async def test_minted_keys_are_counted_apart_and_by_the_minute(
    keys: KeyRing, account: str, clock: MsClock, accounts: Accounts
) -> None:
    clock.now_ms += 59_000
    maker, _ = await keys.create(account)
    minted = [await mint(keys, maker) for _ in range(5)]
    assert await refusal(mint(keys, maker)) == "conflict"
    assert await refusal(keys.create(account, made_by=minted[0].id)) == "conflict"  # it is minted, too
    for _ in range(2):
        await keys.create(account)
    assert await refusal(keys.create(account)) == "conflict"
    for _ in range(3):
        await keys.revoke(minted.pop().id)
        minted.append(await mint(keys, maker))
    await keys.revoke(minted.pop().id)
    with pytest.raises(GatewayError) as caught:
        await mint(keys, maker)
    assert (caught.value.code, caught.value.retry_after_s) == ("requests_per_minute", 2)
    other, _ = await keys.create((await accounts.create("Bob")).id)
    await mint(keys, other)
    clock.now_ms += 1000
    await mint(keys, maker)


async def test_minted_keys_whose_time_is_over_make_room_and_do_not_fill_the_day(
    keys: KeyRing, account: str, clock: MsClock
) -> None:
    maker, _ = await keys.create(account)
    for _ in range(5):
        for _ in range(5):
            await mint(keys, maker, expires_at_ms=clock.now_ms + 10)
        clock.now_ms += 60_000
    for _ in range(2):
        await keys.create(account)
    assert [key.state_at(clock.now_ms) for key in await keys.list(account)].count("expired") == 25


async def test_a_page_may_be_of_a_key_and_what_it_made_alone(keys: KeyRing, account: str) -> None:
    maker, _ = await keys.create(account)
    first, second = [await mint(keys, maker) for _ in range(2)]
    below = await mint(keys, first)
    last, _ = await keys.create(account, made_by=below.id)

    async def seen(key: Key, **asked: Any) -> set[str]:
        page = await keys.page(account, limit=9, within=key.id, **({"before_id": None} | asked))
        return {one.id for one in page}

    branch = {last.id, below.id, first.id}
    assert await seen(maker) == branch | {second.id, maker.id}
    assert await seen(first) == branch
    assert await seen(first, before_id=max(branch)) == branch - {max(branch)}
    assert await seen(second) == {second.id}
    await keys.revoke(below.id)
    assert await seen(first, state="live") == {first.id}
    assert await seen(first, state="revoked") == {last.id, below.id}


async def test_a_key_is_put_into_a_group_of_its_account_and_out_again(
    keys: KeyRing, account: str, accounts: Accounts, store: Store
) -> None:
    await store.write(MakeBudgets((), BudgetGroup("grp_1", account, "agents")))
    await store.write(MakeBudgets((), BudgetGroup("grp_2", account, "people")))
    maker, raw = await keys.create(account, group="agents")
    made, raw_made = await keys.create(account, made_by=maker.id)
    assert (maker.group, maker.holders) == ("agents", frozenset({maker.id, "grp_1"}))
    assert await keys.find(digest_of(raw)) == maker
    assert (made.group, made.holders) == (None, frozenset({made.id, maker.id, "grp_1"}))
    await keys.change(made.id, group="people")
    moved = await keys.find(digest_of(raw_made))
    assert moved is not None
    assert (moved.group, moved.holders) == ("people", frozenset({made.id, "grp_2", maker.id, "grp_1"}))
    assert (await keys.change(made.id, name="again")).group == "people"
    await keys.change(maker.id, group="people")
    assert (await keys.get(made.id)).holders == {made.id, "grp_2", maker.id}
    await keys.change(maker.id, group="")
    assert (await keys.change(made.id, group="")).holders == {made.id, maker.id}


async def test_a_group_that_the_account_does_not_have_takes_no_key(
    keys: KeyRing, account: str, accounts: Accounts, store: Store
) -> None:
    stranger = (await accounts.create("stranger")).id
    await store.write(MakeBudgets((), BudgetGroup("grp_1", stranger, "agents")))
    key, _ = await keys.create(account)
    for group in ("agents", "grp_1", "Agents", " "):
        assert await refusal(keys.create(account, group=group)) == "not_found"
        assert await refusal(keys.change(key.id, name="new", group=group)) == "not_found"
    assert await keys.list(account) == [key]


async def test_an_account_that_is_not_there_has_no_limits(keys: KeyRing) -> None:
    assert await refusal(keys.account_limits("acc_none")) == "not_found"
