"""The rules of money, for any wallet and amount: nothing is taken twice, nothing lost, nothing of others touched."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mcp_gateway.core.ledger import rules
from mcp_gateway.core.ledger.rules import NOTHING, Amount, Free, GrantLeft

NOW_MS = 1000
NANO = st.integers(0, 200)
SIGNED = st.integers(-200, 200)
EXPIRY = st.none() | st.integers(NOW_MS - 3, NOW_MS + 3)


def in_order(grants: list[tuple[int, int | None]]) -> tuple[GrantLeft, ...]:
    """As wallets have them: the first to expire first, of the same time the first made; lasting ones at the end."""
    made = [GrantLeft(number, left_nano, expiry_ms) for number, (left_nano, expiry_ms) in enumerate(grants)]
    return tuple(sorted(made, key=lambda grant: (grant.expires_at_ms is None, grant.expires_at_ms or 0, grant.id)))


GRANTS = st.lists(st.tuples(st.integers(1, 100), EXPIRY), max_size=5).map(in_order)
FREE = st.builds(Free, SIGNED, GRANTS)


def living(free: Free, at_ms: int = NOW_MS) -> tuple[GrantLeft, ...]:
    return tuple(grant for grant in free.grants if grant.expires_at_ms is None or grant.expires_at_ms > at_ms)


def spendable_nano(free: Free, at_ms: int = NOW_MS) -> int:
    return free.paid_nano + sum(grant.left_nano for grant in living(free, at_ms))


def held_of(free: Free, share: float) -> Amount:
    """What a request may hold of a wallet."""
    most_nano = max(int(spendable_nano(free) * share), 0)
    return rules.place(free, 0, most_nano, NOW_MS) or NOTHING


def beside_others(wallet: Free, others: float, share: float) -> tuple[Amount, Free]:
    """What a request holds of what others have left of a wallet, and what nobody holds then."""
    left = rules.less(wallet, held_of(wallet, others))
    held = held_of(left, share)
    return held, rules.less(left, held)


def is_taken_first_to_expire_first(taken: Amount, grants: tuple[GrantLeft, ...]) -> bool:
    """Whether each is used up before the next is begun, and all before paid money."""
    used = [dict(taken.grants).get(grant.id, 0) for grant in grants]
    begun = [grant.left_nano == part_nano for grant, part_nano in zip(grants, used, strict=True)]
    after = [*used[1:], taken.paid_nano]
    return all(is_used_up or not any(after[place:]) for place, is_used_up in enumerate(begun))


def by_grant(free: Free) -> dict[int, int]:
    return {grant.id: grant.left_nano for grant in free.grants}


# What a hold takes


@given(FREE, NANO, NANO)
def test_a_hold_is_given_where_so_much_is_free_and_takes_what_there_is_up_to_the_most(
    free: Free, needed_nano: int, most_nano: int
) -> None:
    placed = rules.place(free, needed_nano, most_nano, NOW_MS)
    assert (placed is None) == (spendable_nano(free) < needed_nano)
    if placed is not None:
        assert placed.amount_nano == min(most_nano, spendable_nano(free))


@given(FREE, NANO)
def test_a_hold_takes_of_each_source_no_more_than_that_has(free: Free, most_nano: int) -> None:
    placed = rules.place(free, 0, most_nano, NOW_MS)
    if placed is None:
        return
    left = by_grant(free)
    assert 0 <= placed.paid_nano <= max(free.paid_nano, 0)
    assert all(0 < part_nano <= left[grant_id] for grant_id, part_nano in placed.grants)
    assert len({grant_id for grant_id, _ in placed.grants}) == len(placed.grants)


@given(FREE, NANO)
def test_granted_credit_goes_first_the_first_to_expire_first_and_what_expired_never(free: Free, most_nano: int) -> None:
    placed = rules.place(free, 0, most_nano, NOW_MS)
    if placed is None:
        return
    assert is_taken_first_to_expire_first(placed, living(free))
    assert {grant_id for grant_id, _ in placed.grants} <= {grant.id for grant in living(free)}


@given(FREE, st.lists(NANO, max_size=6))
def test_holds_one_after_the_other_never_take_more_than_there_was(free: Free, wanted: list[int]) -> None:
    held = NOTHING
    for most_nano in wanted:
        placed = rules.place(rules.less(free, held), 1, most_nano, NOW_MS)
        held = rules.added(held, placed or NOTHING)
    assert held.amount_nano == min(sum(wanted), max(spendable_nano(free), 0))
    assert held.paid_nano <= max(free.paid_nano, 0)
    assert all(part_nano <= by_grant(free)[grant_id] for grant_id, part_nano in held.grants)


# What is held from then on


NEEDED_AND_MOST = st.tuples(NANO, NANO).map(sorted)
LATER_MS = st.integers(NOW_MS, NOW_MS + 3)


@given(FREE, st.floats(0, 1), st.floats(0, 1), NEEDED_AND_MOST, LATER_MS)
def test_a_hold_becomes_the_most_or_what_there_is_where_that_is_what_is_needed(
    wallet: Free, others: float, share: float, amounts: list[int], later_ms: int
) -> None:
    needed_nano, most_nano = amounts
    held, free = beside_others(wallet, others, share)
    reaches_nano = held.amount_nano + max(spendable_nano(free, later_ms), 0)
    resized = rules.resize(held, free, needed_nano, most_nano, later_ms)
    assert (resized is None) == (reaches_nano < needed_nano)
    if resized is not None:
        assert resized.amount_nano == min(most_nano, reaches_nano)


@given(FREE, st.floats(0, 1), st.floats(0, 1), NANO, LATER_MS)
def test_what_a_hold_gains_is_of_what_nobody_holds_and_of_nothing_that_has_expired_since(
    wallet: Free, others: float, share: float, most_nano: int, later_ms: int
) -> None:
    held, free = beside_others(wallet, others, share)
    resized = rules.resize(held, free, 0, held.amount_nano + most_nano, later_ms)
    assert resized is not None
    gained = rules.without(resized, held)  # which raises where anything that was held is gone
    assert gained.paid_nano <= max(free.paid_nano, 0)
    assert all(part_nano <= by_grant(free)[grant_id] for grant_id, part_nano in gained.grants)
    assert {grant_id for grant_id, _ in gained.grants} <= {grant.id for grant in living(free, later_ms)}
    assert is_taken_first_to_expire_first(gained, living(free, later_ms))


@given(FREE, st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), LATER_MS)
def test_a_hold_that_becomes_smaller_keeps_of_what_it_had_what_expires_first(
    wallet: Free, others: float, share: float, kept: float, later_ms: int
) -> None:
    held, free = beside_others(wallet, others, share)
    most_nano = int(held.amount_nano * kept)
    resized = rules.resize(held, free, most_nano, most_nano, later_ms)
    assert resized is not None
    assert rules.added(resized, rules.without(held, resized)).amount_nano == held.amount_nano
    assert is_taken_first_to_expire_first(
        resized, tuple(GrantLeft(grant_id, part_nano) for grant_id, part_nano in held.grants)
    )


@given(FREE, st.floats(0, 1), st.lists(NEEDED_AND_MOST, max_size=6))
def test_whatever_sizes_a_hold_has_one_after_the_other_it_is_never_more_than_nobody_else_holds(
    wallet: Free, others: float, sizes: list[list[int]]
) -> None:
    of_others, held = held_of(wallet, others), NOTHING
    for needed_nano, most_nano in sizes:
        free = rules.less(rules.less(wallet, of_others), held)
        held = rules.resize(held, free, needed_nano, most_nano, NOW_MS) or held
    left = rules.less(wallet, held)
    assert left.paid_nano - of_others.paid_nano >= min(wallet.paid_nano - of_others.paid_nano, 0)
    assert all(part_nano <= by_grant(left).get(grant_id, 0) for grant_id, part_nano in of_others.grants)


@given(st.integers(1, 200), st.integers(0, 200), SIGNED)
def test_a_hold_that_has_what_is_needed_stays_though_its_wallet_is_below_nothing(
    held_nano: int, most_nano: int, paid_nano: int
) -> None:
    free = Free(min(paid_nano, 0))
    assert rules.resize(Amount(held_nano), free, held_nano, held_nano + most_nano, NOW_MS) == Amount(held_nano)
    assert rules.resize(Amount(held_nano), free, held_nano + 1, held_nano + 1 + most_nano, NOW_MS) is None


# What a request is charged


@given(FREE, st.floats(0, 1), NANO, st.booleans())
def test_the_charge_is_the_cost_as_far_as_hold_and_wallet_reach(
    wallet: Free, share: float, cost_nano: int, may_exceed: bool
) -> None:
    held = held_of(wallet, share)
    free = rules.less(wallet, held)
    beyond_nano = max(free.paid_nano, 0) + sum(grant.left_nano for grant in living(free)) if may_exceed else 0
    charged = rules.charge(held, cost_nano, free if may_exceed else None, NOW_MS)
    assert charged.amount_nano == min(cost_nano, held.amount_nano + beyond_nano)


@given(FREE, st.floats(0, 1), NANO)
def test_a_charge_and_what_comes_back_are_what_was_held(wallet: Free, share: float, cost_nano: int) -> None:
    held = held_of(wallet, share)
    charged = rules.charge(held, cost_nano, None, NOW_MS)
    back = rules.without(held, charged)
    assert rules.added(charged, back).amount_nano == held.amount_nano
    assert charged.paid_nano + back.paid_nano == held.paid_nano
    assert is_taken_first_to_expire_first(
        charged, tuple(GrantLeft(grant_id, part_nano) for grant_id, part_nano in held.grants)
    )


@given(FREE, st.floats(0, 1), st.floats(0, 1), NANO)
def test_an_excess_is_never_of_what_others_hold_nor_of_what_expired_nor_brings_paid_money_below_nothing(
    wallet: Free, others: float, share: float, cost_nano: int
) -> None:
    of_others = held_of(wallet, others)
    mine = held_of(rules.less(wallet, of_others), share)
    free = rules.less(rules.less(wallet, of_others), mine)
    charged = rules.charge(mine, cost_nano, free, NOW_MS)
    left = rules.less(wallet, charged)
    has = by_grant(left)
    assert all(part_nano <= has.get(grant_id, 0) for grant_id, part_nano in of_others.grants)
    assert left.paid_nano - of_others.paid_nano >= min(free.paid_nano, 0)
    mine_expired = dict(mine.grants)
    for grant_id, part_nano in charged.grants:
        if grant_id not in {grant.id for grant in living(wallet)}:
            assert part_nano <= mine_expired.get(grant_id, 0)


@given(NANO, NANO)
def test_a_hold_of_a_grant_that_has_expired_since_pays_for_its_request(left_nano: int, cost_nano: int) -> None:
    held = Amount(5, ((1, left_nano),)) if left_nano else Amount(5)
    charged = rules.charge(held, cost_nano, None, NOW_MS)
    assert charged.granted_nano == min(cost_nano, left_nano)
    assert charged.amount_nano == min(cost_nano, left_nano + 5)


def test_an_excess_adds_to_what_was_held_of_the_same_grant() -> None:
    lasting = GrantLeft(7, 10)
    charged = rules.charge(Amount(0, ((7, 3),)), 8, Free(4, (lasting,)), NOW_MS)
    assert charged == Amount(0, ((7, 8),))
    charged = rules.charge(Amount(2, ((7, 3),)), 20, Free(4, (lasting,)), NOW_MS)
    assert charged == Amount(2 + 4, ((7, 13),))


def test_an_excess_of_a_wallet_below_nothing_takes_no_paid_money() -> None:
    assert rules.charge(Amount(10), 15, Free(-3), NOW_MS) == Amount(10)
    assert rules.charge(Amount(10), 15, Free(-3, (GrantLeft(1, 2),)), NOW_MS) == Amount(10, ((1, 2),))


# What expires


@given(FREE, st.floats(0, 1))
def test_what_is_left_and_not_held_of_what_expired_is_taken_back_and_nothing_else(wallet: Free, share: float) -> None:
    later_ms = NOW_MS + 2
    held = held_of(wallet, share)  # of some that live now and will not by then
    free = rules.less(wallet, held)
    taken = rules.expired(free, later_ms)
    assert taken.paid_nano == 0
    ended = {grant.id for grant in wallet.grants if grant.expires_at_ms is not None and grant.expires_at_ms <= later_ms}
    drawn = dict(held.grants)
    for grant in wallet.grants:
        expected_nano = grant.left_nano - drawn.get(grant.id, 0) if grant.id in ended else 0
        assert dict(taken.grants).get(grant.id, 0) == expected_nano
    assert rules.expired(rules.less(free, taken), later_ms) == NOTHING


@given(FREE)
def test_what_expired_is_what_no_hold_may_take(free: Free) -> None:
    ended = {grant_id for grant_id, _ in rules.expired(free, NOW_MS).grants}
    assert ended == by_grant(free).keys() - {grant.id for grant in living(free)}


# Sums


PARTS = st.builds(
    Amount, NANO, st.dictionaries(st.integers(0, 4), st.integers(1, 100)).map(lambda grants: tuple(grants.items()))
)


@given(PARTS, PARTS)
def test_what_several_hold_is_their_sum_and_without_one_of_them_the_other(one: Amount, other: Amount) -> None:
    both = rules.added(one, other)
    assert both.amount_nano == one.amount_nano + other.amount_nano
    assert both.paid_nano == one.paid_nano + other.paid_nano
    left = rules.without(both, other)
    assert (left.paid_nano, dict(left.grants)) == (one.paid_nano, dict(one.grants))
    assert rules.without(left, one) == NOTHING


@given(PARTS, PARTS)
def test_more_than_was_held_is_never_given_back(held: Amount, ended: Amount) -> None:
    has = dict(held.grants)
    assume(ended.paid_nano > held.paid_nano or any(nano > has.get(grant_id, 0) for grant_id, nano in ended.grants))
    with pytest.raises(AssertionError, match="more was given back than was held"):
        rules.without(held, ended)
    with pytest.raises(AssertionError, match="more was given back than was held"):
        rules.replaced(held, ended, NOTHING)


@given(PARTS, PARTS, PARTS)
def test_one_hold_in_the_place_of_another_is_what_the_others_hold_and_it(
    others: Amount, ended: Amount, begun: Amount
) -> None:
    assert rules.replaced(rules.added(others, ended), ended, begun) == rules.added(others, begun)


@given(FREE, PARTS)
def test_a_wallet_less_what_is_held_has_the_rest_of_each_and_no_grant_without_anything(
    wallet: Free, held: Amount
) -> None:
    free = rules.less(wallet, held)
    drawn = dict(held.grants)
    assert free.paid_nano == wallet.paid_nano - held.paid_nano
    assert by_grant(free) == {
        grant_id: left_nano - drawn.get(grant_id, 0)
        for grant_id, left_nano in by_grant(wallet).items()
        if left_nano > drawn.get(grant_id, 0)
    }
    assert [grant.id for grant in free.grants] == [grant.id for grant in wallet.grants if grant.id in by_grant(free)]
