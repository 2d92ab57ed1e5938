"""The rules of money: what a request may set aside, what it is charged, what expires. Values in, values out.

Knows no clock, no store and no running request: whoever carries the rules out, in memory or in a database, decides the
same. Amounts in nano-USD.
"""

from collections.abc import Iterable
from typing import NamedTuple


class GrantLeft(NamedTuple):
    """What is left of granted credit; `expires_at_ms` is None where it lasts."""

    id: int
    left_nano: int
    expires_at_ms: int | None = None

    def lives_at(self, now_ms: int) -> bool:
        return self.expires_at_ms is None or self.expires_at_ms > now_ms


class Free(NamedTuple):
    """What nothing is held of: paid money, which may be below nothing, and grants, the first to expire first."""

    paid_nano: int
    grants: tuple[GrantLeft, ...] = ()


class Amount(NamedTuple):
    """An amount by where it comes from: paid money, and so much of which grant."""

    paid_nano: int = 0
    grants: tuple[tuple[int, int], ...] = ()

    @property
    def granted_nano(self) -> int:
        return sum([part_nano for _, part_nano in self.grants]) if self.grants else 0

    @property
    def amount_nano(self) -> int:
        return self.paid_nano + self.granted_nano if self.grants else self.paid_nano


NOTHING = Amount()
_TOO_MUCH_BACK = "more was given back than was held"


def place(free: Free, needed_nano: int, most_nano: int, now_ms: int) -> Amount | None:
    """What a hold takes: up to `most_nano`, granted credit first; None where less than `needed_nano` is free."""
    most_free_nano = spendable_nano(free, now_ms)
    if most_free_nano < needed_nano:
        return None
    return _taken(free, max(0, min(most_nano, most_free_nano)), now_ms)


def resize(held: Amount, free: Free, needed_nano: int, most_nano: int, now_ms: int) -> Amount | None:
    """What is held from now on: `most_nano`, or as much as there is; None where that is less than `needed_nano`.

    What was held already stays, also of a grant whose time is over since.
    """
    if most_nano <= held.amount_nano:
        return _first_of(held, most_nano)
    more = place(free, max(needed_nano - held.amount_nano, 0), most_nano - held.amount_nano, now_ms)
    if more is not None:
        return added(held, more)
    return held if needed_nano <= held.amount_nano else None  # as where money was taken back from outside


def charge(held: Amount, cost_nano: int, free: Free | None, now_ms: int) -> Amount:
    """What a request is charged of what it held, granted credit first, and beyond that of what is `free`, if it may.

    Never what others hold, and no paid money below nothing.
    """
    held_nano = held.amount_nano
    within = _first_of(held, min(cost_nano, held_nano))
    excess_nano = cost_nano - held_nano
    if excess_nano <= 0 or free is None:
        return within
    most_free_nano = max(free.paid_nano, 0) + granted_nano(free, now_ms)
    return added(within, _taken(free, min(excess_nano, most_free_nano), now_ms))


def granted_nano(free: Free, now_ms: int) -> int:
    """What is free of grants that live."""
    return sum([grant.left_nano for grant in free.grants if grant.lives_at(now_ms)]) if free.grants else 0


def living(free: Free, now_ms: int) -> tuple[GrantLeft, ...]:
    """The grants of which that is, with something left, the first to expire first."""
    return tuple([grant for grant in free.grants if grant.lives_at(now_ms) and grant.left_nano])


def spendable_nano(free: Free, now_ms: int) -> int:
    """What is free in all; paid money below nothing counts against grants."""
    return free.paid_nano + granted_nano(free, now_ms)


def outliving(free: Free, until_ms: int) -> Free:
    """What is free of paid money, and of grants that live until then."""
    return Free(free.paid_nano, tuple([grant for grant in free.grants if grant.lives_at(until_ms)]))


def of_pocket(wallet: Free, left: Amount, held: Amount, held_in_all: Amount) -> Free:
    """What is free of the part of a wallet that was set aside, of which `left` is left and so much is held.

    Of paid money no more than the whole wallet has beside what is held, as after some was taken back from outside.
    """
    parts = dict(left.grants)
    grants = tuple([grant._replace(left_nano=parts[grant.id]) for grant in wallet.grants if grant.id in parts])
    free = less(Free(left.paid_nano, grants), held)
    return free._replace(paid_nano=min(free.paid_nano, wallet.paid_nano - held_in_all.paid_nano))


def expired(free: Free, now_ms: int) -> Amount:
    """What is left, and not held, of grants whose time is over."""
    return Amount(grants=tuple((one.id, one.left_nano) for one in free.grants if not one.lives_at(now_ms)))


def added(one: Amount, other: Amount) -> Amount:
    """Both together, each grant once."""
    if not other.grants:
        return Amount(one.paid_nano + other.paid_nano, one.grants)
    grants = dict(one.grants)
    for grant_id, part_nano in other.grants:
        grants[grant_id] = grants.get(grant_id, 0) + part_nano
    return Amount(one.paid_nano + other.paid_nano, tuple(grants.items()))


def less(wallet: Free, held: Amount) -> Free:
    """A wallet less what is held of it."""
    if not wallet.grants:
        return Free(wallet.paid_nano - held.paid_nano)
    drawn = dict(held.grants)
    left = (grant._replace(left_nano=grant.left_nano - drawn.get(grant.id, 0)) for grant in wallet.grants)
    return Free(wallet.paid_nano - held.paid_nano, tuple(grant for grant in left if grant.left_nano > 0))


def without(held: Amount, ended: Amount) -> Amount:
    """What several hold together, without one of them. Raises AssertionError where that would be less than nothing."""
    paid_nano, grants = held.paid_nano - ended.paid_nano, held.grants
    if ended.grants:
        left = dict(grants)
        for grant_id, part_nano in ended.grants:
            left[grant_id] = left.get(grant_id, 0) - part_nano
        grants = tuple((grant_id, part_nano) for grant_id, part_nano in left.items() if part_nano)
    assert paid_nano >= 0, _TOO_MUCH_BACK
    assert not grants or min(part_nano for _, part_nano in grants) >= 0, _TOO_MUCH_BACK
    return Amount(paid_nano, grants)


def replaced(held: Amount, ended: Amount, begun: Amount) -> Amount:
    """What several hold together, once one of them holds this in the place of that. Raises as `without`."""
    if held.grants or ended.grants or begun.grants:
        return added(without(held, ended), begun)
    left_nano = held.paid_nano - ended.paid_nano
    assert left_nano >= 0, _TOO_MUCH_BACK
    return Amount(left_nano + begun.paid_nano)


def _taken(free: Free, amount_nano: int, now_ms: int) -> Amount:
    """So much of what is free, grants that live in their order, and the rest as paid money."""
    if not free.grants:
        return Amount(amount_nano)
    return _first_parts(((one.id, one.left_nano) for one in free.grants if one.lives_at(now_ms)), amount_nano)


def _first_parts(grants: Iterable[tuple[int, int]], amount_nano: int) -> Amount:
    """So much of these parts of grants, in their order, and the rest as paid money."""
    parts = []
    for grant_id, most_nano in grants:
        if not amount_nano:
            break
        part_nano = min(most_nano, amount_nano)
        parts.append((grant_id, part_nano))
        amount_nano -= part_nano
    return Amount(amount_nano, tuple(parts))


def _first_of(parts: Amount, amount_nano: int) -> Amount:
    return _first_parts(parts.grants, amount_nano) if parts.grants else Amount(amount_nano)
